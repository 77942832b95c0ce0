"""Boxes of Hugging Face data sets: what their numbers mean, and the columns beside them."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbones.errors import BadInput
from data.box_dataset import BoxDataset
from data.class_dataset import ClassDataset
from data.formats import recognise
from data.options import BoxOptions

pa = pytest.importorskip("pyarrow")

from tests.data.formats.hub_sets import (  # noqa: E402 - needs pyarrow
    HEIGHT,
    IMAGE,
    TYPES,
    WIDTH,
    encoded,
    image_files,
    pets,
    struct,
    write,
)  # fmt: skip

BOXES = np.array([[2, 3, 20, 10], [30, 5, 12, 20], [8, 1, 5, 5]], float)  # x y width height, in 48 x 32 px
COUNTS = (2, 0, 1)


def lists(values: Sequence[Any], counts: Sequence[int] = COUNTS) -> list[list[Any]]:
    ends = np.cumsum([0, *counts]).tolist()
    return [list(values[a:b]) for a, b in pairwise(ends)]


def boxes(file: Path, values: np.ndarray = BOXES, records: bool = False, **columns: Any) -> Path:
    """Three images with the boxes, as a structure of lists or as a list of records."""
    own = lists(values.tolist())
    labels = lists([1, 0, 1])
    if records:
        objects = [
            [{"bbox": b, "category": c} for b, c in zip(*row, strict=True)] for row in zip(own, labels, strict=True)
        ]
        kind = {"feature": {"bbox": {}, "category": TYPES["label"]}, "_type": "List"}
    else:
        objects = [{"bbox": b, "category": c} for b, c in zip(own, labels, strict=True)]
        kind = {"bbox": {}, "category": {"feature": TYPES["label"], "_type": "List"}}
    of_objects = pa.array(objects, _object_type(records))
    own_columns = {"image": struct([encoded(n) for n in range(3)]), "objects": of_objects}
    return write(file, own_columns | columns, {"image": IMAGE, "objects": kind, **{name: {} for name in columns}})


def _object_type(records: bool) -> Any:
    box = pa.list_(pa.float32())
    if records:
        return pa.list_(pa.struct([("bbox", box), ("category", pa.int64())]))
    return pa.struct([("bbox", pa.list_(box)), ("category", pa.list_(pa.int64()))])


def as_meaning(meaning: str) -> np.ndarray:
    x, y, w, h = BOXES.T
    return np.stack(
        {"xywh": (x, y, w, h), "xyxy": (x, y, x + w, y + h), "cxcywh": (x + w / 2, y + h / 2, w, h)}[meaning], 1
    )


CORNERS = as_meaning("xyxy")


@pytest.mark.parametrize("records", [True, False])
@pytest.mark.parametrize("meaning", ["xywh", "xyxy", "cxcywh"])
def test_the_meaning_of_boxes_is_recognised(meaning: str, records: bool, tmp_path: Path) -> None:
    values = as_meaning(meaning)
    for name, own in (("pixels", values), ("fractions", values / [WIDTH, HEIGHT, WIDTH, HEIGHT])):
        boxes(tmp_path / name / "train.parquet", own, records)
        data = BoxDataset.open(tmp_path / name, "train")
        np.testing.assert_allclose(data.columns.boxes, CORNERS, atol=1e-5)
        assert data.columns.image.tolist() == [0, 0, 2]
        assert [data.classes[i] for i in data.columns.label] == ["dog", "cat", "dog"]
        assert data.sizes.tolist() == [[HEIGHT, WIDTH]] * 3
        assert [len(data[i].labels) for i in range(3)] == [2, 0, 1]


def test_boxes_whose_meaning_is_unclear(tmp_path: Path) -> None:
    boxes(tmp_path / "train.parquet", np.array([[2, 3, 9, 8], [3, 5, 12, 7], [4, 1, 6, 5]], float))
    with pytest.raises(BadInput, match=r"unclear.*two corners \(xyxy\): 100\.0%.*`boxes=") as error:
        BoxDataset.open(tmp_path, "train")
    assert error.value.settings == ("data.boxes",)
    data = BoxDataset.open(tmp_path, "train", options=BoxOptions(boxes="xyxy"))
    assert data.columns.boxes.tolist() == [[2, 3, 9, 8], [3, 5, 12, 7], [4, 1, 6, 5]]


def test_a_few_boxes_beyond_their_image_do_not_hide_the_meaning(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    low, size = random.uniform(0, [30, 20], (300, 2)), random.uniform(4, [18, 12], (300, 2))
    values = np.concatenate([low, size], axis=1)
    values[7] = [40, 5, 20, 10]
    own = pa.array([{"bbox": values.tolist(), "category": [0] * 300}], _object_type(False))
    write(tmp_path / "train.parquet", {"image": struct([encoded(0)]), "objects": own})
    data = BoxDataset.open(tmp_path, "train")
    np.testing.assert_allclose(data.columns.boxes[:, 2:] - data.columns.boxes[:, :2], values[:, 2:], atol=1e-5)
    assert data.classes == ("0",)


def test_sizes_ids_areas_and_crowds(tmp_path: Path) -> None:
    objects = {
        "bbox": lists(BOXES.tolist()), "category": lists(["b", "a", "b"]), "area": lists([150.0, 0.0, 25.0]),
        "iscrowd": lists([False, True, False]), "id": lists([4, 5, 6]),
    }  # fmt: skip
    rows = pa.array([{name: values[i] for name, values in objects.items()} for i in range(3)])
    columns = {
        "image_id": pa.array([30, 10, 20]), "image": struct([encoded(n) for n in range(3)]), "objects": rows,
        "width": pa.array([WIDTH] * 3), "height": pa.array([HEIGHT] * 3),
    }  # fmt: skip
    write(tmp_path / "train.parquet", columns)
    data = BoxDataset.open(tmp_path, "train")
    assert data.image_ids.tolist() == [30, 10, 20]
    assert data.classes == ("a", "b")
    np.testing.assert_array_equal(data.columns.areas, [150, np.nan, 25])
    assert data.columns.crowd.tolist() == [False, True, False]
    assert data[1].image[0, 0, 0] == 1


def test_columns_of_boxes_without_a_structure(tmp_path: Path) -> None:
    columns = {
        "image": struct([encoded(n) for n in range(3)]), "bboxes": pa.array(lists(BOXES.tolist())),
        "labels": pa.array(lists([3, 7, 3])),
    }  # fmt: skip
    write(tmp_path / "train.parquet", columns)
    data = BoxDataset.open(tmp_path, "train")
    assert (data.classes, data.category_ids) == (("3", "7"), (3, 7))
    np.testing.assert_allclose(data.columns.boxes, CORNERS)


def test_boxes_without_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    faces = pa.array([{"bbox": own, "blur": [0] * len(own)} for own in lists(BOXES.tolist())])
    write(tmp_path / "train.parquet", {"image": struct([encoded(n) for n in range(3)]), "faces": faces})
    assert BoxDataset.open(tmp_path, "train").classes == ("object",)
    assert "no classes of its boxes: all are read as one class, 'object'" in caplog.text


def test_damaged_boxes(tmp_path: Path) -> None:
    for values, message in (
        ([[[1.0, 2, 3]], [], []], "row 0 has a box of 3 numbers, not 4"),
        ([[], [["a", "b", "c", "d"]], []], "lists of string, not of numbers"),
    ):
        columns = {"image": struct([encoded(n) for n in range(3)]), "bbox": pa.array(values)}
        write(tmp_path / "train.parquet", columns)
        with pytest.raises(BadInput, match=message):
            BoxDataset.open(tmp_path, "train")


def test_the_kind_of_labels_is_recognised(tmp_path: Path) -> None:
    boxes(tmp_path / "both" / "train.parquet", label=pa.array([0, 1, 0]))
    assert recognise(tmp_path / "both")[0].kind == "boxes"
    assert len(ClassDataset.open(tmp_path / "both", "train")) == 3
    pets(tmp_path / "classes" / "train.parquet")
    assert recognise(tmp_path / "classes")[0].kind == "classes"
    with pytest.raises(BadInput, match=r"is a data set for image classification .*not for object detection"):
        BoxDataset.open(tmp_path / "classes", "train")


def test_boxes_saved_by_the_library(tmp_path: Path) -> None:
    library = pytest.importorskip("datasets")
    library.disable_progress_bars()
    objects = [
        {"bbox": own, "category": labels} for own, labels in zip(lists(BOXES.tolist()), lists([1, 0, 1]), strict=True)
    ]
    fields = {
        "bbox": library.Sequence(library.Value("float32"), length=4),
        "category": library.ClassLabel(names=["cat", "dog"]),
    }
    files = image_files(tmp_path / "images", 3)
    for name, kind in (("lists", library.Sequence(fields)), ("records", library.List(fields))):
        rows: list[Any] = objects
        if name == "records":
            rows = [[{"bbox": b, "category": c} for b, c in zip(*row.values(), strict=True)] for row in objects]
        features = library.Features({"image": library.Image(), "objects": kind})
        data = library.Dataset.from_dict({"image": files, "objects": rows}, features=features)
        data.save_to_disk(tmp_path / name)
        data.to_parquet(tmp_path / f"{name}.parquet")
        for root in (tmp_path / name, tmp_path / f"{name}.parquet"):
            read = BoxDataset.open(root, "train")
            np.testing.assert_allclose(read.columns.boxes, CORNERS, atol=1e-5)
            assert [read.classes[i] for i in read.columns.label] == ["dog", "cat", "dog"]
