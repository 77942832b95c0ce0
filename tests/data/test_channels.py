"""Images of 1 to 16 channels: files of every kind, with all their bits, and the statistics of the training images."""

import contextlib
import io
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from backbones.errors import BadInput, UserError, with_flags
from data import tiff
from data.augment import Augmentation
from data.bands import decode_bands, displayable
from data.batch import IGNORE, Sample, collate, normalise
from data.channels import Channels, measured
from data.class_dataset import ClassDataset
from data.image_header import read_header
from data.transforms import ScaleJitterCrop, Transform
from engine.config import EvalData, TrainData

DRAW = np.random.default_rng(0)
BANDS = DRAW.integers(0, 65536, (37, 53, 4), dtype=np.uint16)


def tif(pixels: np.ndarray, **options: Any) -> bytes:
    content = io.BytesIO()
    tifffile.imwrite(content, pixels, **options)
    return content.getvalue()


def by_pillow(image: Image.Image, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    image.save(content, kind)
    return content.getvalue()


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (BANDS, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
        (BANDS, {"photometric": "minisblack", "planarconfig": "contig"}),
        (BANDS, {"photometric": "rgb", "tile": (16, 16), "compression": "zlib", "predictor": True}),
        (BANDS, {"photometric": "rgb", "bigtiff": True, "byteorder": ">"}),
        (np.moveaxis(BANDS, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}),
        (np.moveaxis(BANDS, 2, 0), {"photometric": "minisblack"}),  # a page for each band
    ],
)
def test_bands_have_one_order_however_they_are_stored(pixels: np.ndarray, options: dict[str, Any]) -> None:
    content = tif(pixels, **options)
    np.testing.assert_array_equal(decode_bands(content, "a.tif", 4), BANDS)
    np.testing.assert_array_equal(decode_bands(content, "a.tif", 3, (4, 1, 2)), BANDS[..., [3, 0, 1]])
    header = read_header(content)
    assert (header.width, header.height, header.bits, header.kind) == (53, 37, 16, "TIFF")


def test_types_keep_their_values() -> None:
    heights = DRAW.normal(0, 300, (20, 30, 1))
    for stored, expected in (
        (heights.astype(np.float32), np.float32),
        (heights.astype(np.int16), np.float32),
        (heights.clip(0).astype(np.uint16), np.uint16),
        (heights.clip(0, 255).astype(np.uint8), np.uint8),
    ):
        read = decode_bands(tif(stored, photometric="minisblack"), "a.tif", 1)
        assert read.dtype == expected
        np.testing.assert_array_equal(read, stored)
    no_value = np.full((4, 5), -9999, np.int16)
    no_value[1] = 7
    read = decode_bands(tif(no_value, extratags=[(42113, 2, 0, "-9999", True)]), "a.tif", 1)
    assert np.isnan(read).sum() == 15
    gray = (heights[..., 0].clip(0, 255)).astype(np.uint8)
    np.testing.assert_array_equal(decode_bands(tif(gray, photometric="miniswhite"), "a.tif", 1)[..., 0], 255 - gray)


