"""Tests what decides the key of a training, and that a training of an earlier version is found."""

import shutil
from dataclasses import replace
from pathlib import Path

from PIL import Image

from experiments.jobs import cell as cells
from experiments.jobs.cell import Cell
from experiments.jobs.local import COMPLETE, finished
from experiments.tasks import TASKS

ARGUMENTS = ("--backbone", "resnet18", "--epochs", "1")


def folders(root: Path, shade: int = 0) -> Path:
    """Two classes with two images each, for training and validation."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (40, 30), (shade, 40 * i, 90)).save(root / split / name / f"{i}.png")
    return root


def cell(root: Path, *more: str) -> Cell:
    cells.data_identity.cache_clear()
    return Cell("classification", (*ARGUMENTS, "--data.root", str(root), *more))


def test_the_device_and_the_place_of_the_data_are_no_part_of_the_key(tmp_path):
    first = cell(folders(tmp_path / "first")).key
    assert cell(tmp_path / "first", "--device", "cuda").key == first
    shutil.copytree(tmp_path / "first", tmp_path / "moved")
    assert cell(tmp_path / "moved").key == first
    assert cell(tmp_path / "first", "--lr", "0.02").key != first


def test_the_content_of_the_data_is_a_part_of_the_key(tmp_path):
    first = cell(folders(tmp_path / "first")).key
    (tmp_path / "first/train/a/1.png").rename(tmp_path / "first/train/b/3.png")  # another label
    assert cell(tmp_path / "first").key != first
    assert len({cell(tmp_path / "absent").key, cell(tmp_path / "other").key}) == 2  # these trainings fail


def test_the_content_of_a_weight_file_is_a_part_of_the_key(tmp_path):
    root = folders(tmp_path / "data")
    for name, content in (("a.pth", b"1"), ("b.pth", b"1"), ("c.pth", b"2")):
        (tmp_path / name).write_bytes(content)
    first, same, other = (cell(root, "--pretrained", str(tmp_path / f"{name}.pth")).key for name in "abc")
    assert first == same != other


def test_a_training_of_an_earlier_version_is_found_unless_the_recipe_has_changed(tmp_path, monkeypatch):
    training = Cell("classification", ARGUMENTS)
    assert training.folder_in(tmp_path) == tmp_path / training.name
    earlier = tmp_path / f"classification/resnet18-s0-{training.earlier_key[:8]}"
    earlier.mkdir(parents=True)
    (earlier / COMPLETE).write_text(f'{{"key": "{training.earlier_key}", "seconds": 3}}')
    assert training.folder_in(tmp_path) == earlier
    assert finished(training, earlier).seconds == 3
    monkeypatch.setitem(TASKS, "classification", replace(TASKS["classification"], recipe=2))
    changed = Cell("classification", ARGUMENTS)
    assert changed.key != training.key
    assert changed.folder_in(tmp_path) == tmp_path / changed.name
    assert finished(changed, earlier) is None
