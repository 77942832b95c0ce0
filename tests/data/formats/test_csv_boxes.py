"""Tables of boxes as tools write them: names and order of columns, delimiters, fractions, splits, and damage."""

import numpy as np
import pytest

from backbones.errors import BadInput
from data.box_dataset import BoxDataset
from data.options import BoxOptions
from tests.data.formats.sets import format_of, image, objects, read, text, tree

TENSORFLOW = """\
filename,width,height,class,xmin,ymin,xmax,ymax
a.jpg,40,20,cat,5,4,25,16
a.jpg,40,20,"dog, big",1,2,30,18
b.jpg,40,20,cat,0,0,40,20
"""
FOUND = {"a.jpg": [("cat", 5, 4, 25, 16), ("dog, big", 1, 2, 30, 18)], "b.jpg": [("cat", 0, 0, 40, 20)]}
CAT = {"a.jpg": [("cat", 5, 4, 25, 16)]}


@pytest.mark.parametrize("places", [("", "images/"), ("", "images/train/"), ("train/_", "train/"), ("", "")])
def test_tensorflow_and_roboflow(tmp_path, places):
    prefix, images = places
    name = f"{prefix}annotations.csv" if prefix else "train_labels.csv"
    root = tree(tmp_path / "set", {
        name: TENSORFLOW,
        "test/_annotations.csv" if prefix else "test_labels.csv": TENSORFLOW.replace("b.jpg", "a.jpg"),
        f"{images}a.jpg": (20, 40), f"{images}b.jpg": (20, 40), "test/a.jpg": (20, 40),
    })  # fmt: skip
    assert format_of(root) == "csv"
    columns = read(root)
    assert objects(columns) == FOUND
    assert columns.classes == ("cat", "dog, big")
    assert columns.sizes.tolist() == [[20, 40], [20, 40]]
    assert list(objects(read(root, "test"))) == ["a.jpg"]


@pytest.mark.parametrize(
    "content",
    [
        "/old/machine/images/a.jpg,5,4,25,16,cat\nimages/b.jpg,,,,,\n",  # keras-retinanet
        "a.jpg,5,4,25,16,cat,40,20\nb.jpg,,,,,,40,20\n",  # SKU-110K
        "\ufeffClass;Image;X_Min;Y_Min;X_Max;Y_Max\r\ncat;C:\\data\\a.jpg;5,0;4,0;25,0;16,0\r\n;b.jpg;;;;\r\n",
        "image\tx\ty\tw\th\tlabel\na.jpg\t5\t4\t20\t12\tcat\nb.jpg\t\t\t\t\t\n",
        "image_name,bbox_x,bbox_y,bbox_width,bbox_height,image_width,image_height,label\n"
        "a.jpg,5,4,20,12,40,20,cat\nb.jpg,,,,,40,20,\n",
        "path,cx,cy,width,height,name\na.jpg,15,10,20,12,cat\nb.jpg,,,,,\n",
        "file_name,category,xmin,ymin,width,height\na,cat,5,4,20,12\nb,,,,,\n",
        'image_id,width,height,bbox,class\na,40,20,"[5.0, 4.0, 20.0, 12.0]",cat\nb,40,20,,\n',
        "filename|left|top|right|bottom|class\na.jpg|5|4|25|16|cat\nb.jpg|||||\n",
    ],
)
def test_columns_delimiters_and_images_without_objects(tmp_path, content):
    root = tree(tmp_path / "set", {"images/a.jpg": (20, 40), "images/b.jpg": (20, 40)})
    (root / "boxes.csv").write_bytes(content.encode())
    assert objects(read(root)) == {**CAT, "b.jpg": []}


def test_open_images(tmp_path):
    """Fractions, classes as codes, names without suffix, and group boxes, which are COCO's crowds."""
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction\n"
    root = tree(tmp_path / "set", {
        "train-annotations-bbox.csv": head + "0001eeaf,xclick,/m/01g317,1,0.125,0.625,0.2,0.8,0,0,0,0\n"
                                             "0001eeaf,xclick,/m/0cmf2,1,0,1,0,1,0,0,1,0\n",
        "validation-annotations-bbox.csv": head + "0002,xclick,/m/01g317,1,0.5,1,0.5,1,0,0,0,0\n",
        "class-descriptions-boxable.csv": "/m/01g317,Person\n/m/0cmf2,Airplane\n",
        "train/0001eeaf.jpg": (20, 40), "validation/0002.jpg": (20, 40),
    })  # fmt: skip
    columns = read(root)
    assert objects(columns) == {"0001eeaf.jpg": [("Person", 5, 4, 25, 16), ("Airplane", 0, 0, 40, 20)]}
    assert columns.crowd.tolist() == [False, True]
    assert objects(read(root, "val")) == {"0002.jpg": [("Person", 20, 10, 40, 20)]}


def test_fractions_of_turned_images(tmp_path):
    root = tree(tmp_path / "set", {"train.csv": "file,x1,y1,x2,y2,class\na.jpg,0.1,0.2,0.5,0.7,cat\n"})
    image(root / "a.jpg", 20, 40, turn=6)
    assert BoxDataset.open(root, "train")[0].boxes.tolist() == [[4, 4, 20, 14]]
    np.testing.assert_allclose(read(root, exif="apply").boxes, [[2, 8, 10, 28]])
    assert BoxDataset.open(root, "train", options=BoxOptions(exif="apply"))[0].image.shape == (40, 20, 3)


