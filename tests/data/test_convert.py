"""Data sets in another layout: nothing is lost that the layout can hold, what is lost is listed, and no half folder."""

import json
import os

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from backbones.errors import BadInput, UserError
from data.box_dataset import BoxDataset
from data.class_dataset import ClassDataset
from data.convert import voc
from data.convert.__main__ import main
from data.convert.runner import WRITERS, convert
from data.mask_dataset import MaskDataset
from data.options import BoxOptions, MaskOptions
from tests.data.formats.sets import image, objects, read, text, tree
from tests.data.formats.writers import Scene, write

SCENES = [
    Scene("a.png", 20, 40, [("traffic light", 1.25, 2.0, 13.1, 17.7), ("cat", -3.5, 1.0, 9.0, 12.0)]),
    Scene("b.png", 17, 23, []),
    Scene("c.png", 17, 23, [("猫", 0.1, 0.2, 22.9, 16.9)]),
]
CLASSES = ["traffic light", "cat", "猫", "dog & co"]
DIFFICULT = "marks of difficult objects (they become ordinary objects)"


@pytest.fixture
def root(tmp_path):
    """A COCO set with train and val, whose classes have ids from 1."""
    write("coco", tmp_path / "set", SCENES, CLASSES)
    file = tmp_path / "set/annotations/instances_train.json"
    text(file.with_name("instances_val.json"), file.read_text("utf-8"))
    (tmp_path / "set/val").symlink_to("train")
    return tmp_path / "set"


