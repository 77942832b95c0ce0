"""16-bit images are read with the range of values of the training images."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.errors import BadInput
from data.class_dataset import ClassDataset
from engine.config import TrainData


def write(root: Path, highest: dict[str, int], dtype: type = np.uint16) -> Path:
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            folder = root / split / name
            folder.mkdir(parents=True)
            pixels = np.linspace(0, highest[split], 40 * 30).reshape(30, 40).astype(dtype)
            Image.fromarray(pixels).save(folder / "a.png")
    return root


def test_twelve_bits_fill_the_eight_bits_of_the_network(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, val = ClassDataset.open_train_val(write(tmp_path, {"train": 4000, "val": 8000}), TrainData(), 0)
    assert train.levels == val.levels == (0, 4000)
    assert "values from 0 to 4000 only" in caplog.text
    assert len(np.unique(train[0].image)) == 256
    assert val[0].image.max() == 255  # clipped
    assert (val[0].image == 255).mean() > 0.45


def test_a_full_range_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, _ = ClassDataset.open_train_val(write(tmp_path, {"train": 65535, "val": 9}), TrainData(), 0)
    assert train.levels == (0, 65535)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_eight_bits_have_no_levels(tmp_path: Path) -> None:
    train, _ = ClassDataset.open_train_val(write(tmp_path, {"train": 200, "val": 100}, np.uint8), TrainData(), 0)
    assert train.levels is None


def test_a_single_value_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="have the value 0"):
        ClassDataset.open_train_val(write(tmp_path, {"train": 0, "val": 9}), TrainData(), 0)


def one_class_of(root: Path, *pictures: np.ndarray, suffix: str = "png") -> Path:
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True)
            for index, pixels in enumerate(pictures):
                Image.fromarray(pixels).save(root / split / name / f"{index}.{suffix}")
    return root


def gray(highest: int, dtype: type = np.uint16, lowest: int = 0) -> np.ndarray:
    return np.linspace(lowest, highest, 1200).reshape(30, 40).astype(dtype)


def test_a_few_defect_pixels_do_not_cost_the_gray_levels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels = gray(1000)
    pixels[0, :2] = 65535
    train, _ = ClassDataset.open_train_val(one_class_of(tmp_path, pixels), TrainData(), 0)
    assert train.levels == (1, 1000)
    assert "values from 1 to 1000 only (2 checked), except for a few pixels up to 65535" in caplog.text
    assert len(np.unique(train[0].image)) == 256


def test_bright_spots_without_a_gap_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels = gray(1000)
    pixels[0, :4] = (9_000, 20_000, 40_000, 65_000)
    train, _ = ClassDataset.open_train_val(one_class_of(tmp_path, pixels), TrainData(), 0)
    assert train.levels == (3, 65_000)
    assert re.search("99% of the pixels .* are read as 4 of 256 gray levels", caplog.text)


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_signed_values_and_32_bits(dtype: type, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = one_class_of(tmp_path, gray(1000, dtype, -1000), suffix="tif")
    train, _ = ClassDataset.open_train_val(root, TrainData(), 0)
    assert train.levels == (-1000, 1000)
    assert "values from -1000 to 1000 only" in caplog.text
    assert len(np.unique(train[0].image)) == 256


def test_a_few_dark_16_bit_images_among_8_bit_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = one_class_of(tmp_path, gray(4095), gray(255, np.uint8), gray(255, np.uint8))
    train, _ = ClassDataset.open_train_val(root, TrainData(), 0)
    assert train.levels == (0, 4095)
    assert "2 of 6 checked images" in caplog.text
    assert [len(np.unique(train[i].image)) for i in (0, 1)] == [256, 256]
