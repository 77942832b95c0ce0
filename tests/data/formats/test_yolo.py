"""YOLO's layouts as tools write them: configurations, folders and lists, boxes and polygons, and damage."""

import os
from pathlib import Path

import numpy as np
import pytest

from backbones.errors import BadInput
from data.box_dataset import BoxDataset
from data.options import BoxOptions
from tests.data.formats.sets import format_of, image, objects, read, text, tree

ULTRALYTICS = """\
# Ultralytics configuration
path: .  # dataset root dir
train: images/train
val: images/val
test:  # optional

names:
  0: cat
  1: traffic light
"""
ROBOFLOW = """\
train: ../train/images
val: ../valid/images
test: ../test/images

nc: 2
names: ['cat', 'traffic light']

roboflow:
  workspace: me
  project: cats
  version: 1
"""
LABEL = "0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.5 0.5\n"
BOXES = [("cat", 15, 5, 25, 15), ("traffic light", 0, 0, 20, 10)]


@pytest.fixture
def root(tmp_path):
    """Two images in train, one without label file; one in val."""
    return tree(tmp_path / "set", {
        "data.yaml": ULTRALYTICS,
        "images/train/a.jpg": (20, 40), "images/train/b.jpg": (20, 40), "images/val/c.jpg": (20, 40),
        "labels/train/a.txt": LABEL, "labels/val/c.txt": "1 0.5 0.5 1 1",
    })  # fmt: skip


def test_folders_of_a_configuration(root):
    columns = read(root)
    assert format_of(root) == "yolo"
    assert objects(columns) == {"a.jpg": BOXES, "b.jpg": []}
    assert (columns.classes, columns.category_ids) == (("cat", "traffic light"), (0, 1))
    assert columns.image_ids.tolist() == [1, 2]
    assert columns.sizes.tolist() == [[20, 40], [20, 40]]
    assert objects(read(root, "val")) == {"c.jpg": [("traffic light", 0, 0, 40, 20)]}
    assert objects(read(root, "valid")) == objects(read(root / "data.yaml", "val"))
    with pytest.raises(BadInput, match="has no split 'test'; it has train, val"):
        read(root, "test")


def test_the_folder_around_it(root, tmp_path):
    """As an archive is unpacked, with one folder inside."""
    outer = tmp_path / "outer"
    outer.mkdir()
    root.rename(outer / "set")
    assert objects(read(outer)) == {"a.jpg": BOXES, "b.jpg": []}


def test_the_data_set_has_them_as_targets(root):
    data = BoxDataset.open(root, "train")
    assert data[0].boxes.tolist() == [[15, 5, 25, 15], [0, 0, 20, 10]]
    assert data[0].labels.tolist() == [0, 1]
    assert data.report.images_without_boxes == 1


def test_roboflow_names_folders_one_level_too_high(tmp_path):
    root = tree(tmp_path / "set", {
        "data.yaml": ROBOFLOW, "README.roboflow.txt": "cats - v1\n",
        "train/images/a_jpg.rf.0123.jpg": (20, 40), "train/labels/a_jpg.rf.0123.txt": LABEL,
        "valid/images/b_jpg.rf.4567.jpg": (20, 40), "valid/labels/b_jpg.rf.4567.txt": "",
    })  # fmt: skip
    # Another data set beside this one, which the paths as written would mean.
    tree(tmp_path, {"train/images/other.jpg": (20, 40), "train/labels/other.txt": LABEL})
    assert objects(read(root)) == {"a_jpg.rf.0123.jpg": BOXES}
    with pytest.raises(BadInput, match="has no split 'test'; it has train, val"):
        read(root, "test")
    os.rename(root / "valid", root / "other")
    with pytest.raises(BadInput, match=r"data\.yaml: the path \.\./valid/images does not exist"):
        read(root, "val")


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("0 0.5 0.5 0.25 0.5 0.93", (15, 5, 25, 15)),  # a confidence
        ("0.0\t0.5  5e-1 0.25 0.5", (15, 5, 25, 15)),
        ("0 0.1 0.2 0.5 0.2 0.3 0.9", (4, 4, 20, 18)),  # three points
        ("0 0.1 0.2 0.5 0.2 0.3 0.9 0.87", (4, 4, 20, 18)),
        ("0 0.1 0.2 0.5 0.2 0.5 0.9 0.1 0.9", (4, 4, 20, 18)),  # four corners, as of rotated boxes
        ("0 0.5 0.5 1.01 1.02", (-0.2, -0.2, 40.2, 20.2)),  # leaves the image a little
    ],
)
def test_lines(root, line, box):
    text(root / "labels/train/a.txt", line)
    assert objects(read(root))["a.jpg"] == [("cat", *box)]


