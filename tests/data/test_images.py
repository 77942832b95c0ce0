"""Unusual image files: each is read as (H, W, 3) uint8, or raises one error with its name."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from backbones.errors import BadInput
from data.images import MAX_PIXELS, is_plain, read_header, read_image, read_values

HEIGHT, WIDTH = 24, 40
SMOOTH = np.stack(
    np.broadcast_arrays(
        np.linspace(0, 255, WIDTH)[None, :], np.linspace(255, 0, HEIGHT)[:, None], np.full((HEIGHT, WIDTH), 90.0)
    ),
    axis=-1,
).astype(np.uint8)
PICTURE = Image.fromarray(SMOOTH)
ROTATED = Image.Exif()
ROTATED[0x0112] = 6


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def with_alpha() -> Image.Image:
    image = PICTURE.convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(np.arange(WIDTH, dtype=np.uint8) * 6, (HEIGHT, 1))))
    return image


SIXTEEN = (np.arange(HEIGHT * WIDTH, dtype=np.uint16) * 60).reshape(HEIGHT, WIDTH)
GRAY = np.repeat(SMOOTH[..., :1], 3, axis=2)
PALETTE = PICTURE.quantize(16)

UNUSUAL = {
    "rgb.png": (encoded(PICTURE, "PNG"), SMOOTH, 0),
    "rgb.jpg": (encoded(PICTURE, "JPEG", quality=95), SMOOTH, 8),
    "progressive.jpg": (encoded(PICTURE, "JPEG", quality=95, progressive=True), SMOOTH, 8),
    "gray.png": (encoded(Image.fromarray(SMOOTH[..., 0]), "PNG"), GRAY, 0),
    "gray.jpg": (encoded(Image.fromarray(SMOOTH[..., 0]), "JPEG", quality=95), GRAY, 4),
    "gray_alpha.png": (encoded(Image.fromarray(SMOOTH[..., 0]).convert("LA"), "PNG"), GRAY, 0),
    "cmyk.jpg": (encoded(PICTURE.convert("CMYK"), "JPEG", quality=95), SMOOTH, 8),
    "rgba.png": (encoded(with_alpha(), "PNG"), SMOOTH, 0),
    "palette.png": (encoded(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB")), 0),
    "palette_alpha.png": (
        encoded(PALETTE, "PNG", transparency=bytes(range(0, 160, 10))),
        np.asarray(PALETTE.convert("RGB")),
        0,
    ),
    "one_bit.png": (encoded(PICTURE.convert("1"), "PNG"), np.asarray(PICTURE.convert("1").convert("RGB")), 0),
    "sixteen.png": (encoded(Image.fromarray(SIXTEEN), "PNG"), np.repeat(SIXTEEN[..., None] >> 8, 3, axis=2), 0),
    "rotated.jpg": (encoded(PICTURE, "JPEG", quality=95, exif=ROTATED), SMOOTH, 8),
    "rotated.png": (encoded(PICTURE, "PNG", exif=ROTATED), SMOOTH, 0),
    "rotated_cmyk.jpg": (encoded(PICTURE.convert("CMYK"), "JPEG", quality=95, exif=ROTATED), SMOOTH, 8),
    "a_png.jpg": (encoded(PICTURE, "PNG"), SMOOTH, 0),
    "trailing.jpg": (encoded(PICTURE, "JPEG", quality=95) + b"appended by a camera", SMOOTH, 8),
    "lossless.webp": (encoded(PICTURE, "WEBP", lossless=True), SMOOTH, 0),
    "plain.bmp": (encoded(PICTURE, "BMP"), SMOOTH, 0),
    "plain.tif": (encoded(PICTURE, "TIFF"), SMOOTH, 0),
    "unknown_suffix": (encoded(PICTURE, "PNG"), SMOOTH, 0),
}


@pytest.mark.case("R10")
@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_files_become_rgb(name: str, tmp_path: Path) -> None:
    content, expected, tolerance = UNUSUAL[name]
    (tmp_path / name).write_bytes(content)
    image = read_image(tmp_path / name)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    assert np.abs(image.astype(int) - expected.astype(int)).max() <= tolerance


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


@pytest.mark.case("R10")
def test_sixteen_bit_rgb_keeps_the_high_byte(tmp_path: Path) -> None:
    pixels = np.array([[[0x1234, 0xABCD, 0xFFFF], [0x0000, 0x00FF, 0x0100]]], ">u2")
    (tmp_path / "rgb16.png").write_bytes(png(2, 1, 16, 2, b"\0" + pixels.tobytes()))
    np.testing.assert_array_equal(read_image(tmp_path / "rgb16.png"), pixels >> 8)


@pytest.mark.case("R11")
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "progressive"])
def test_truncated_files_are_named(kind: str, keep: float, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    content = encoded(noise, "JPEG", progressive=True) if kind == "progressive" else encoded(noise, kind)
    path = tmp_path / "cut.img"
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(BadInput, match=r"cut\.img"):
        read_image(path)


def test_the_end_marker_of_a_thumbnail_does_not_hide_truncation(tmp_path: Path) -> None:
    photo = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")
    thumbnail = b"Exif\0\0" + encoded(PICTURE, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo[:2] + segment + photo[2:])
    assert read_image(path).shape == (64, 64, 3)
    path.write_bytes((photo[:2] + segment + photo[2:])[:-1000])
    content = path.read_bytes()  # tested directly: OpenCV 5 detects this, too; older versions fill with gray
    assert read_header(content)[:2] == (64, 64)
    assert not is_plain(content, read_header(content))
    with pytest.raises(BadInput, match=r"photo\.jpg"):
        read_image(path)


def test_corrupt_png_is_refused(tmp_path: Path) -> None:
    content = bytearray(encoded(PICTURE, "PNG"))
    content[len(content) // 2] ^= 0x5A
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(BadInput, match=r"bad\.png"):
        read_image(tmp_path / "bad.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"just words", "cannot decode"),
        (b"\xff\xd8\xff\xd8" * 9, "decode"),
        (b"%!PS-Adobe-3.0", "decode"),
    ],
)
def test_files_that_are_not_images(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        read_image(tmp_path / "no.jpg")
    assert "no.jpg" in str(caught.value)


@pytest.mark.case("R11")
def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"gone\.jpg: No such file"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(BadInput, match="directory"):
        read_image(tmp_path)


def test_pixels_without_a_defined_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 1 << 20, np.int32)).save(tmp_path / "wide.tif")
    for name in ("float.tif", "wide.tif"):
        with pytest.raises(BadInput, match="range is undefined"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}])
def test_a_rotated_tiff_is_read_as_stored(options: dict[str, str], tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "rotated.tif", exif=ROTATED, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "rotated.tif"), SMOOTH)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("extra", [None, 0, 1, 2])
def test_the_fourth_band_of_a_tiff_is_not_alpha(bits: int, extra: int | None, tmp_path: Path) -> None:
    """Unspecified, premultiplied and plain alpha: the first three bands are returned as stored."""
    bands = np.random.default_rng(1).integers(0, 256, (5, 7, 4), np.uint8)
    bands[0, 0, 3] = 0
    values = bands.astype("<u2") * 257 if bits == 16 else bands
    (tmp_path / "four.tif").write_bytes(tiff(values, extra))
    np.testing.assert_array_equal(read_image(tmp_path / "four.tif"), bands[..., :3])


def tiff(values: np.ndarray, extra: int | None) -> bytes:
    """An uncompressed RGB TIFF of (H, W, 4) values, whose fourth band is declared as `extra`."""
    height, width, bands = values.shape
    depths = 8 * values.itemsize
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, bands, 8 + 2 + 11 * 12 + 4), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 200), (277, 3, 1, bands), (278, 4, 1, height), (279, 4, 1, values.nbytes), (284, 3, 1, 1),
        *([(338, 3, 1, extra)] if extra is not None else []),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    start = b"II*\0" + struct.pack("<I", 8) + directory + b"\0\0\0\0"
    start = start.ljust(8 + 2 + 11 * 12 + 4, b"\0") + struct.pack("<4H", *[depths] * 4)
    return start.ljust(200, b"\0") + values.tobytes()


TWELVE = (np.arange(HEIGHT * WIDTH, dtype=np.uint16) * 4).reshape(HEIGHT, WIDTH)  # 0 to 3836


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_levels_use_the_range_of_the_values(name: str, tmp_path: Path) -> None:
    if name.endswith("pgm"):
        (tmp_path / name).write_bytes(b"P5 40 24 65535\n" + TWELVE.astype(">u2").tobytes())
    else:
        Image.fromarray(TWELVE).save(tmp_path / name)
    assert len(np.unique(read_image(tmp_path / name))) == 15  # high bytes 0 to 14
    values = read_values(tmp_path / name)
    assert values.dtype == np.uint16
    np.testing.assert_array_equal(values, TWELVE[..., None])
    image = read_image(tmp_path / name, levels=(0, 3836))
    assert image.dtype == np.uint8
    assert len(np.unique(image)) == 256
    np.testing.assert_array_equal(image, np.repeat(np.round(TWELVE / 3836 * 255)[..., None], 3, axis=2))
    clipped = read_image(tmp_path / name, levels=(400, 2440))  # 8 stored values for each of 255 steps
    assert clipped[0, 0].tolist() == [0, 0, 0]
    assert clipped[-1, -1].tolist() == [255, 255, 255]
    assert clipped.reshape(-1, 3)[1408 // 4].tolist() == [126, 126, 126]


@pytest.mark.parametrize("name", ["colour.png", "colour.tif"])
def test_levels_of_sixteen_bit_colour(name: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 4096, (6, 5, 3), np.uint16)
    cv2.imwrite(str(tmp_path / name), pixels[..., ::-1])
    np.testing.assert_array_equal(read_values(tmp_path / name), pixels)
    np.testing.assert_array_equal(
        read_image(tmp_path / name, levels=(0, 255 * 16)), np.clip(np.round(pixels / 16), 0, 255)
    )


def test_levels_leave_eight_bits_unchanged(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "plain.png")
    np.testing.assert_array_equal(read_image(tmp_path / "plain.png", levels=(10, 20)), SMOOTH)
    np.testing.assert_array_equal(read_values(tmp_path / "plain.png"), SMOOTH)


def test_levels_define_the_range_of_floats(tmp_path: Path) -> None:
    Image.fromarray(np.array([[-1.0, 0.0, 0.5, 2.0, np.nan]], np.float32)).save(tmp_path / "float.tif")
    assert read_image(tmp_path / "float.tif", levels=(0, 1))[0, :, 0].tolist() == [0, 0, 128, 255, 0]


def bombs() -> dict[str, bytes]:
    side = 20_000  # 400 megapixels, 1.2 GB as RGB
    bmp = bytearray(encoded(PICTURE, "BMP"))
    struct.pack_into("<ii", bmp, 18, side, side)
    jpeg = bytearray(encoded(PICTURE, "JPEG"))
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, side, side)
    compressor = zlib.compressobj(9)
    rows = b"".join(compressor.compress(b"\0" * 1_000_000) for _ in range(50)) + compressor.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    real = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return {"bmp": bytes(bmp), "jpeg": bytes(jpeg), "png": png(side, side, 8, 2, b""), "png_one_bit": real}


# Peak memory is measured in a new process: in this one, an earlier peak would hide an increase.
PROBE = """
import re, sys
from backbones.errors import BadInput
from data.images import read_image

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

before = peak()
for path in sys.argv[1:]:
    try:
        print(read_image(path).shape)
    except BadInput as error:
        print(peak() - before, error)
"""


@pytest.mark.case("R12")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory through /proc")
def test_decompression_bombs_are_refused_by_their_header(tmp_path: Path) -> None:
    for kind, content in bombs().items():
        (tmp_path / kind).write_bytes(content)
    paths = sorted(map(str, tmp_path.iterdir()))
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *paths], capture_output=True, text=True, check=True, timeout=60, cwd=root
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths) == 4
    for path, line in zip(paths, lines, strict=True):
        increase, message = line.split(" ", 1)
        assert path in message
        assert "20000 x 20000" in message or "400000000 pixels" in message
        assert float(increase) < 100, message  # MiB


def test_the_limit_is_an_argument(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "small.png")
    PICTURE.save(tmp_path / "small.bmp")
    for name in ("small.png", "small.bmp"):
        with pytest.raises(BadInput, match="megapixels"):
            read_image(tmp_path / name, max_pixels=HEIGHT * WIDTH - 1)
        assert read_image(tmp_path / name, max_pixels=HEIGHT * WIDTH).shape == (HEIGHT, WIDTH, 3)
    assert MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS
