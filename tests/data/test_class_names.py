"""Classes are matched by name, with the ids of the data in result files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbones.errors import BadInput
from data.box_dataset import BoxDataset
from data.class_names import match_names
from data.options import BoxOptions
from detection.config import BoxTrainData
from tests.data.coco_files import write_coco


@pytest.mark.parametrize(
    ("names", "known", "expected"),
    [
        (["a", "b"], ["b", "a"], [1, 0]),
        (["Traffic_Light", "car"], ["car", "traffic light"], [1, 0]),
        (["A", "a"], ["a"], [-1, 0]),  # the equal name comes first
        (["A"], ["a", " a "], [-1]),  # two candidates
        (["A", "a "], ["a"], [-1, -1]),
        (["c"], ["a"], [-1]),
        (["cafe\u0301"], ["caf\u00e9"], [0]),  # as macOS and as Linux write it
    ],
)
def test_rules(names: list[str], known: list[str], expected: list[int]) -> None:
    assert match_names(names, known) == expected


def validation(edit: Any) -> Any:
    return lambda document, split: edit(document) if split == "val" else None


def opened(root: Path, **options: Any) -> tuple[BoxDataset, BoxDataset]:
    return BoxDataset.open_train_val(root, BoxTrainData(root=str(root), **options), 0)


def test_other_ids(tmp_path: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        for record in document["categories"]:
            record["id"] += 10
        for record in document["annotations"]:
            record["category_id"] += 10

    train, val = opened(write_coco(tmp_path / "set", change=validation(edit)))
    assert (train.classes, train.category_ids) == (("red", "blue"), (1, 2))
    assert (val.classes, val.category_ids) == (("red", "blue"), (11, 12))
    assert val[0].labels.tolist() == train[0].labels.tolist() == [0, 1]


def test_exchanged_names(tmp_path: Path) -> None:
    """The ids are the same, and the names are exchanged: training and truth agree on the names."""

    def edit(document: dict[str, Any]) -> None:
        for record in document["categories"]:
            record["name"] = {"red": "blue", "blue": "red"}[record["name"]]
        for record in document["annotations"]:
            record["category_id"] = 3 - record["category_id"]

    train, val = opened(write_coco(tmp_path / "set", change=validation(edit)))
    assert (val.classes, val.category_ids) == (("red", "blue"), (2, 1))
    assert val[0].labels.tolist() == train[0].labels.tolist()
    assert val.columns.label.tolist() == train.columns.label.tolist()


def test_validation_with_only_the_classes_that_occur(tmp_path: Path) -> None:
    """The id of the absent class is free, so result files keep the id of the training data."""

    def edit(document: dict[str, Any]) -> None:
        document["categories"] = [{"id": 2, "name": "red"}]
        document["annotations"] = [a | {"category_id": 2} for a in document["annotations"] if a["category_id"] == 1]

    train, val = opened(write_coco(tmp_path / "set", change=validation(edit)))
    assert val.classes == train.classes
    assert val.category_ids == (2, 3)  # 2 is blue in the training data and red here
    assert val.listed.tolist() == [True, False]
    assert val[0].labels.tolist() == [0]


def test_an_unknown_class_with_objects_is_refused(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "set", change=validation(lambda d: d["categories"][1].update(name="green")))
    with pytest.raises(BadInput, match=r"1 classes of .*val\.json are not among the 2 .*'green' \(2 boxes\)"):
        opened(root)
    empty = write_coco(tmp_path / "empty", change=validation(lambda d: d["categories"].append({"id": 9, "name": "x"})))
    assert opened(empty)[1].classes == ("red", "blue")


def test_two_classes_of_one_name(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "set", names=("red", "red"))
    with pytest.raises(BadInput, match=r"2 classes called 'red', with the ids 1 and 2.*`merge_classes=True`"):
        opened(root)
    train, val = opened(root, merge_classes=True)
    assert train.classes == val.classes == ("red",)
    assert train[0].labels.tolist() == [0, 0]
    assert len(val.columns.boxes) == 4


def test_numbers_are_names(tmp_path: Path) -> None:
    assert opened(write_coco(tmp_path / "set", names=(3, 7)))[0].classes == ("3", "7")


def test_labels_of_a_model_with_more_classes(tmp_path: Path) -> None:
    data = BoxDataset.open(write_coco(tmp_path / "set"), "val", options=BoxOptions())
    model = data.with_classes(["green", "Blue", "RED"], [1, 2, 3], "the model")
    assert model[0].labels.tolist() == [2, 1]
    assert model.category_ids == (4, 2, 1)  # an id that neither the model nor the data use
    assert model.listed.tolist() == [False, True, True]
    np.testing.assert_array_equal(model.columns.label, [2, 1, 2, 1])


@pytest.mark.parametrize("names", [("cat", "cat "), ("caf\u00e9", "cafe\u0301")])
def test_names_that_look_equal_are_one_name(names: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="2 classes called"):
        opened(write_coco(tmp_path / "set", names))


@pytest.mark.parametrize("name", [None, "", " ", ["cat"]])
def test_a_category_without_a_name(name: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"categories\[0\] has a name that is neither a text nor a number"):
        opened(write_coco(tmp_path / "set", (name, "dog")))


def test_an_id_that_would_be_rounded(tmp_path: Path) -> None:
    def edit(document: dict[str, Any], split: str) -> None:
        document["images"][0]["id"] = 2**60 + 1

    with pytest.raises(BadInput, match=r"beyond 2\*\*53 and would be rounded"):
        opened(write_coco(tmp_path / "set", change=edit))