def test_keypoints_follow_the_box(root):
    text(root / "data.yaml", ULTRALYTICS + "kpt_shape: [2, 3]\n")
    text(root / "labels/train/a.txt", "0 0.5 0.5 0.25 0.5 0.5 0.6 2 0.4 0.3 1")
    assert objects(read(root))["a.jpg"] == [("cat", 15, 5, 25, 15)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", r"a\.txt: line 2 has the class 2, but .*data\.yaml names 2 classes, 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "has the class -1"),
        ("0.5 0.5 0.5 0.1 0.1", "has the class 0.5, not a whole number"),
        ("nan 0.5 0.5 0.1 0.1", "has the class nan"),
        ("cat 0.5 0.5 0.1 0.1", "has a value 'cat', not a number"),
        ("0 0.5 0.5 0.1", "line 2 has 4 numbers, not a class and a box or polygon"),
        ("0 12 7 30 22", "has 30 where fractions of the image size from 0 to 1 are expected"),
    ],
)
def test_damaged_lines_are_named(root, line, message):
    text(root / "labels/train/a.txt", f"0 0.5 0.5 0.25 0.5\n{line}\n")
    with pytest.raises(BadInput, match=message):
        read(root)


def test_infinite_boxes_are_left_out(root):
    text(root / "labels/train/a.txt", "0 0.5 0.5 nan 0.5\n0 0.5 0.5 inf 0.5\n0 0.5 0.5 0 0\n0 0.5 0.5 0.5 0.5")
    report = BoxDataset.open(root, "train").report
    assert (report.boxes, report.degenerate) == (1, 3)


def test_lists_of_images(tmp_path):
    root = tree(tmp_path / "set", {
        "my.yml": "path: ../set\ntrain: [part1.txt, images/more]\nval: val.txt\nnc: 2\nnames: [cat, traffic light]\n",
        "part1.txt": "\ufeff./images/all/a.JPG\r\nimages\\all\\b.jpg\r\n\r\n",
        "val.txt": "/content/drive/set/images/all/c.jpg\n",
        "images/all/a.JPG": (20, 40), "images/all/b.jpg": (20, 40), "images/all/c.jpg": (20, 40),
        "images/more/x/d.jpg": (20, 40), "labels/all/a.TXT": LABEL, "labels/all/c.txt": LABEL,
        "labels/more/x/d.txt": LABEL,
    })  # fmt: skip
    assert objects(read(root)) == {"all/a.JPG": BOXES, "all/b.jpg": [], "more/x/d.jpg": BOXES}
    assert objects(read(root, "val")) == {"c.jpg": BOXES}


def test_a_configuration_may_reach_into_the_folder_beside_it_but_no_further(tmp_path):
    root = tree(tmp_path / "all", {
        "set/data.yaml": "train: ../images/train\nval: ../../images/val\nnames: [cat, traffic light]\n",
        "images/train/a.jpg": (20, 40), "labels/train/a.txt": LABEL,
    }) / "set"  # fmt: skip
    tree(tmp_path, {"images/val/c.jpg": (20, 40), "labels/val/c.txt": LABEL})
    assert objects(read(root)) == {"a.jpg": BOXES}
    with pytest.raises(BadInput, match=r"leads out of .*all: refused. To read it, pass `follow_links=True`") as caught:
        read(root, "val")
    assert caught.value.settings == ("data.follow_links",)
    assert objects(read(root, "val", follow_links=True)) == {"c.jpg": BOXES}


@pytest.mark.parametrize("real_link", [True, False])
def test_links_and_the_texts_that_git_writes_for_them(tmp_path, real_link):
    root = tree(tmp_path / "all", {
        "detection/config.yaml": ULTRALYTICS, "images/train/a.jpg": (20, 40), "detection/labels/train/a.txt": LABEL,
    }) / "detection"  # fmt: skip
    if real_link:
        (root / "images").symlink_to("../images")
    else:
        text(root / "images", "../images")
    columns = read(root)
    assert objects(columns) == {"a.jpg": BOXES}
    assert columns.folder == (tmp_path / "all/images/train").resolve()


@pytest.mark.case("R16")
@pytest.mark.parametrize("real_link", [True, False])
def test_links_that_leave_the_boundary_are_refused(tmp_path, real_link):
    root = tree(tmp_path / "a/all", {"detection/config.yaml": ULTRALYTICS, "detection/labels/train/a.txt": LABEL})
    image(tmp_path / "images/train/a.jpg")
    link, target = root / "detection/images", "../../../images"
    if real_link:
        link.symlink_to(target)
    else:
        text(link, target)
    with pytest.raises(BadInput, match=r"leads out of .*refused"):
        read(root / "detection")


@pytest.mark.case("R16")
def test_a_linked_image_out_of_the_folder_is_refused(root, tmp_path):
    image(tmp_path / "secret.jpg")
    (root / "images/train/a.jpg").unlink()
    (root / "images/train/a.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(BadInput, match="leads out of"):
        BoxDataset.open(root, "train")
    BoxDataset.open(root, "train", options=BoxOptions(follow_links=True))


@pytest.mark.parametrize(
    "files",
    [
        {"classes.txt": "cat\ntraffic light\n", "images/a.jpg": (20, 40), "labels/a.txt": LABEL,
         "images/b.jpg": (20, 40), "notes.json": "{}"},  # Label Studio
        {"a.jpg": (20, 40), "a.txt": LABEL, "b.jpg": (20, 40), "classes.txt": "cat\ntraffic light"},  # labelImg
        {"train/images/a.jpg": (20, 40), "train/labels/a.txt": LABEL, "train/images/b.jpg": (20, 40),
         "classes.txt": "cat\ntraffic light\n"},
        {"images/train/a.jpg": (20, 40), "labels/train/a.txt": LABEL, "images/train/b.jpg": (20, 40),
         "labels/classes.txt": "cat\ntraffic light\n"},
        {"images/train/a.jpg": (20, 40), "labels/train/a.txt": LABEL, "images/train/b.jpg": (20, 40),
         "labels/train/classes.txt": "cat\ntraffic light\n"},
        {"train/a.jpg": (20, 40), "train/a.txt": LABEL, "train/b.jpg": (20, 40),
         "train/_darknet.labels": "cat\ntraffic light\n"},  # Roboflow's export for Darknet
    ],
    ids=["label studio", "labelimg", "split/images", "images/split", "names in a split", "darknet"],
)  # fmt: skip
def test_without_a_configuration(tmp_path, files):
    columns = read(tree(tmp_path / "set", files))
    assert {Path(name).name: found for name, found in objects(columns).items()} == {"a.jpg": BOXES, "b.jpg": []}
    assert columns.classes == ("cat", "traffic light")


def test_without_any_names_the_numbers_are_names(tmp_path, caplog):
    root = tree(tmp_path / "set", {"images/a.jpg": (20, 40), "labels/a.txt": LABEL})
    assert objects(read(root)) == {"a.jpg": [("0", 15, 5, 25, 15), ("1", 0, 0, 20, 10)]}
    assert "no list of class names" in caplog.text


def test_equal_names_in_several_folders(tmp_path):
    root = tree(tmp_path / "set", {
        "classes.txt": "cat\ntraffic light\n", "images/x/1.jpg": (20, 40), "images/y/1.jpg": (20, 40),
        "labels/x/1.txt": LABEL, "labels/y/1.txt": "0 0.5 0.5 1 1",
    })  # fmt: skip
    assert objects(read(root)) == {"x/1.jpg": BOXES, "y/1.jpg": [("cat", 0, 0, 40, 20)]}


def test_darknet(tmp_path):
    """As CVAT writes it: paths start with data/, which is no folder of the archive."""
    root = tree(tmp_path / "set", {
        "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
        "obj.names": "cat\ntraffic light\n", "train.txt": "data/obj_train_data/a.jpg\ndata/obj_train_data/b.jpg\n",
        "obj_train_data/a.jpg": (20, 40), "obj_train_data/a.txt": LABEL, "obj_train_data/b.jpg": (20, 40),
    })  # fmt: skip
    assert objects(read(root)) == {"a.jpg": BOXES, "b.jpg": []}


@pytest.mark.parametrize(
    "place",
    ["{root}/images/train", "{root}/train.txt", "{root}/labels/train:{root}/images/train", "{root}/labels/train"],
)
def test_a_split_by_its_path(root, place):
    text(root / "train.txt", "images/train/a.jpg\nimages/train/b.jpg\n")
    assert objects(read(root / "nowhere", place.format(root=root), may_be_path=True)) == {"a.jpg": BOXES, "b.jpg": []}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("train: [", "is not valid YAML"),
        ("train: images/train\nval: x\nnames: 7", "has names 7, not a list"),
        ("train: images/train\nval: x\nnc: 3\nnames: [a, b]", "has nc 3, but 2 names"),
        ("train: images/train\nval: x\nnames: {x: a}", "has a class number 'x', not a number"),
        ("train: {a: b}\nval: x\nnames: [a]", "has train {'a': 'b'}, not a path"),
        ("train: images/train\nval: x\nnames: [a, null]", r"has names\[1\] None, not a class name"),
        ("train: images/train\nval: x", "has nc 'nothing', not a number"),
        ("train: images\\none\nval: x\nnames: [a]", r"the path images\\none does not exist"),
        ("train: labels/train/a.txt\nval: x\nnames: [a]", "line 1 is '0 0.5"),
        ("names: !!python/object/apply:os.system ['touch OWNED']\ntrain: x", "is not valid YAML"),
    ],
)
def test_damaged_configurations(root, config, message):
    text(root / "data.yaml", config)
    with pytest.raises(BadInput, match=message):
        read(root)


