"""16-bit images are read with the range of values of the training images."""

import logging
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
