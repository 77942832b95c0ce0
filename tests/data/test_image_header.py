"""Headers of image files: size, orientation and pixel type, compared with Pillow and with numbers by hand."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, TiffImagePlugin

from backbones.errors import BadInput
from data.images import orientation, read_frames, read_header, read_image, read_values, upright

# Two rows of three pixels; each letter is one pixel.
STORED = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
UPRIGHT = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}
NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
KINDS = {"JPEG": {}, "PNG": {}, "WEBP": {"lossless": True}, "TIFF": {"compression": "tiff_deflate"}, "AVIF": {}}


def tagged(kind: str, tag: int, pixels: np.ndarray = NOISE) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = tag
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, exif=exif, **KINDS[kind])
    return stream.getvalue()


@pytest.mark.parametrize("tag", UPRIGHT)
def test_upright_by_hand(tag: int) -> None:
    for dtype in (np.uint8, np.uint16, np.float32):
        np.testing.assert_array_equal(upright(STORED.astype(dtype), tag), UPRIGHT[tag])
    colour = np.repeat(STORED[..., None], 3, axis=2)
    np.testing.assert_array_equal(upright(colour, tag), np.repeat(np.array(UPRIGHT[tag])[..., None], 3, axis=2))


@pytest.mark.parametrize("tag", [0, 9, -1, 6000])
def test_other_tags_leave_the_image(tag: int) -> None:
    assert upright(STORED, tag) is STORED


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_turned_as_pillow_turns_it(kind: str, tag: int, tmp_path: Path) -> None:
    if kind == "AVIF" and "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow has no AVIF")
    content = tagged(kind, tag)
    path = tmp_path / "photo"
    path.write_bytes(content)
    header = read_header(path)
    assert header == read_header(content)
    assert (header.width, header.height, header.orientation, header.bits, header.kind) == (40, 24, tag, 8, kind)
    assert orientation(content) == tag
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(read_image(path, exif=True), expected)
    assert read_image(path).shape == (24, 40, 3)
    np.testing.assert_array_equal(upright(read_image(path), tag), expected)
    (frame,) = read_frames(path, exif=True)
    np.testing.assert_array_equal(frame, expected)


def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
    return struct.pack(">HHI", tag, kind, count) + value.ljust(4, b"\0")


def exif_block(*entries: bytes) -> bytes:
    return b"MM\0*" + struct.pack(">IH", 8, len(entries)) + b"".join(entries) + b"\0\0\0\0"


def jpeg_with(block: bytes) -> bytes:
    plain = tagged("JPEG", 1)
    app1 = plain.index(b"\xff\xe1")
    (length,) = struct.unpack_from(">H", plain, app1 + 2)
    body = b"Exif\0\0" + block
    return plain[:app1] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[app1 + 2 + length :]


def test_a_tag_by_hand() -> None:
    assert orientation(jpeg_with(exif_block(entry(0x0112, 3, 1, b"\0\6")))) == 6


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"MM",
        b"MM\0*\xff\xff\xff\xff",
        b"neither order nor offset",
        exif_block(),
        exif_block(entry(0x0112, 3, 1, b"\0\0")),
        exif_block(entry(0x0112, 3, 1, b"\0\x09")),
        exif_block(entry(0x0112, 2, 2, b"6")),  # text
        exif_block(entry(0x0112, 3, 9, b"\xff\xff\xff\xff")),  # nine values beyond the end
        exif_block(entry(0x0112, 3, 1, b"\0\6"))[:12],
    ],
)
def test_a_damaged_tag_is_1(block: bytes, tmp_path: Path) -> None:
    content = jpeg_with(block)
    assert orientation(content) == 1
    (tmp_path / "photo.jpg").write_bytes(content)
    np.testing.assert_array_equal(read_image(tmp_path / "photo.jpg", exif=True), read_image(tmp_path / "photo.jpg"))


def test_an_exif_chunk_after_the_pixels() -> None:
    """ExifTool appends it to a PNG. Letters that occur in the pixels by chance are no chunk."""
    stream = io.BytesIO()
    Image.fromarray(NOISE).save(stream, "PNG")
    plain = stream.getvalue()
    body = b"eXIf" + exif_block(entry(0x0112, 3, 1, b"\0\x08"))
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    assert orientation(plain[:-12] + chunk + plain[-12:]) == 8
    assert orientation(plain[:-12] + chunk[:-1] + b"?" + plain[-12:]) == 1


def test_sixteen_bits_are_turned_as_well(tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 4096, (4, 6, 3), np.uint16)
    plain = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    body = b"eXIf" + exif_block(entry(0x0112, 3, 1, b"\0\6"))
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    path = tmp_path / "deep.png"
    path.write_bytes(plain[:33] + chunk + plain[33:])
    np.testing.assert_array_equal(read_values(path), pixels)
    expected = np.clip(np.round(pixels / 16), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(read_image(path, levels=(0, 255 * 16)), expected)
    np.testing.assert_array_equal(read_image(path, levels=(0, 255 * 16), exif=True), np.rot90(expected, -1))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[..., 0]).save(tmp_path / "deep.tif", exif=exif)
    np.testing.assert_array_equal(read_values(tmp_path / "deep.tif"), pixels[..., :1])
    turned = read_image(tmp_path / "deep.tif", levels=(0, 255 * 16), exif=True)
    np.testing.assert_array_equal(turned[..., 0], np.rot90(expected[..., 0], -1))


def test_an_orientation_in_a_big_tiff(tmp_path: Path) -> None:
    """One page with 64-bit offsets: 20 bytes for each tag."""
    tags = [(256, 3, 3), (257, 3, 2), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 3, 256), (274, 3, 8), (277, 3, 1),
            (278, 3, 2), (279, 3, 6)]  # fmt: skip
    directory = struct.pack("<Q", len(tags)) + b"".join(struct.pack("<HHQQ", tag, kind, 1, v) for tag, kind, v in tags)
    content = (b"II+\0" + struct.pack("<HHQ", 8, 0, 16) + directory + bytes(8)).ljust(256, b"\0") + STORED.tobytes()
    (tmp_path / "big.tif").write_bytes(content)
    assert read_header(tmp_path / "big.tif")[:5] == (3, 2, 8, 8, 1)
    np.testing.assert_array_equal(read_image(tmp_path / "big.tif")[..., 0], STORED)
    np.testing.assert_array_equal(read_image(tmp_path / "big.tif", exif=True)[..., 0], UPRIGHT[8])


def test_files_that_are_not_images(tmp_path: Path) -> None:
    for content in (b"", b"words", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8X", b"II*\0"):
        assert orientation(content) == 1
        (tmp_path / "no.jpg").write_bytes(content)
        with pytest.raises(BadInput, match=r"no\.jpg"):
            read_header(tmp_path / "no.jpg")
    with pytest.raises(BadInput, match=r"gone\.jpg: No such file"):
        read_header(tmp_path / "gone.jpg")


@pytest.mark.parametrize(
    ("name", "mode", "bits", "bands"),
    [
        ("a.png", "1", 1, 1), ("a.png", "L", 8, 1), ("a.png", "LA", 8, 2), ("a.png", "RGBA", 8, 4),
        ("a.png", "I;16", 16, 1), ("a.jpg", "L", 8, 1), ("a.jpg", "RGB", 8, 3), ("a.jpg", "CMYK", 8, 4),
        ("a.tif", "RGB", 8, 3), ("a.tif", "I;16", 16, 1), ("a.tif", "F", 32, 1), ("a.webp", "RGB", 8, 3),
        ("a.webp", "RGBA", 8, 4), ("a.gif", "P", 8, 1), ("a.bmp", "RGB", 8, 3), ("a.ppm", "RGB", 8, 3),
        ("a.pgm", "L", 8, 1),
    ],
)  # fmt: skip
def test_size_bits_and_bands(name: str, mode: str, bits: int, bands: int, tmp_path: Path) -> None:
    Image.new(mode, (17, 9)).save(tmp_path / name)
    header = read_header(tmp_path / name)
    assert (header.width, header.height, header.orientation, header.bits, header.bands) == (17, 9, 1, bits, bands)


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_every_kind_of_webp(mode: str, lossless: bool, tmp_path: Path) -> None:
    Image.new(mode, (301, 203), (9, 99, 199, 128)[: len(mode)]).save(tmp_path / "a.webp", lossless=lossless)
    assert read_header(tmp_path / "a.webp")[:5] == (301, 203, 1, 8, len(mode))


def test_a_header_reads_the_head_only(tmp_path: Path) -> None:
    """A JPEG of 40 KB whose pixel data are missing has a header."""
    content = tagged("JPEG", 6, np.random.default_rng(1).integers(0, 256, (200, 300, 3), np.uint8))
    start = read_header(content).start
    assert len(content) > 2 * start
    assert read_header(content[:start])[:3] == (300, 200, 6)


def test_pages_and_frames(tmp_path: Path) -> None:
    """Pages of a TIFF have a tag each; a smaller copy of a page is left out."""
    pages = [Image.fromarray(np.full((4, 6, 3), value, np.uint8)) for value in (10, 20, 30)]
    exif = Image.Exif()
    exif[0x0112] = 6
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:], exif=exif)
    assert [frame[0, 0, 0] for frame in read_frames(tmp_path / "pages.tif")] == [10, 20, 30]
    assert next(read_frames(tmp_path / "pages.tif")).shape == (4, 6, 3)
    assert next(read_frames(tmp_path / "pages.tif", exif=True)).shape == (6, 4, 3)
    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "pyramid.tif"), new=True) as file:
        for page, is_copy in zip(pages, (0, 1, 0), strict=True):
            page.save(file, "TIFF", tiffinfo={254: is_copy})
            file.newFrame()
    assert [frame[0, 0, 0] for frame in read_frames(tmp_path / "pyramid.tif")] == [10, 30]


def test_pages_with_sixteen_bits(tmp_path: Path) -> None:
    pages = [np.random.default_rng(i).integers(0, 4096, (4, 6, 3), np.uint16) for i in range(3)]
    cv2.imwritemulti(str(tmp_path / "colour.tif"), [page[..., ::-1] for page in pages])
    gray = [Image.fromarray(page[..., 0]) for page in pages]
    gray[0].save(tmp_path / "gray.tif", save_all=True, append_images=gray[1:])
    for name, channels in (("colour.tif", 3), ("gray.tif", 1)):
        found = list(read_frames(tmp_path / name, levels=(0, 255 * 16)))
        assert len(found) == 3
        for frame, page in zip(found, pages, strict=True):
            expected = np.clip(np.round(page[..., :channels] / 16), 0, 255)
            np.testing.assert_array_equal(frame, np.repeat(expected, 3 // channels, axis=2))


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp", "moving.png"])
def test_frames_of_an_animation_are_complete(name: str, tmp_path: Path) -> None:
    """GIF stores only what changes. One pixel changes here, and each frame has all pixels."""
    frames = []
    for i in range(3):
        pixels = np.full((8, 8, 3), 200, np.uint8)
        pixels[i, i] = 0
        frames.append(Image.fromarray(pixels))
    options = {"lossless": True} if name.endswith("webp") else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=50, **options)
    found = list(read_frames(tmp_path / name))
    assert len(found) == 3
    for frame, original in zip(found, frames, strict=True):
        np.testing.assert_allclose(frame, np.asarray(original), atol=2)
    np.testing.assert_array_equal(found[0], read_image(tmp_path / name))


def test_a_truncated_animation_returns_the_frames_before_the_error(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 40), np.uint8)) for i in range(4)]
    frames[0].save(tmp_path / "whole.gif", save_all=True, append_images=frames[1:])
    content = (tmp_path / "whole.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(content[: len(content) * 5 // 8])
    found: list[np.ndarray] = []
    with pytest.raises(BadInput, match=r"cut\.gif"):
        found.extend(read_frames(tmp_path / "cut.gif"))
    assert 1 <= len(found) < 4