def test_other_files_keep_their_bits_and_bands() -> None:
    deep, rgba = BANDS[..., 0], BANDS.astype(np.uint8)
    np.testing.assert_array_equal(decode_bands(by_pillow(Image.fromarray(deep)), "a.png", 1)[..., 0], deep)
    content = by_pillow(Image.fromarray(rgba))
    np.testing.assert_array_equal(decode_bands(content, "a.png", 4), rgba)
    np.testing.assert_array_equal(decode_bands(content, "a.png", 3), rgba[..., :3])  # without alpha
    assert decode_bands(by_pillow(Image.fromarray(rgba[..., :3]), "JPEG"), "a.jpg", 3).shape == (37, 53, 3)
    alpha = tif(BANDS, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(decode_bands(alpha, "a.tif", 3), BANDS[..., :3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tif(BANDS, photometric="rgb")[:3000], "is cut off"),
        (tif(BANDS, photometric="rgb", compression="zlib")[:3000], "is cut off"),
        (by_pillow(Image.fromarray(BANDS.astype(np.uint8)))[:900], "cannot decode image a.tif"),
        (tif(np.zeros((4, 5), np.complex64)), "pixels of type complex64"),
        (by_pillow(Image.fromarray(BANDS[..., 0].astype(np.uint8)).convert("P"), "TIFF"), "palette"),
        (b"II*\0" + b"\xff" * 60, "cannot decode image a.tif"),
        (b"", "is empty"),
        (b"no image", "image a.tif"),
        (tif(BANDS[..., :2], photometric="minisblack", planarconfig="contig"), "has 2 bands, not 4: pass `channels=2`"),
    ],
)
@pytest.mark.case("R11")
def test_bad_files_are_one_message(content: bytes, message: str) -> None:
    with pytest.raises(BadInput) as error:
        decode_bands(content, "a.tif", 4)
    assert message in str(error.value)
    with pytest.raises(BadInput, match=r"a\.tif"):
        decode_bands(content, "a.tif", 1, (9,))


@pytest.mark.case("R12")
def test_files_that_decode_to_more_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = tif(np.zeros((500, 500, 4), np.uint16), photometric="rgb", compression="zlib")
    with pytest.raises(BadInput, match="500 x 500 pixels of 4 bands, more than the limit of 1 MiB"):
        tiff.read_tiff(content, "a.tif", 2**20)
    bomb = bytearray(tif(np.zeros((500, 500), np.uint8), compression="zlib", rowsperstrip=500))
    for tag in tifffile.TiffFile(io.BytesIO(bomb)).pages[0].tags.values():
        if tag.name in ("ImageLength", "RowsPerStrip"):
            bomb[tag.valueoffset : tag.valueoffset + 2] = (2).to_bytes(2, "little")
    monkeypatch.setattr(tiff, "_DEFLATE_RATIO", 10**6)  # otherwise the file would have to be large
    with pytest.raises(BadInput, match="decode to more than fits"):
        tiff.read_tiff(bytes(bomb), "a.tif", 10_000)


@pytest.mark.case("fuzz")
def test_damaged_tiff_files_are_read_or_refused() -> None:
    content = tif(BANDS[:9, :8], photometric="rgb", compression="zlib", metadata=None)
    read = 0
    for seed in range(300):
        draw = np.random.default_rng(seed)
        damaged = bytearray(content)
        for place in draw.integers(0, min(len(damaged), 400), 3):
            damaged[place] = draw.integers(256)
        with contextlib.suppress(BadInput):
            read += tiff.read_tiff(bytes(damaged), "a.tif", 10**6).values.ndim == 3
    assert 10 < read < 290


def test_statistics_are_those_of_all_pixels() -> None:
    images = [DRAW.normal(10_000 + 50 * i, 3, (20 + i, 30, 2)).astype(np.float32) for i in range(4)]
    images[1][3, 4] = np.nan
    found = measured(Channels(2), images, "set")
    pixels = np.concatenate([image.reshape(-1, 2) for image in images]).astype(np.float64)
    assert found.limits == (np.nanmin(pixels), np.nanmax(pixels))
    scaled = (pixels - found.limits[0]) / (found.limits[1] - found.limits[0])
    np.testing.assert_allclose(found.mean, np.nanmean(scaled, axis=0), rtol=1e-10)
    np.testing.assert_allclose(found.std, np.nanstd(scaled, axis=0), rtol=1e-10)
    filled = found.checked(images[1], "a.tif")
    np.testing.assert_allclose(filled[3, 4], found.fill, rtol=1e-6)
    assert found.checked(images[1] + 1e6, "a.tif").max() == np.float32(found.limits[1])
    tensor = torch.from_numpy(filled[None]).permute(0, 3, 1, 2)
    expected = (((filled - found.limits[0]) / (found.limits[1] - found.limits[0]) - found.mean) / found.std)[None]
    actual = normalise(tensor, found.mean, found.std, found.limits).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(actual, expected, atol=2e-3)  # float32 of values around 10,000
    assert abs(actual[0, 3, 4]).max() < 2e-3


