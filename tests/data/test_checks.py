"""Labels that cannot be trained on or scored end before training; likely mistakes are one warning each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from backbones.errors import BadInput
from data.box_dataset import BoxDataset
from detection.config import BoxTrainData
from tests.data.coco_files import write_coco


def opened(root: Path) -> tuple[BoxDataset, BoxDataset]:
    return BoxDataset.open_train_val(root, BoxTrainData(root=str(root)), 0)


def each(split: str | None, **values: Any) -> Any:
    """An edit of every annotation of a split: field -> function of the annotation."""

    def change(document: dict[str, Any], name: str) -> None:
        for annotation in document["annotations"] if split in (None, name) else ():
            for field, function in values.items():
                annotation[field] = function(annotation)

    return change


def cleared(split: str) -> Any:
    return lambda document, name: document["annotations"].clear() if name == split else None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cleared("train"), "train.json has nothing to train on: 2 images with 0 boxes"),
        (each("train", iscrowd=lambda a: 1), "nothing to train on: .* 4 are crowd regions"),
        (each("train", bbox=lambda a: [0, 0, 0, 9]), "nothing to train on: .* 4 have no area"),
        (cleared("val"), "val.json has no object to score, so AP is undefined"),
        (each("val", iscrowd=lambda a: 1), "no object to score"),
    ],
)
def test_nothing_to_train_on_or_score(change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        opened(write_coco(tmp_path / "set", change=change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            each(None, bbox=lambda a: [v / s for v, s in zip(a["bbox"], (96, 64, 96, 64), strict=True)]),
            "probably normalised",
        ),
        (
            each(None, bbox=lambda a: [a["bbox"][0] + 40, 40, a["bbox"][0] + 60, 60]),
            "4 of 4 boxes leave their image. Probably .* two corners .*--data.boxes xyxy",
        ),
        (each("train", category_id=lambda a: 1), "1 of 2 classes have no example and cannot be learned: blue"),
    ],
)
def test_likely_mistakes_are_one_warning(
    change: Any, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(write_coco(tmp_path / "set", change=change))
    (record,) = caplog.records
    assert re.search(message, record.getMessage())


def test_corners_are_read_as_corners(tmp_path: Path) -> None:
    corners = each(None, bbox=lambda a: [*a["bbox"][:2], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]])
    root = write_coco(tmp_path / "set", change=corners)
    named, _ = BoxDataset.open_train_val(root, BoxTrainData(root=str(root), boxes="xyxy"), 0)
    usual, _ = opened(write_coco(tmp_path / "usual"))
    assert named.columns.boxes.tolist() == usual.columns.boxes.tolist()


def test_boxes_that_are_left_out_leave_scoring_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def change(document: dict[str, Any], split: str) -> None:
        document["annotations"][0]["bbox"] = [1, 1, 0, 5]
        document["annotations"][1]["bbox"] = [float("nan"), 1, 9, 9]

    train, val = opened(write_coco(tmp_path / "set", change=change))
    assert len(val.columns.boxes) == len(train.columns.boxes) == 2
    assert [record.getMessage().count("2 of 4 boxes are left out") for record in caplog.records] == [1, 1]


def test_areas_that_are_missing_or_impossible(tmp_path: Path) -> None:
    """Half of the box is a possible area, as of a triangle."""
    areas = iter([0, -3, "many", 100.0] * 2)

    def change(document: dict[str, Any], split: str) -> None:
        for annotation in document["annotations"]:
            annotation["area"] = next(areas)

    train, _ = opened(write_coco(tmp_path / "set", change=change))
    assert [value if value == value else None for value in train.columns.areas] == [None, None, None, 100.0]


def list_again(document: dict[str, Any], split: str) -> None:
    first = document["images"][0]
    document["images"].append(first | {"id": 99, "file_name": f"./{first['file_name']}"})


def box_again(document: dict[str, Any], split: str) -> None:
    document["annotations"].append(document["annotations"][0] | {"id": 99})


@pytest.mark.parametrize(
    ("change", "names", "message"),
    [
        (list_again, ("red", "blue"), "train.json lists 1 images more than once: .*/train/7.png"),
        (box_again, ("red", "blue"), "1 of 5 boxes repeat a box of the same class"),
        (None, ("red", "Red"), "the classes 'red' and 'Red', whose names differ only in case"),
    ],
)
def test_what_is_there_twice(
    change: Any, names: tuple[str, ...], message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(write_coco(tmp_path / "set", names, change=change))
    assert re.search(message, caplog.text)


def test_scored_images_that_are_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_coco(tmp_path / "set")
    opened(root)
    assert not caplog.records
    for image in (root / "val").iterdir():
        image.unlink()
    (root / "val").rmdir()
    (root / "val").symlink_to("train")
    opened(root)
    assert "2 of the 2 images to score are also training images" in caplog.text
