"""Class folders as people have them: the splits that are found, and the advice where the layout is another one."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.errors import BadInput
from classification.config import TrainConfig
from classification.task import ClassificationTask
from data.class_dataset import ClassDataset


def fill(root: Path, *folders: str, count: int = 2, suffixes: tuple[str, ...] = (".png",)) -> Path:
    """Write `count` images into each folder below `root`. They differ in name and content."""
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.full((6, 8, 3), 20 * number + i, np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{number}_{i}{suffixes[i % len(suffixes)]}", "PNG")
    return root


def opened(root: Path, **settings: object) -> tuple[ClassDataset, ClassDataset]:
    """The training and validation images of a training with these settings in `--data`."""
    config = TrainConfig()
    for name, value in settings.items():
        setattr(config.data, name, value)
    return ClassificationTask.read(config, root)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("train", "val"),
    [("train", "val"), ("train", "valid"), ("train", "validation"), ("Train", "Val"), ("training", "VALIDATION")],
)
def test_usual_names_of_splits(train: str, val: str, tmp_path: Path) -> None:
    fill(tmp_path, f"{train}/cat", f"{train}/dog", f"{val}/cat", f"{val}/dog", "test/cat", "test/dog")
    sets = opened(tmp_path)
    assert [data.folder.name for data in sets] == [train, val]
    assert [data.labels.tolist() for data in sets] == [[0, 0, 1, 1]] * 2
    assert [data.folder.name for data in opened(tmp_path, val="test")] == [train, "test"]


def test_a_test_split_is_named_but_not_taken(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat", "train/dog", "Test/cat", "Test/dog")
    with pytest.raises(
        BadInput, match=r"no validation split.*`holdout=0.2`, evaluate on its test split with `val=Test"
    ):
        opened(tmp_path)


@pytest.mark.parametrize("inside", ["", "train/"])
def test_a_holdout_is_proposed_and_taken(inside: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, f"{inside}cat", f"{inside}dog", count=10)
    with pytest.raises(BadInput, match=r"no validation split. Hold out .* `holdout=0.2`"):
        opened(tmp_path)
    train, val = opened(tmp_path, val="auto")
    assert [np.bincount(data.labels).tolist() for data in (train, val)] == [[8, 8], [2, 2]]
    assert not {train.name(i) for i in range(len(train))} & {val.name(i) for i in range(len(val))}
    assert "20% of its training images are held out" in warnings(caplog)[0]


def test_folders_named_by_path(tmp_path: Path) -> None:
    fill(tmp_path, "a/first/cat", "a/first/dog", "b/second/cat", "b/second/dog")
    train, val = opened(tmp_path, train=str(tmp_path / "a/first"), val="b/second")
    assert [data.folder for data in (train, val)] == [tmp_path / "a/first", tmp_path / "b/second"]
    with pytest.raises(BadInput, match=r"a second folder .*b can be named for label files only"):
        opened(tmp_path, train=f"a/first:{tmp_path}/b", val="b/second")


def test_a_data_set_is_not_a_split(tmp_path: Path) -> None:
    fill(tmp_path, "set/train/cat", "set/train/dog", "set/val/cat", "set/val/dog")
    with pytest.raises(BadInput, match=r"set is a data set with the splits train, val: name one .*`train=.*set/train`"):
        opened(tmp_path, train=str(tmp_path / "set"), val=str(tmp_path / "set/val"))


def test_labels_of_a_flat_folder_that_are_folder_names(tmp_path: Path) -> None:
    """Read as positions in the sorted names 0, 1, 10, 11, 2, ..., most of these labels would be another class."""
    numbers = [str(k) for k in range(12)]
    fill(tmp_path, *(f"train/{k}" for k in numbers))
    fill(tmp_path, "val", count=12)
    (tmp_path / "val_labels.txt").write_text("".join(f"0_{k}.png {k}\n" for k in numbers))
    _, val = opened(tmp_path)
    assert [(val.name(i), val.classes[val.labels[i]]) for i in range(12)] == [
        (f"0_{k}.png", k) for k in sorted(numbers)
    ]


def test_class_folders_inside_another_folder(tmp_path: Path) -> None:
    fill(tmp_path, "train/images/cat", "train/images/dog", "val/images/cat", "val/images/dog")
    (tmp_path / "train/labels").mkdir()
    with pytest.raises(BadInput, match=r"`train=.*/train/images` and `val=.*/val/images`"):
        opened(tmp_path)
    train, val = opened(tmp_path, train=str(tmp_path / "train/images"), val=str(tmp_path / "val/images"))
    assert train.classes == val.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("folders", "inner"),
    [
        (["pets/train/cat", "pets/train/dog", "pets/val/cat", "pets/val/dog"], "pets"),
        (["pets/cat", "pets/dog"], "pets"),
        (["a/b/Train/cat", "a/b/Train/dog"], "a/b"),
        (["images/train/cat", "images/train/dog", "__MACOSX/images/train/cat"], "images"),
    ],
)
def test_a_data_set_inside_the_folder(folders: list[str], inner: str, tmp_path: Path) -> None:
    fill(tmp_path, *folders)
    (tmp_path / "notes").mkdir()
    with pytest.raises(BadInput, match=rf"has no class folders\. Probably .* pass `root={tmp_path}/{inner}`"):
        opened(tmp_path)


def test_splits_with_unusual_names(tmp_path: Path) -> None:
    """They would be two classes with the same images in each."""
    fill(tmp_path, "fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog")
    with pytest.raises(BadInput, match=r"have the same class folders.*`train=.*fold1` and `val=.*fold2`"):
        opened(tmp_path)
    train, val = opened(tmp_path, train="fold1", val="fold2")
    assert (train.classes, val.classes) == (("cat", "dog"), ("cat", "dog"))


@pytest.mark.parametrize("split", ["train/", ""])
def test_folders_below_a_class_belong_to_it(split: str, tmp_path: Path) -> None:
    fill(tmp_path, f"{split}animal/cat", f"{split}animal/dog", f"{split}plant/fern/old", f"{split}plant")
    data, _ = opened(tmp_path, val="auto")
    assert data.classes == ("animal", "plant")


def test_files_with_other_suffixes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "val"):
        fill(tmp_path, f"{split}/cat", f"{split}/dog", count=4, suffixes=(".png", ".jfif", ".pgm", ".heic"))
        (tmp_path / split / ".thumbs").mkdir()
        fill(tmp_path, f"{split}/.thumbs", f"{split}/cat/.cache")
        (tmp_path / split / "cat" / "Thumbs.db").touch()
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "stray.png")
    train, val = opened(tmp_path)
    assert (len(train), len(val)) == (6, 6)
    assert warnings(caplog) == [
        f"{tmp_path}/train: 2 files (.heic) are left out, because their suffix is not that of an image: cat/0_3.heic, "
        "dog/1_3.heic",
        f"{tmp_path}/train: 1 files (.png) are left out, because they are in no class folder: stray.png",
        f"{tmp_path}/val: 2 files (.heic) are left out, because their suffix is not that of an image: cat/0_3.heic, "
        "dog/1_3.heic",
    ]


def test_classes_that_only_one_split_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, "train/cat", "train/dog", "train/owl", "val/Cat", "val/dog")
    _, val = opened(tmp_path)
    assert (val.classes, val.labels.tolist()) == (("cat", "dog", "owl"), [0, 0, 1, 1])
    assert warnings(caplog) == [
        f"{tmp_path}/val: 1 of the 3 classes have no image, so their accuracy is not measured: owl"
    ]
    fill(tmp_path, "val/yak")
    with pytest.raises(BadInput, match=r"1 classes in .*val are not among the 3 classes of the training images.*: yak"):
        opened(tmp_path)


def test_classes_that_cannot_be_learned(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat", "train/dog", "val/cat")
    (tmp_path / "train/owl").mkdir()
    with pytest.raises(BadInput, match=r"train has no image of owl"):
        opened(tmp_path)
    fill(tmp_path, "one/train/cat", "one/val/cat")
    with pytest.raises(BadInput, match=r"single class, 'cat': a classifier needs at least two"):
        opened(tmp_path / "one")


def test_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "cat", "dog")
    monkeypatch.chdir(tmp_path)
    assert ClassDataset.open(".", "train").classes == ("cat", "dog")
