"""Mask files of every kind: the stored values are read, or one message names the file and the cause."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from backbones.errors import BadInput
from data.mask_files import MaskContent, counts, read_mask
from tests.data.mask_sets import save

VALUES = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [0, 0, 3, 3]], np.uint8)


def png(bits, color_type, rows, width=4):
    """A PNG with these rows of bytes, which Pillow cannot write for every bit depth."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, color_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif", ".tiff", ".gif", ".pgm"])
def test_gray_values(suffix, tmp_path):
    save(tmp_path / f"lower{suffix.lower()}", VALUES).rename(tmp_path / f"a{suffix}")
    stored = read_mask(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(stored.values, VALUES)
    assert stored.palette is None
    assert stored.lossy is None
    assert stored.shape == (3, 4)


@pytest.mark.parametrize("bits", [2, 4])
def test_gray_values_of_few_bits_are_not_scaled(bits, tmp_path):
    packed = [sum(int(v) << (8 - bits * (i + 1)) for i, v in enumerate(row[: 8 // bits])) for row in VALUES]
    (tmp_path / "a.png").write_bytes(png(bits, 0, [bytes([byte]) for byte in packed], width=8 // bits))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png").values, VALUES[:, : 8 // bits])


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".pbm"])
def test_1_bit_files(suffix, tmp_path):
    stored = read_mask(save(tmp_path / f"a{suffix}", Image.fromarray(VALUES > 1)))
    np.testing.assert_array_equal(stored.values, VALUES > 1)
    assert stored.bits == 1


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".gif"])
def test_palettes_keep_their_indices(suffix, tmp_path):
    image = Image.fromarray(VALUES)
    image.putpalette([9, 0, 0, 0, 9, 0, 0, 0, 9, 7, 7, 0] + [1] * 756)
    stored = read_mask(save(tmp_path / f"a{suffix}", image))
    np.testing.assert_array_equal(stored.values, VALUES)
    assert stored.palette is not None
    assert stored.palette[:4].tolist() == [[9, 0, 0], [0, 9, 0], [0, 0, 9], [7, 7, 0]]


@pytest.mark.parametrize(
    ("suffix", "dtype"), [(".png", np.uint16), (".tif", np.uint16), (".tif", np.int32), (".tif", np.float32)]
)
def test_more_than_8_bits(suffix, dtype, tmp_path):
    stored = read_mask(save(tmp_path / f"a{suffix}", VALUES.astype(dtype) * 300))
    assert stored.values is not None
    assert stored.values.dtype == np.uint16
    np.testing.assert_array_equal(stored.values, VALUES.astype(int) * 300)


@pytest.mark.parametrize("value", [-1, 65536, 0.5, float("nan")])
def test_values_that_are_no_mask_values(value, tmp_path):
    pixels = VALUES.astype(np.float32 if isinstance(value, float) else np.int32)
    pixels[0, 0] = value
    with pytest.raises(BadInput, match=r"a\.tif has 1 pixels with other values than whole numbers"):
        read_mask(save(tmp_path / "a.tif", pixels))


def test_colours_and_gray_colours(tmp_path):
    colors = np.stack([VALUES, VALUES, VALUES], axis=2)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "gray.png", colors)).values, VALUES)
    colors[0, 0] = 1, 2, 3
    stored = read_mask(save(tmp_path / "color.png", colors))
    np.testing.assert_array_equal(stored.colors, colors)
    assert MaskContent.of(stored).colors == {0x010203: 1, 0: 3, 0x010101: 2, 0x020202: 2, 0x030303: 4}


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha(mode, tmp_path):
    """Alpha is dropped. It is refused if pixels of one value differ in alpha only."""
    image = Image.fromarray(VALUES).convert(mode)
    image.putalpha(Image.fromarray((VALUES > 0).astype(np.uint8) * 255))
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", image)).values, VALUES)
    image.putalpha(Image.fromarray(np.eye(3, 4, dtype=np.uint8) * 255))
    with pytest.raises(BadInput, match=r"a\.png has transparent and opaque pixels of the same value"):
        read_mask(save(tmp_path / "a.png", image))
    image.putalpha(0)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", image)).values, VALUES)


def test_lossy_formats_are_named(tmp_path):
    assert read_mask(save(tmp_path / "a.jpg", VALUES)).lossy == "JPEG"
    assert read_mask(save(tmp_path / "a.webp", VALUES)).lossy == "WebP"
    stored = read_mask(save(tmp_path / "b.webp", VALUES, lossless=True))
    assert stored.lossy is None
    np.testing.assert_array_equal(stored.values, VALUES)
    extended = save(tmp_path / "c.webp", VALUES, lossless=True, xmp=b"<x/>")
    assert b"VP8X" in extended.read_bytes()
    assert read_mask(extended).lossy is None


def test_refused_kinds(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.repeat(VALUES[..., None], 3, axis=2).astype(np.uint16))
    with pytest.raises(BadInput, match=r"a\.png has 16-bit colours"):
        read_mask(tmp_path / "a.png")
    with pytest.raises(BadInput, match=r"b\.tif has pixels of mode CMYK"):
        read_mask(save(tmp_path / "b.tif", Image.new("CMYK", (4, 3))))
    second = {"save_all": True, "append_images": [Image.fromarray(VALUES[::-1].copy())]}
    with pytest.raises(BadInput, match=r"c\.tif has 2 pages"):
        read_mask(save(tmp_path / "c.tif", VALUES, **second))
    with pytest.raises(BadInput, match=r"d\.gif has 2 pages or frames"):
        read_mask(save(tmp_path / "d.gif", VALUES, **second))


@pytest.mark.case("R11")
def test_damaged_files(tmp_path):
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 3, (50, 50), np.uint8)).save(content, "PNG")
    file = tmp_path / "a.png"
    file.write_bytes(content.getvalue()[:-200])
    with pytest.raises(BadInput, match=r"cannot decode mask .*a\.png"):
        read_mask(file)
    file.write_bytes(b"")
    with pytest.raises(BadInput, match=r"a\.png is empty"):
        read_mask(file)
    file.write_bytes(b"text")
    with pytest.raises(BadInput, match=r"cannot decode mask .*a\.png \(4 bytes\): cannot identify image file$"):
        read_mask(file)
    with pytest.raises(BadInput, match=r"cannot read mask .*gone\.png"):
        read_mask(tmp_path / "gone.png")


def test_orientation_of_the_tag_is_not_applied(tmp_path):
    """Pillow turns a TIFF by its tag. A mask is read as it is stored, as its image is."""
    exif = Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.tif", VALUES, exif=exif)).values, VALUES)


def test_counts():
    random = np.random.default_rng(0)
    for shape in ((0, 3), (1, 1), (40, 50)):
        pixels = random.integers(0, 5, shape).astype(np.uint8)
        values, expected = np.unique(pixels, return_counts=True)
        assert counts(pixels) == dict(zip(values.tolist(), expected.tolist(), strict=True))