@pytest.mark.parametrize("first", ["coco", "yolo", "voc"])
@pytest.mark.parametrize("second", ["coco", "yolo", "voc"])
def test_there_and_back(root, tmp_path, first, second):
    convert(str(root), first, tmp_path / "one")
    report = convert(str(tmp_path / "one"), second, tmp_path / "two")
    convert(str(tmp_path / "two"), "coco", tmp_path / "three")
    assert report.splits == {"train": (3, 3), "val": (3, 3)}
    for split in ("train", "val"):
        before, after = read(root, split), read(tmp_path / "three", split)
        assert [os.path.basename(name) for name in after.names] == before.names
        assert after.classes == before.classes
        np.testing.assert_allclose(after.boxes, before.boxes, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(after.label, before.label)
        np.testing.assert_array_equal(after.image, before.image)
        np.testing.assert_array_equal(after.sizes, before.sizes)
        np.testing.assert_array_equal(after.image_ids, before.image_ids)  # 1, 2, 3 by name
    first_image = tmp_path / "three/train" / read(tmp_path / "three").names[0]
    assert first_image.read_bytes() == (root / "train/a.png").read_bytes()


def test_ids_stay_where_the_layout_has_ids(root, tmp_path):
    file = root / "annotations/instances_train.json"
    document = json.loads(file.read_text("utf-8"))
    for record in document["images"]:
        record["id"] += 100
    for record in document["categories"]:
        record["id"] *= 7
    for annotation in document["annotations"]:
        annotation["image_id"] += 100
        annotation["category_id"] *= 7
    text(file, json.dumps(document))
    report = convert(str(root), "coco", tmp_path / "out")
    assert not report.lost
    columns = read(tmp_path / "out")
    assert columns.image_ids.tolist() == [101, 102, 103]
    assert columns.category_ids == read(tmp_path / "out", "val").category_ids == (7, 14, 21, 28)
    loaded = COCO(tmp_path / "out/annotations/instances_train.json")
    assert len(loaded.getAnnIds(catIds=[14], imgIds=[101])) == 1
    lost = convert(str(root), "yolo", tmp_path / "yolo").lost
    assert lost == {"ids of images": 3, "ids of categories": 4}


def test_yolo_files(root, tmp_path):
    """As Ultralytics reads them."""
    convert(str(root), "yolo", tmp_path / "out")
    config = yaml.safe_load((tmp_path / "out/data.yaml").read_text("utf-8"))
    assert config == {"train": "images/train", "val": "images/val", "names": dict(enumerate(CLASSES))}
    assert (tmp_path / "out/labels/train/b.txt").read_text() == ""
    rows = np.loadtxt(tmp_path / "out/labels/train/a.txt")
    np.testing.assert_allclose(rows[0], [0, 7.175 / 40, 9.85 / 20, 11.85 / 40, 15.7 / 20], atol=1e-12)
    assert (rows >= 0).all()


def test_boxes_that_yolo_refuses_are_clipped_or_left_out(tmp_path):
    boxes = [(-30.0, 1.0, 60.0, 9.0), (50.0, 1.0, 60.0, 9.0), (9.0, 1.0, 5.0, 9.0), (3.0, 4.0, 3.0, 9.0)]
    write("coco", tmp_path / "set", [Scene("a.png", 20, 40, [("cat", *box) for box in boxes])], ["cat"])
    report = convert(str(tmp_path / "set"), "yolo", tmp_path / "out")
    assert report.lost["parts of boxes beyond the image (they are clipped)"] == 1
    assert report.lost["boxes that are outside of their image or have a negative size"] == 2
    assert objects(read(tmp_path / "out"))["a.png"] == [("cat", 0, 1, 40, 9), ("cat", 3, 4, 3, 9)]


def crowded(root):
    """An image with an ordinary object, a crowd, and a box that is not finite; with areas of masks."""
    write("coco", root, [Scene("a.png", 20, 40, [("cat", 1, 2, 11, 12)] * 3)], ["cat"])
    file = root / "annotations/instances_train.json"
    document = json.loads(file.read_text())
    document["annotations"][0]["area"] = 60
    document["annotations"][1]["iscrowd"] = 1
    document["annotations"][2]["bbox"][2] = float("nan")
    text(file, json.dumps(document))
    return root


@pytest.mark.parametrize(
    ("to", "lost"),
    [
        ("coco", {"boxes with coordinates that are not finite": 1}),
        ("yolo", {"boxes with coordinates that are not finite": 1, "crowd regions": 1, "ids of categories": 1,
                  "areas of objects, other than those of their boxes": 1}),
        ("voc", {"boxes with coordinates that are not finite": 1, "crowd regions": 1,
                 "areas of objects, other than those of their boxes": 1}),
    ],
)  # fmt: skip
def test_what_is_lost_is_counted(tmp_path, to, lost):
    report = convert(str(crowded(tmp_path / "set")), to, tmp_path / "out")
    assert report.lost == lost
    columns = read(tmp_path / "out")
    assert columns.crowd.tolist() == ([False, True] if to == "coco" else [False])
    if to == "coco":
        assert columns.areas.tolist() == [60, 100]


def test_difficult_objects(tmp_path):
    write("voc flat", tmp_path / "set", [Scene("a.png", 20, 40, [("cat", 1, 2, 11, 12)])], ["cat"])
    file = tmp_path / "set/train/a.xml"
    text(file, file.read_text().replace("<difficult>0", "<difficult>1"))
    assert convert(str(tmp_path / "set"), "voc", tmp_path / "voc").lost == {}
    assert read(tmp_path / "voc").difficult.tolist() == [True]
    assert convert(str(tmp_path / "set"), "coco", tmp_path / "coco").lost == {DIFFICULT: 1}


def test_splits_with_equal_names_and_other_classes(tmp_path):
    """In VOC's single folder, each split then has a folder."""
    text(tmp_path / "set/classes.txt", "cat\ndog\n")
    for split, label in (("train", "0 0.5 0.5 0.5 0.5"), ("valid", "1 0.5 0.5 0.25 0.5"), ("test", "0 0.5 0.5 1 1")):
        tree(tmp_path / "set", {f"{split}/images/1.png": (20, 40), f"{split}/labels/1.txt": label})
    report = convert(str(tmp_path / "set"), "voc", tmp_path / "out")
    assert report.splits == {"test": (1, 1), "train": (1, 1), "val": (1, 1)}
    assert objects(read(tmp_path / "out", "val")) == {"val/1.png": [("dog", 15, 5, 25, 15)]}
    assert (tmp_path / "out/Annotations/test/1.xml").is_file()


def test_names_that_differ_only_in_their_suffix(tmp_path):
    write("coco", tmp_path / "set", [Scene("1.png", objects=[("cat", 1, 2, 11, 12)]), Scene("1.bmp")], ["cat"])
    report = convert(str(tmp_path / "set"), "yolo", tmp_path / "out")
    assert report.lost["names of files that differ only in their suffix or folder (a number is added)"] == 1
    found = objects(read(tmp_path / "out"))
    assert found == {"1.png": [("cat", 1, 2, 11, 12)], "1_2.bmp": []}


def test_classes_of_all_splits_by_name(root, tmp_path):
    file = root / "annotations/instances_val.json"
    document = json.loads(file.read_text("utf-8"))
    document["categories"] = [{"id": 1, "name": "猫"}, {"id": 2, "name": "extra"}, {"id": 9, "name": "cat"}]
    for annotation, category in zip(document["annotations"], (9, 2, 1), strict=True):
        annotation["category_id"] = category
    text(file, json.dumps(document))
    convert(str(root), "coco", tmp_path / "out")
    train, val = read(tmp_path / "out"), read(tmp_path / "out", "val")
    assert train.classes == val.classes == (*CLASSES, "extra")
    assert train.category_ids == val.category_ids == (1, 2, 3, 4, 5)
    assert [one[0] for found in objects(val).values() for one in found] == ["cat", "extra", "猫"]


def test_scaled_boxes(root, tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        with Image.open(root / "train" / name) as picture:
            picture.resize((2 * picture.width, 3 * picture.height)).save(root / "train" / name)
    with pytest.raises(BadInput, match="`scale_boxes=True`"):
        convert(str(root), "yolo", tmp_path / "out")
    convert(str(root), "yolo", tmp_path / "out", BoxOptions(scale_boxes=True))
    after = read(tmp_path / "out")
    np.testing.assert_allclose(after.boxes, read(root).boxes * [2, 3, 2, 3], atol=1e-6)
    assert after.sizes.tolist() == [[60, 80], [51, 46], [51, 46]]


def test_orientation(tmp_path, caplog):
    """Boxes of upright images stay so in COCO, by the sizes; YOLO needs the flag that the report names."""
    write("coco", tmp_path / "set", [Scene("a.jpg", 40, 20, [("cat", 2, 25, 12, 38)])], ["cat"])
    image(tmp_path / "set/train/a.jpg", 20, 40, turn=6)
    assert not convert(str(tmp_path / "set"), "coco", tmp_path / "coco").lost
    assert BoxDataset.open(tmp_path / "coco", "train")[0].boxes.tolist() == [[2, 25, 12, 38]]
    report = convert(str(tmp_path / "set"), "yolo", tmp_path / "yolo")
    assert report.lost["orientations of images whose boxes are upright (read with --data.exif apply)"] == 1
    data = BoxDataset.open(tmp_path / "yolo", "train", options=BoxOptions(exif="apply"))
    np.testing.assert_allclose(data[0].boxes, [[2, 25, 12, 38]], atol=1e-4)


def test_a_file_with_its_images(root, tmp_path):
    place = f"{root}/annotations/instances_val.json:{root}/val"
    assert convert(place, "yolo", tmp_path / "one").splits == {"train": (3, 3)}
    options = BoxOptions(train=f"{root}/annotations/instances_train.json:{root}/train", val=place)
    assert list(convert(str(root), "yolo", tmp_path / "two", options).splits) == ["train", "val"]


def test_a_folder_that_exists_is_refused_and_a_failure_leaves_none(root, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="out exists already"):
        convert(str(root), "yolo", tmp_path / "out")
    before = sorted(tmp_path.iterdir())
    (root / "train/c.png").unlink()
    with pytest.raises(BadInput, match=r"c\.png"):
        convert(str(root), "yolo", tmp_path / "new")

    def no_space(*_):
        raise OSError(28, "No space left on device", "x.png")

    monkeypatch.setattr(voc, "copy_image", no_space)
    image(root / "train/c.png", 17, 23)
    with pytest.raises(BadInput, match=r"cannot write x\.png: No space left on device"):
        convert(str(root), "voc", tmp_path / "new")
    assert sorted(tmp_path.iterdir()) == before


def test_masks(tmp_path):
    root = tree(tmp_path / "set", {"classes.txt": "sky\nroad\n"})
    masks = {}
    for split, name in (("train", "a"), ("train", "b"), ("val", "a")):
        image(root / f"images/{split}/{name}.png", 12, 16)
        masks[split, name] = np.random.default_rng(len(masks)).choice([0, 1, 255], (12, 16)).astype(np.uint8)
        (root / f"annotations/{split}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(masks[split, name]).save(root / f"annotations/{split}/{name}.png")
    options = MaskOptions(ignore_index=255)
    report = convert(str(root), "masks", tmp_path / "out", options)
    assert report.splits == {"train": (2, 2), "val": (1, 1)}
    assert report.lost == {"masks with pixels without a class, as 255 (read with --data.ignore_index 255)": 3}
    for split, names in (("train", "ab"), ("val", "a")):
        data = MaskDataset.open(tmp_path / "out", split, options=options)
        assert data.classes == ("sky", "road")
        for index, name in enumerate(names):
            np.testing.assert_array_equal(data[index].mask, masks[split, name])


def test_folders(tmp_path):
    root = tree(tmp_path / "set", {
        "train/cat/x/1.png": (8, 8), "train/cat/y/1.png": (8, 9), "train/dog/2.png": (8, 8), "train/empty/.keep": "",
        "valid/dog/3.png": (8, 8),
    })  # fmt: skip
    report = convert(str(root), "folders", tmp_path / "out")
    assert report.splits == {"train": (3, 3), "val": (1, 1)}
    data = ClassDataset.open(tmp_path / "out", "train")
    assert data.classes == ("cat", "dog", "empty")
    assert [(data.name(i), data.classes[label]) for i, label in enumerate(data.labels)] == [
        ("cat/1.png", "cat"), ("cat/1_2.png", "cat"), ("dog/2.png", "dog")
    ]  # fmt: skip


def test_command(root, tmp_path, capsys):
    crowded(tmp_path / "crowded")
    assert main([str(tmp_path / "crowded"), "--to", "yolo", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "train      1 images, 1 boxes\n" in printed
    assert "not held by yolo: 1 crowd regions\n" in printed
    assert main([str(root), "--to", "yolo", str(tmp_path / "out")]) == 2
    capsys.readouterr()
    assert main([str(tmp_path / "nowhere"), "--to", "yolo", str(tmp_path / "new")]) == 3
    assert "Pass the place of the data as ROOT" in capsys.readouterr().err
    assert (
        main([str(root), str(tmp_path / "scaled"), "--to", "voc", "--data.scale_boxes", "true", "--format", "coco"])
        == 0
    )
    (root / "train/a.png").write_bytes((root / "train/b.png").read_bytes())
    assert main([str(root), "--to", "voc", str(tmp_path / "new")]) == 3
    assert "--data.scale_boxes true" in capsys.readouterr().err
    assert main([str(root), "--to", "voc", str(tmp_path / "new"), "--scale_boxes"]) == 0
    for arguments in (["--to", "png"], ["--to", "coco", "--data.mask_values", "0=a"], ["--to", "coco", "--unknown"]):
        with pytest.raises(SystemExit) as stopped:
            main([str(root), str(tmp_path / "other"), *arguments])
        assert stopped.value.code == 2
    assert set(WRITERS) == {"coco", "folders", "masks", "shards", "voc", "yolo"}