def test_names_without_a_list(root):
    text(root / "data.yaml", "train: images/train\nval: images/val\nnc: 2\n")
    assert read(root).classes == ("class_0", "class_1")
    text(root / "data.yaml", "train: images/train\nval: images/val\nnames: {1: traffic light, 0: cat}\n")
    assert read(root).classes == ("cat", "traffic light")


def test_several_configurations(root):
    text(root / "other.yaml", ULTRALYTICS)
    assert len(read(root)) == 2  # data.yaml is the usual name
    os.rename(root / "data.yaml", root / "mine.yaml")
    with pytest.raises(BadInput, match=r"several configurations: mine\.yaml, other\.yaml. Name one as `root`"):
        read(root)
    assert len(read(root / "other.yaml")) == 2


def test_images_without_any_label_file(root):
    (root / "labels/train/a.txt").unlink()
    with pytest.raises(BadInput, match=r"none of the 2 images in .* has a label file; searched: .*labels/train"):
        read(root)


def test_files_without_a_partner_are_counted(tmp_path):
    root = tree(tmp_path / "set", {"classes.txt": "cat\ntraffic light\n", "images/a.jpg": (20, 40),
                                   "images/b.heic": b"x", "labels/a.txt": LABEL, "labels/z.txt": LABEL})  # fmt: skip
    left_out = read(root).left_out
    assert left_out == {"their suffix is not that of an image": ["b.heic"], "they have no image": ["z.txt"]}


def test_orientation_is_reported_and_applied(tmp_path, caplog):
    """A photograph stored lying (20 x 40) with the tag that it stands (40 x 20)."""
    root = tree(tmp_path / "set", {"data.yaml": ULTRALYTICS, "labels/train/a.txt": "0 0.5 0.5 0.5 0.5"})
    image(root / "images/train/a.jpg", 20, 40, turn=6)
    data = BoxDataset.open(root, "train")
    assert data[0].boxes.tolist() == [[10, 5, 30, 15]]
    assert data[0].image.shape == (20, 40, 3)
    assert "1 of 1 checked images" in caplog.text
    assert "--data.exif apply" in caplog.text
    caplog.clear()
    for exif, box, shape in (("apply", [5, 10, 15, 30], (40, 20, 3)), ("ignore", [10, 5, 30, 15], (20, 40, 3))):
        data = BoxDataset.open(root, "train", options=BoxOptions(exif=exif))
        assert data[0].boxes.tolist() == [box]
        assert data[0].image.shape == shape
    assert not caplog.text


def test_unreadable_images(root):
    (root / "images/train/a.jpg").write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"a\.jpg"):
        BoxDataset.open(root, "train")[0]
    assert not BoxDataset.open(root, "train", skip_bad=1)[0].readable
    assert np.isfinite(read(root).boxes).all()


def test_equal_labels_have_equal_fingerprints(root):
    before = BoxDataset.open(root, "train").fingerprint
    text(root / "labels/train/a.txt", LABEL.replace("0.25 0.5\n", "0.250 0.5\n\n"))
    assert BoxDataset.open(root, "train").fingerprint == before
    text(root / "labels/train/a.txt", LABEL.replace("0.25 0.5\n", "0.26 0.5\n"))
    assert BoxDataset.open(root, "train").fingerprint != before


def test_labels_of_another_format_are_named(root, caplog):
    text(root / "train.csv", "image,xmin,ymin,xmax,ymax,class\na.jpg,1,1,9,9,cat\n")
    read(root)
    assert "is read as yolo, since it has a YOLO configuration" in caplog.text
    assert "csv, since train.csv is a table of boxes. Choose one with --data.format" in caplog.text


def test_label_files_without_an_image_are_counted(root):
    """Their images are missing, or have another name. A list of images may leave out some."""
    text(root / "labels/train/lost.txt", LABEL)
    text(root / "labels/train/notes.txt", "made by hand")
    assert read(root).left_out == {"they have no image": ["lost.txt"]}
    text(root / "data.yaml", ULTRALYTICS.replace("images/train", "train.txt"))
    text(root / "train.txt", "images/train/a.jpg\n")
    assert read(root).left_out == {}
