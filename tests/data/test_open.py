"""Which images are trained on and scored: splits by their usual names, named files, held out images."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from backbones.errors import BadInput, UserError, with_flags
from data.box_dataset import BoxDataset
from data.class_dataset import ClassDataset
from data.columns import subset_indices
from data.formats import formats, split_of
from data.open import place_of, read_scored
from data.options import BoxOptions
from detection.config import BoxTrainData
from tests.data.coco_files import write_coco


def opened(root: Path, **settings: object) -> tuple[BoxDataset, BoxDataset]:
    return BoxDataset.open_train_val(root, BoxTrainData(root=str(root), **settings), 3)  # type: ignore[arg-type]


def test_usual_names_of_splits() -> None:
    assert split_of(["train2017", "val2017"], "train") == "train2017"
    assert split_of(["training", "valid", "val"], "val") == "val"
    assert split_of(["train", "validation"], "val") == "validation"
    assert split_of(["train", "test"], "val") is None
    assert split_of(["extra"], "extra") == "extra"


def test_files_and_image_folders_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_coco(tmp_path / "set")
    photos = tmp_path / "photos"
    photos.mkdir()
    for split in ("train", "val"):
        shutil.move(root / split, photos / split)
        shutil.move(root / "annotations" / f"instances_{split}.json", tmp_path / f"my {split}.json")
    monkeypatch.chdir(tmp_path)
    train, val = opened(Path(), train="my train.json:photos/train", val="my val.json:photos/val")
    assert (train.folder, val.folder) == (Path("photos/train"), Path("photos/val"))
    assert (len(train), len(val)) == (2, 2)
    assert opened(Path(), train="my train.json:photos/train", holdout=0.5)[1].folder == Path("photos/train")
    with pytest.raises(UserError, match=r"neither a split of .* nor an existing file or folder: photos/trian does not"):
        opened(Path(), train="my train.json:photos/trian", val="my val.json:photos/val")
    scored = read_scored("boxes", Path(), BoxOptions(val="my val.json:photos/val"), 0.0, 3)
    assert scored.source == Path("my val.json")


def test_a_file_without_its_image_folder_is_found_beside_it(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "set")
    train, val = opened(root, train="annotations/instances_train.json:train", val="val")
    assert train.folder == root / "train"
    assert val.columns.source == root / "annotations" / "instances_val.json"


def test_place_of_paths_with_colons(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    (tmp_path / "c").mkdir()
    assert place_of("a:b", tmp_path) == (tmp_path / "a:b", None)
    assert place_of("a:b:c", tmp_path) == (tmp_path / "a:b", tmp_path / "c")
    assert place_of("a:d", tmp_path) is None


def test_a_missing_validation_split_has_three_ways_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_coco(tmp_path / "set")
    (root / "annotations" / "instances_val.json").rename(root / "annotations" / "instances_test.json")
    with pytest.raises(BadInput) as caught:
        opened(root)
    message = with_flags(caught.value)
    for flag in ("--data.holdout 0.2", "--data.val test", "with --data.val"):
        assert flag in message
    (root / "val").rename(root / "test")
    assert opened(root, val="test")[1].columns.source.name == "instances_test.json"
    train, val = opened(root, val="auto")
    assert "20% of its training images are held out" in caplog.text
    assert sorted([*train.image_ids, *val.image_ids]) == [7, 9]
    assert read_scored("boxes", root, BoxOptions(val="auto"), 0.0, 3).image_ids.tolist() == val.image_ids.tolist()


def test_auto_prefers_the_validation_split(tmp_path: Path) -> None:
    assert opened(write_coco(tmp_path / "set"), val="auto")[1].columns.source.name == "instances_val.json"


def test_a_data_set_of_another_kind_is_named(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "set")
    with pytest.raises(BadInput, match="is a data set for object detection") as caught:
        ClassDataset.open(root, "train")
    assert "as --data.root, or use the command for object detection" in with_flags(caught.value)


def test_a_place_without_data_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder or file") as caught:
        opened(tmp_path / "moved")
    assert "Pass the place of the data as --data.root" in with_flags(caught.value)


def test_named_formats(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "set")
    assert len(opened(root, format="coco")[0]) == 2
    with pytest.raises(UserError, match=r"unknown format 'cooc'. Did you mean coco"):
        opened(root, format="cooc")


def test_every_format_is_complete() -> None:
    """A name of its own among its kind, a layout in words, and no answer for an empty folder."""
    named = [(form.kind, form.name) for form in formats()]
    assert len(set(named)) == len(named)
    assert {form.kind for form in formats()} == {"boxes", "masks", "classes"}
    for form in formats():
        assert form.layout.strip()


@pytest.mark.parametrize("form", formats(), ids=lambda form: f"{form.kind}-{form.name}")
def test_no_format_recognises_an_empty_folder(form: object, tmp_path: Path) -> None:
    assert form.sniff(tmp_path) is None  # type: ignore[attr-defined]
    (tmp_path / "notes.txt").write_text("nothing")
    assert form.sniff(tmp_path) is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("total", [1, 2, 3, 7, 200])
@pytest.mark.parametrize("holdout", [0.01, 0.2, 0.5, 0.99])
def test_held_out_items_are_not_trained_on(total: int, holdout: float) -> None:
    trained = subset_indices(total, (0.0, 1 - holdout), 3).tolist()
    held = subset_indices(total, (1 - holdout, 1.0), 3).tolist()
    assert sorted(trained + held) == list(range(total))
    assert trained
    assert bool(held) == (total > 1)
