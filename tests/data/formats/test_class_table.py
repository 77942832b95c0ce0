"""Tables of images and classes: columns, headers, delimiters, splits, and where the images are."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.errors import BadInput, UserError
from classification.config import TrainConfig
from classification.task import ClassificationTask
from data.class_dataset import ClassDataset

IMAGES = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")


def place(folder: Path, names: Sequence[str] = IMAGES) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8, 3), 40 * number, np.uint8)).save(folder / name, "PNG")
    return folder


def opened(root: Path, **settings: object) -> tuple[ClassDataset, ClassDataset]:
    """The training and validation images of a training with these settings in `--data`."""
    config = TrainConfig()
    for name, value in ({"val": "auto"} | settings).items():
        setattr(config.data, name, value)
    return ClassificationTask.read(config, root)


def classes_of(data: ClassDataset) -> dict[str, str]:
    return {data.name(i): data.classes[label] for i, label in enumerate(data.labels)}


def read(root: Path, split: str = "train") -> dict[str, str]:
    return classes_of(ClassDataset.open(root, split))


EXPECTED = {"images/a.jpg": "cat", "images/b.jpg": "dog", "images/c.jpg": "cat", "images/d.jpg": "dog"}
TABLES = {
    "usual names": ("labels.csv", "image,label\na.jpg,cat\nb.jpg,dog\nc.jpg,cat\nd.jpg,dog\n"),
    "names without suffix": ("labels.csv", "id,breed\na,cat\nb,dog\nc,cat\nd,dog\n"),
    "other order and capitals": ("labels.csv", "Category,File Name\ncat,a.jpg\ndog,b.jpg\ncat,c.jpg\ndog,d.jpg\n"),
    "paths": ("meta.csv", "path,target\nimages/a.jpg,cat\n./images/b.jpg,dog\nimages\\c.jpg,cat\n\nimages/d.jpg,dog"),
    "paths of another machine": (
        "meta.csv",
        "filepath,class\n/me/set/images/a.jpg,cat\nC:\\set\\images\\b.jpg,dog\nimages/c.jpg,cat\nIMAGES/D.JPG,dog\n",
    ),
    "no header": ("labels.csv", "a.jpg,cat\nb.jpg,dog\nc.jpg,cat\nd.jpg,dog\n"),
    "a header without usual names": ("labels.csv", "scan,finding\na.jpg,cat\nb.jpg,dog\nc.jpg,cat\nd.jpg,dog\n"),
    "semicolons and a mark": ("labels.csv", "\ufefffile;class\r\na.jpg;cat\r\nb.jpg;dog\r\nc.jpg;cat\r\nd.jpg;dog\r\n"),
    "tabs": ("labels.tsv", "file\tclass\na.jpg\tcat\nb.jpg\tdog\nc.jpg\tcat\nd.jpg\tdog\n"),
    "a list with spaces": ("labels.txt", "images/a.jpg cat\nimages/b.jpg dog\nimages/c.jpg cat\nimages/d.jpg dog\n"),
    "more columns": ("l.csv", "id,image,age,label\n0,a.jpg,3,cat\n1,b.jpg,4,dog\n2,c.jpg,5,cat\n3,d.jpg,5,dog\n"),
    "number and name": (
        "l.csv",
        "image,class_id,class_name\na.jpg,0,cat\nb.jpg,1,dog\nc.jpg,0,cat\nd.jpg,1,dog\n",
    ),
    "a column for each class": (
        "_classes.csv",
        "filename, cat, dog\na.jpg, 1, 0\nb.jpg, 0, 1\nc.jpg, 1, 0\nd.jpg,0,1\n",
    ),
    "a delimiter at the end": ("labels.csv", "image,label,\na.jpg,cat,\nb.jpg,dog,\nc.jpg,cat,\nd.jpg,dog,\n"),
    "quoted cells": ("labels.csv", '"image","label"\n"a.jpg","cat"\n"b.jpg","dog"\n"c.jpg","cat"\n"d.jpg","dog"\n'),
    "repeated rows": ("labels.csv", "image,label\na.jpg,cat\na.jpg,cat\nb.jpg,dog\nc.jpg,cat\nd.jpg,dog\n"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_images(name: str, tmp_path: Path) -> None:
    place(tmp_path / "images")
    file, text = TABLES[name]
    (tmp_path / file).write_text(text)
    assert read(tmp_path) == EXPECTED
    (tmp_path / file).write_text(text, "utf-16")
    assert read(tmp_path) == EXPECTED


def test_numbers_are_whole_and_sorted_by_value(tmp_path: Path) -> None:
    place(tmp_path)
    (tmp_path / "labels.csv").write_text("image,label\na.jpg,10.0\nb.jpg,9.0\nc.jpg,\nd.jpg,9.0\n")
    data = ClassDataset.open(tmp_path, "train")
    assert (data.classes, classes_of(data)) == (("9", "10"), {"a.jpg": "10", "b.jpg": "9", "d.jpg": "9"})
    assert data.columns.left_out == {"their row has no class": ["c.jpg"]}


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        ({"train.csv": "ab", "val.csv": "cd"}, ("train", "val")),
        ({"trainLabels.csv": "ab", "Validation_labels.csv": "cd"}, ("train", "val")),
        ({"train/labels.csv": "ab", "valid/_classes.csv": "cd"}, ("train", "valid")),
        ({"annotations/train_list.txt": "ab", "annotations/test_list.txt": "cd"}, ("train", "test")),
    ],
)
def test_a_table_for_each_split(files: dict[str, str], splits: tuple[str, str], tmp_path: Path) -> None:
    place(tmp_path / "images")
    for file, letters in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("".join(f"{c}.jpg\t{'cat' if c in 'ac' else 'dog'}\n" for c in letters))
    for split, letters in zip(splits, files.values(), strict=True):
        data = ClassDataset.open(tmp_path, split)
        assert classes_of(data) == {f"images/{c}.jpg": EXPECTED[f"images/{c}.jpg"] for c in letters}
        assert data.columns.left_out == {}  # the other table names the others


@pytest.mark.parametrize(
    ("column", "values"),
    [("split", ("train", "train", "val", "val")), ("is_valid", ("False", "False", "True", "True"))],
)
def test_a_column_of_splits(column: str, values: Sequence[str], tmp_path: Path) -> None:
    place(tmp_path / "images")
    rows = [f"{c}.jpg,{name},{value}" for c, name, value in zip("abcd", ("x", "y") * 2, values, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join([f"image,label,{column}", *rows]))
    for root in (tmp_path, tmp_path / "labels.csv"):
        train, val = opened(root, val=None)
        assert classes_of(train) == {"images/a.jpg": "x", "images/b.jpg": "y"}
        assert classes_of(val) == {"images/c.jpg": "x", "images/d.jpg": "y"}
    with pytest.raises(BadInput, match=r"rows of several splits: train, val\. .*`root=.*labels.csv`"):
        opened(tmp_path, train=str(tmp_path / "labels.csv"))


def test_a_table_and_its_images_by_path(tmp_path: Path) -> None:
    place(tmp_path / "here")
    place(tmp_path / "there")
    text = "a.jpg,cat\nb.jpg,dog\nc.jpg,cat\nd.jpg,dog\n"
    (tmp_path / "one.csv").write_text(text)
    (tmp_path / "two.csv").write_text(text)
    train, val = opened(
        tmp_path / "nowhere", train=f"{tmp_path}/one.csv:{tmp_path}/here", val=f"{tmp_path}/two.csv:{tmp_path}/there"
    )
    assert [data.folder.name for data in (train, val)] == ["here", "there"]
    assert classes_of(train) == classes_of(val) == {"a.jpg": "cat", "b.jpg": "dog", "c.jpg": "cat", "d.jpg": "dog"}
    with pytest.raises(BadInput, match=r"'a.jpg' may be any of 2 images in .*: here/a.jpg, there/a.jpg"):
        opened(tmp_path, train="one.csv")


def test_equal_names_in_the_folders_of_the_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        place(tmp_path / split)
        (tmp_path / f"{split}.csv").write_text(TABLES["no header"][1])
    train, val = opened(tmp_path, val=None)
    assert [data.folder.name for data in (train, val)] == ["train", "val"]
    assert set(classes_of(train)) == set(classes_of(val)) == set(IMAGES)


def test_images_without_a_row_and_rows_without_an_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place(tmp_path / "images")
    place(tmp_path / "unlabelled")
    (tmp_path / "labels.csv").write_text("image,label\nimages/a.jpg,cat\nimages/b.jpg,dog\nimages/c.jpg,cat\n")
    opened(tmp_path)
    warnings = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert warnings == [f"{tmp_path}: 1 files (.jpg) are left out, because no row names them: images/d.jpg"]
    (tmp_path / "labels.csv").write_text("image,label\nimages/a.jpg,cat\nimages/b.jpg,dog\nimages/e.jpg,cat\n")
    with pytest.raises(BadInput, match=r"1 of 3 images of .*labels.csv are not in .*: images/e.jpg"):
        ClassDataset.open(tmp_path, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\na.jpg,cat\na.jpg,dog\n", "two classes for images/a.jpg: 'cat' and 'dog'"),
        ("image,label\n../secret.jpg,cat\nb.jpg,dog\n", r"'\.\./secret\.jpg' is not a path inside the image folder"),
        ("image,label\na.jpg,cat\nb.jpg\n", "row 3 has 1 cells, but the first row has 2"),
        ("image,cat,dog\na.jpg,1,1\nb.jpg,0,1\n", "several classes for a.jpg, but one is needed: cat, dog"),
        (
            "image,age,weight\na.jpg,7,3\nb.jpg,2,8\n",
            r"no column that is recognised .* image, age, weight\. .*`label_col",
        ),
        (
            "image,label,category\na.jpg,x,p\nb.jpg,x,q\n",
            "several columns that may be the class: 'label' and 'category'",
        ),
        ("image,label\na.jpg,\nb.jpg,\n", "no row of .* has a class"),
    ],
)
def test_tables_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    place(tmp_path / "images")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(BadInput, match=message):
        ClassDataset.open(tmp_path, "train")


def test_a_table_in_another_encoding(tmp_path: Path) -> None:
    place(tmp_path / "images")
    (tmp_path / "labels.csv").write_bytes(b"image,label\na.jpg,K\xe4fer\nb.jpg,Ameise\n")
    with pytest.raises(BadInput, match=r"labels\.csv is not a text in UTF-8 .*save it as UTF-8"):
        ClassDataset.open(tmp_path, "train")


def test_the_class_column_by_name(tmp_path: Path) -> None:
    place(tmp_path)
    (tmp_path / "labels.csv").write_text("image,age,weight\na.jpg,7,3\nb.jpg,2,8\nc.jpg,7,8\nd.jpg,7,8\n")
    data, _ = opened(tmp_path, label_column="Age")
    assert data.classes == ("2", "7")
    with pytest.raises(UserError, match=r"no column `label_column='size'`: its columns are image, age, weight"):
        opened(tmp_path, label_column="size")


def test_tables_of_other_things_are_not_recognised(tmp_path: Path) -> None:
    place(tmp_path, ("cat/a.jpg", "dog/b.jpg"))
    (tmp_path / "boxes.csv").write_text("filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,1,2,3,4\n")
    (tmp_path / "classes.csv").write_text("name,r,g,b\ncat,0,0,255\ndog,255,0,0\n")
    (tmp_path / "notes.txt").write_text("some words\nand more\n")
    assert read(tmp_path) == {"cat/a.jpg": "cat", "dog/b.jpg": "dog"}


def test_several_tables_without_the_name_of_a_split(tmp_path: Path) -> None:
    place(tmp_path)
    for name in ("one", "two"):
        (tmp_path / f"{name}.csv").write_text(TABLES["usual names"][1])
    with pytest.raises(BadInput, match=r"2 tables of images and classes: one\.csv, two\.csv.*`train=.*one\.csv`"):
        ClassDataset.open(tmp_path, "train")


def test_links_in_the_image_folder(tmp_path: Path) -> None:
    place(tmp_path / "secret")
    (tmp_path / "set" / "images").mkdir(parents=True)
    for name in IMAGES:
        (tmp_path / "set" / "images" / name).symlink_to(tmp_path / "secret" / name)
    for prefix in ("images/", ""):
        (tmp_path / "set" / "labels.csv").write_text("".join(f"{prefix}{c}.jpg,{c in 'ab'}\n" for c in "abcd"))
        with pytest.raises(BadInput, match="is a link that leads out"):
            ClassDataset.open(tmp_path / "set", "train")
        assert [len(part) for part in opened(tmp_path / "set", follow_links=True)] == [2, 2]


def test_tiny_imagenet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for synset in ("n02124075", "n01443537"):
        place(tmp_path / "train" / synset / "images", [f"{synset}_{i}.JPEG" for i in range(2)])
        (tmp_path / "train" / synset / f"{synset}_boxes.txt").write_text(f"{synset}_0.JPEG\t0\t0\t3\t3\n")
    place(tmp_path / "val" / "images", ["val_0.JPEG", "val_1.JPEG"])
    rows = "val_0.JPEG\tn02124075\t0\t0\t3\t3\nval_1.JPEG\tn01443537\t0\t0\t3\t3\n"
    (tmp_path / "val" / "val_annotations.txt").write_text(rows)
    place(tmp_path / "test" / "images", ["test_0.JPEG"])
    (tmp_path / "words.txt").write_text("n01443537\tgoldfish\nn02124075\tEgyptian cat\n")
    train, val = opened(tmp_path, val=None)
    assert (train.classes, train.labels.tolist()) == (("n01443537", "n02124075"), [0, 0, 1, 1])
    assert classes_of(val) == {"val_0.JPEG": "n02124075", "val_1.JPEG": "n01443537"}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    (tmp_path / "val" / "val_annotations.txt").write_text(rows.splitlines()[0])
    with pytest.raises(BadInput, match="does not name 1 of the images"):
        opened(tmp_path, val=None)


def test_a_missing_image_of_a_table_beside_its_images(tmp_path: Path) -> None:
    """The images of the two splits have the same names, and those of the table's own folder are meant."""
    for split in ("train", "val"):
        place(tmp_path / split, ("a.jpg", "b.jpg"))
        (tmp_path / split / "labels.csv").write_text("image,label\na.jpg,cat\nb.jpg,dog\nmissing.jpg,cat\n")
    with pytest.raises(BadInput, match=r"1 of 3 images of .* are not in .*train: missing.jpg"):
        opened(tmp_path)


def test_numbers_are_no_indices_into_numbers(tmp_path: Path) -> None:
    for split, first in (("train", 1), ("val", 0)):
        place(tmp_path / split, ("a.jpg", "b.jpg", "c.jpg"))
        rows = [f"{name}.jpg,{number}" for number, name in enumerate("abc", first)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["image,label", *rows]))
    with pytest.raises(BadInput, match=r"1 classes in .* are not among the 3 classes .*: 0\. Those"):
        opened(tmp_path)