def test_statistics_that_cannot_be_measured() -> None:
    with pytest.raises(BadInput, match="of type uint16 and of uint8"):
        measured(Channels(1), [np.zeros((2, 2, 1), np.uint16), np.zeros((2, 2, 1), np.uint8)], "set")
    with pytest.raises(BadInput, match="channel 2 has the same value"):
        measured(Channels(2), [np.dstack([np.eye(3), np.ones((3, 3))]).astype(np.uint8)], "set")
    given = Channels.of(TrainData(channels=1, mean=[0.5], std=[0.1]))
    assert given is not None
    with pytest.raises(BadInput, match="need the `range`"):
        measured(given, [np.eye(3, dtype=np.float32)[..., None]], "set")
    found = measured(given, iter([np.zeros((2, 2, 1), np.uint16)]), "set")  # nothing else has to be measured
    assert (found.mean, found.std, found.limits) == ((0.5,), (0.1,), (0.0, 65535.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 17}, "--data.channels 17 must be from 1 to 16"),
        ({"bands": [0, 1]}, "--data.bands 0 1: bands are counted from 1"),
        ({"bands": [1, 2], "channels": 3}, "--data.channels 3 contradicts the 2 numbers of --data.bands"),
        ({"channels": 2, "mean": [0.5], "std": [1, 1]}, "--data.mean has 1 numbers, but there are 2 channels"),
        ({"channels": 1, "mean": [0.5]}, "--data.mean and --data.std belong together"),
        ({"channels": 1, "range": [5, 5]}, "--data.range 5 5 must be two numbers"),
        ({"range": [0, 5]}, "--data.range needs --data.channels or --data.bands"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Channels.of(TrainData(**settings))
    assert message in with_flags(error.value)


def test_a_run_is_scored_with_its_own_statistics() -> None:
    channels = measured(Channels(2, (4, 1)), [BANDS[..., [3, 0]]], "set")
    assert Channels.stored(channels.preprocessing()) == channels
    other = Channels.to_score(channels.preprocessing(), EvalData(bands=[1, 2]))
    assert other is not None
    assert (other.bands, other.mean) == ((1, 2), channels.mean)
    with pytest.raises(UserError, match="of 2 channels, not of 4"):
        Channels.to_score(channels.preprocessing(), EvalData(channels=4))
    with pytest.raises(UserError, match="of 8-bit RGB, not of 4"):
        Channels.to_score({"mean": [0.5] * 3, "std": [0.2] * 3}, EvalData(channels=4))


def write_set(root: Path, **options: Any) -> Path:
    for split in ("train", "val"):
        for label, name in enumerate(("ant", "bee")):
            (root / split / name).mkdir(parents=True)
            pixels = BANDS // (1 + label + (split == "val"))
            (root / split / name / "a.tif").write_bytes(tif(pixels, **{"photometric": "rgb"} | options))
    return root


def test_statistics_never_come_from_validation_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, val = ClassDataset.open_train_val(write_set(tmp_path), TrainData(channels=4), 0)
    pixels = np.concatenate([(BANDS // divisor).reshape(-1, 4) for divisor in (1, 2)]) / 65535
    assert train.channels is not None
    np.testing.assert_allclose(train.channels.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(train.channels.std, pixels.std(0), rtol=1e-12)
    assert val.channels == train.channels
    np.testing.assert_array_equal(train[0].image, BANDS)
    assert train.blank(0).image.shape == (224, 224, 4)
    assert not caplog.records


def test_rgb_proposes_the_channels_of_such_files(tmp_path: Path) -> None:
    root = write_set(tmp_path, photometric="minisblack", planarconfig="contig")
    with pytest.raises(BadInput, match=r"TIFF with 4 bands of 16 bits.* pass `channels=4`"):
        ClassDataset.open_train_val(root, TrainData(), 0)


def test_skip_bad_covers_the_measurement(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_set(tmp_path)
    (tmp_path / "train" / "bee" / "b.tif").write_bytes(tif(BANDS, photometric="rgb")[:999])
    with pytest.raises(BadInput, match=r"b\.tif"):
        ClassDataset.open_train_val(tmp_path, TrainData(channels=4), 0)
    train, _ = ClassDataset.open_train_val(tmp_path, TrainData(channels=4, skip_bad=1), 0)
    assert len(train.skipped) == 1
    assert caplog.text.count("skipping") == 1


@pytest.mark.parametrize("count", [1, 2, 5, 16])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.case("geometry")
def test_transforms_treat_all_channels_alike(count: int, dtype: type) -> None:
    image = (BANDS[..., :1] / 65535 * (255 if dtype is np.uint8 else 60_000)).astype(dtype).repeat(count, axis=2)
    mask = np.zeros(image.shape[:2], np.uint8)
    fill = tuple(range(7, 7 + count))
    boxes = np.array([[5, 6, 40, 30]], np.float32)
    sample = Sample(image, 0, (37, 53), (1.0, 1.0), boxes, np.zeros(1, np.int64), mask)
    for size, jitter in (((64, 80), (0.7, 0.7)), ((12, 12), (1.0, 1.0))):
        out = Transform(ScaleJitterCrop(size, jitter, hflip=1.0), [], fill, 0.0)(sample, 0)
        assert out.image.shape == (*size, count)
        assert out.image.dtype == dtype
        assert out.mask is not None
        inside = out.mask != IGNORE
        assert 0 < inside.sum() < inside.size
        assert (out.image[~inside] == np.array(fill, dtype)).all()
        assert (out.image[inside] == out.image[inside][:, :1]).all()
        if count == 16 and dtype is np.uint8:  # as albumentations pads RGB
            rgb = Sample(np.ascontiguousarray(image[..., :3]), 0, (37, 53), (1.0, 1.0), boxes, sample.labels, mask)
            expected = Transform(ScaleJitterCrop(size, jitter, hflip=1.0), [], (7, 8, 9), 0.0)(rgb, 0)
            np.testing.assert_array_equal(out.image[..., :3], expected.image)
            np.testing.assert_array_equal(out.mask, expected.mask)
            np.testing.assert_allclose(out.boxes, expected.boxes, atol=1e-4)
    batch = collate([out, out])
    assert batch.images.shape == (2, count, 12, 12)


def test_pictures_show_any_image() -> None:
    rgb = BANDS[..., :3].astype(np.uint8)
    assert displayable(rgb) is rgb
    shown = displayable(BANDS)
    assert (shown.shape, shown.dtype, shown.min(), shown.max()) == ((37, 53, 3), np.uint8, 0, 255)
    depth = BANDS[..., :1].astype(np.float32)
    depth[0, 0] = np.nan
    shown = displayable(depth)
    assert (shown == shown[..., :1]).all()
    assert shown[0, 0, 0] == 0
    assert displayable(np.full((4, 4, 2), np.nan, np.float32)).max() == 0


def test_pipelines_of_the_user_keep_type_and_range() -> None:
    resize = Transform(ScaleJitterCrop((37, 53)), [], (0,) * 5, 0.0)
    bright = A.to_dict(A.Compose([A.RandomBrightnessContrast((0.2, 0.2), (0, 0), p=1)]))
    for dtype, limits in (("uint16", (0.0, 65535.0)), ("float32", (-300.0, 700.0))):
        channels = Channels(5, None, dtype, limits, (0.5,) * 5, (0.1,) * 5)
        image = DRAW.uniform(limits[0], 0.3 * limits[1], (37, 53, 5)).astype(dtype)
        sample = Sample(image, 0, (37, 53), (1.0, 1.0), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        out = Augmentation(bright, resize, "classes", channels)(sample, 0).image
        assert out.dtype == dtype
        added = (out.astype(float) - image) / (limits[1] - limits[0])
        np.testing.assert_allclose(added, 0.2, atol=0.01)
    with pytest.raises(BadInput, match="HueSaturationValue"):
        Augmentation(A.to_dict(A.Compose([A.HueSaturationValue(p=1)])), resize, "classes", channels)