def test_a_column_of_splits(tmp_path):
    root = tree(tmp_path / "set", {
        "labels.csv": "set,image,x1,y1,x2,y2,class\nTRAIN,a.jpg,5,4,25,16,cat\nVALIDATION,b.jpg,1,1,9,9,dog\n",
        "a.jpg": (20, 40), "b.jpg": (20, 40),
    })  # fmt: skip
    assert objects(read(root)) == CAT
    assert objects(read(root, "val")) == objects(read(root / "labels.csv", "val")) == {"b.jpg": [("dog", 1, 1, 9, 9)]}
    with pytest.raises(BadInput, match="has no split 'test'; it has train, validation"):
        read(root, "test")


@pytest.mark.parametrize(
    ("numbers", "options", "box", "warned"),
    [
        (("5 4 25 16", "30 10 40 20"), {}, (5, 4, 25, 16), False),  # as corner and size the second one leaves
        (("5 4 20 12", "30 10 8 9"), {}, (5, 4, 25, 16), False),  # cannot be corners
        (("5 4 20 12", "1 2 3 4"), {}, (5, 4, 25, 16), True),
        (("5 4 20 12", "1 2 3 4"), {"boxes": "xyxy"}, (5, 4, 20, 12), False),
        (("15 10 20 12", "10 10 8 9"), {"boxes": "cxcywh"}, (5, 4, 25, 16), False),
    ],
)
def test_the_meaning_of_four_numbers(tmp_path, caplog, numbers, options, box, warned):
    rows = "".join(f"a.jpg,cat,[{values}]\n" for values in numbers)
    root = tree(tmp_path / "set", {"train.csv": f"image,class,bbox\n{rows}", "a.jpg": (20, 40)})
    assert objects(read(root, **options))["a.jpg"][0] == ("cat", *box)
    assert ("--data.boxes xyxy" in caplog.text) == warned


def test_a_table_without_classes_has_one(tmp_path):
    root = tree(tmp_path / "set", {"train.csv": 'image_id,bbox\na,"[5, 4, 30, 12]"\n', "train/a.jpg": (20, 40)})
    assert objects(read(root)) == {"a.jpg": [("object", 5, 4, 35, 16)]}


def test_a_split_by_its_path(tmp_path):
    root = tree(tmp_path / "set", {"mine.csv": TENSORFLOW, "photos/a.jpg": (20, 40), "photos/b.jpg": (20, 40)})
    assert objects(read(tmp_path, f"{root}/mine.csv:{root}/photos", may_be_path=True)) == FOUND


def test_unnamed_and_missing_images(tmp_path):
    root = tree(tmp_path / "set", {"train.csv": TENSORFLOW, "a.jpg": (20, 40), "c.jpg": (20, 40)})
    assert read(root).left_out == {"train.csv does not name them": ["c.jpg"]}
    with pytest.raises(BadInput, match=r"1 of 2 images of .*train\.csv are not in .*set: b\.jpg"):
        BoxDataset.open(root, "train")


@pytest.mark.case("R16")
@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "{root}/../secret.jpg", "C:\\secret.jpg"])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    image(tmp_path / "secret.jpg")
    root = tmp_path / "set"
    tree(root, {"train.csv": f"image,x1,y1,x2,y2,class\n{name.format(root=root)},5,4,25,16,cat\n", "a.jpg": (20, 40)})
    with pytest.raises(BadInput, match=r"train\.csv: line 2 has the image .*refused, not read"):
        read(root)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg,40,20,cat,x,4,25,16", r"train\.csv: line 3 has x1 'x', not a number"),
        ("a.jpg,40,20,cat,5,4,,16", "line 3 has x2 '', not a number"),
        ("a.jpg,40,20,,5,4,25,16", "line 3 has class '', not a class name"),
        ("a.jpg,40,20,cat,5", "line 3 has 5 columns, fewer than 8"),
        ("a.jpg,-40,20,cat,5,4,25,16", "line 3 has an impossible width or height"),
        ("a.jpg,30,20,cat,5,4,25,16", "says that image a.jpg is 40 x 20 and that it is 30 x 20 pixels"),
        ('a.jpg,"40', "line 3 has 2 columns"),
    ],
)
def test_damaged_rows_are_named(tmp_path, line, message):
    content = "\n".join([*TENSORFLOW.splitlines()[:2], line])
    root = tree(tmp_path / "set", {"train.csv": content, "a.jpg": (20, 40)})
    with pytest.raises(BadInput, match=message):
        read(root)


def test_tables_that_cannot_be_told_apart(tmp_path):
    root = tree(tmp_path / "set", {"one.csv": TENSORFLOW, "two.csv": TENSORFLOW, "notes.csv": "a,b\n1,2\n",
                                   "a.jpg": (20, 40)})  # fmt: skip
    with pytest.raises(BadInput, match=r"several label files: one\.csv, two\.csv. Name one with `train`"):
        read(root)
    text(root / "notes.csv", "")
    (root / "two.csv").unlink()
    assert list(objects(read(root))) == ["a.jpg", "b.jpg"]
