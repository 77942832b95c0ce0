"""Tests the audit: each problem is found in data without other problems, and the drawn scenes have no errors."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data.demo.writer import Plan, write_demo
from experiments.audit.__main__ import main
from experiments.audit.images import difference_hash, near_pairs
from experiments.audit.runner import audit
from experiments.tasks import TASKS


def picture(seed: int, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """An image that differs from those of other seeds."""
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folders(tmp_path) -> Path:
    for number, (split, name) in enumerate((s, n) for s in ("train", "val") for n in ("cat", "dog")):
        for i in range(10):
            write(tmp_path / "set" / split / name / f"{i}.png", picture(100 * number + i))
    return tmp_path / "set"


@pytest.fixture
def coco(tmp_path) -> Path:
    root = tmp_path / "set"
    (root / "annotations").mkdir(parents=True)
    for number, split in enumerate(("train", "val")):
        for i in range(10):
            write(root / split / f"{i}.png", picture(100 * number + i))
        document = {
            "images": [{"id": i, "file_name": f"{i}.png", "height": 64, "width": 96} for i in range(10)],
            "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
            "annotations": [
                {"id": 10 * i + c, "image_id": i, "category_id": c, "bbox": [8 * c, 8, 40, 36], "iscrowd": 0}
                for i in range(10) for c in (1, 3)
            ],
        }  # fmt: skip
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return root


@pytest.fixture
def masks(tmp_path) -> Path:
    root = tmp_path / "set"
    for number, split in enumerate(("train", "val")):
        for i in range(4):
            write(root / "images" / split / f"{i}.png", picture(100 * number + i))
            mask = np.zeros((64, 96), np.uint8)
            mask[:30], mask[:, 60:] = 1, 2
            write(root / "annotations" / split / f"{i}.png", mask)
    (root / "classes.txt").write_text("ground\nsky\ntree\n")
    return root


def findings(root: Path, tmp_path: Path) -> list[tuple[str, str]]:
    found = audit(root, 512, tmp_path / "out")
    return [(finding.severity, finding.what) for finding in found if "with an anchor" not in finding.what]


@pytest.mark.parametrize("layout", ["folders", "coco", "masks"])
def test_correct_data_have_no_findings(layout, request, tmp_path):
    assert findings(request.getfixturevalue(layout), tmp_path) == []
    assert (tmp_path / "out" / "balance.png").stat().st_size > 5000
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["findings"] is not None


def edit(root: Path, change) -> None:
    """Change the annotations of the training images."""
    file = root / "annotations" / "instances_train.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "severity", "what"),
    [
        (lambda d: d["annotations"][0].update(bbox=[5, 5, 0, 9]), "warning", "train: 1 boxes have no area"),
        (lambda d: d["annotations"][0].update(bbox=[500, 5, 9, 9]), "warning", "train: 1 boxes are outside"),
        (lambda d: d["annotations"][0].update(bbox=[80, 5, 90, 9]), "note", "train: 1 boxes extend more than a pixel"),
        (lambda d: d["annotations"][0].update(category_id=2), "error", "train: 1 annotations have a category"),
        (lambda d: d["annotations"][0].update(image_id=77), "error", "train: 1 annotations have an image"),
        (lambda d: d["annotations"][0].update(id=13), "error", "train: 1 annotation ids are used twice"),
        (lambda d: d["annotations"].append(d["annotations"][0] | {"id": 999}), "warning", "train: 1 boxes are dupl"),
        (lambda d: d["images"][0].update(width=64, height=96), "error", "train: 1 images have another size"),
        (lambda d: d["images"].append(d["images"][0] | {"id": 10, "file_name": "x.png"}), "error",
         "train: 1 images are listed but absent"),
        (lambda d: d["categories"][0].update(id=0) or [a.update(category_id=0) for a in d["annotations"]
         if a["category_id"] == 1], "note", "train: 1 category ids start at 0"),
        (lambda d: d.update(annotations=[a for a in d["annotations"] if a["category_id"] == 1]), "error",
         "train: 1 of 2 classes have no boxes"),
    ],
)  # fmt: skip
def test_problems_of_annotations(coco, tmp_path, change, severity, what):
    edit(coco, change)
    found = findings(coco, tmp_path)
    assert any(s == severity and w.startswith(what) for s, w in found), found
    assert len(found) <= 2  # an image without its file has no boxes either


def test_boxes_without_an_anchor(coco, tmp_path):
    edit(coco, lambda d: [a.update(bbox=[1, 1, 2, 2]) for a in d["annotations"]])
    found = [f for f in audit(coco, 96, tmp_path / "out") if "with an anchor" in f.what]
    assert found[0].severity == "warning"
    assert "smaller than one cell" in found[0].what
    assert (tmp_path / "out" / "box_sizes.png").exists()


def test_duplicates(folders, tmp_path):
    copy = folders / "val" / "dog" / "copy.png"
    copy.write_bytes((folders / "train" / "dog" / "3.png").read_bytes())
    brighter = (picture(5).astype(float) * 0.9 + 20).astype(np.uint8)
    write(folders / "train" / "cat" / "again.png", brighter)
    found = audit(folders, 512, tmp_path / "out")
    assert [(f.severity, f.what) for f in found] == [
        ("error", "1 pairs are identical files in two splits"),
        ("note", "1 pairs are near duplicates in one split"),
    ]
    assert "3.png" in found[0].examples[0]
    assert (tmp_path / "out" / "finding-1.png").stat().st_size > 5000


def test_unusual_image_files(folders, tmp_path):
    train = folders / "train" / "cat"
    (train / "broken.png").write_bytes((train / "1.png").read_bytes()[:300])
    write(train / "tiny.png", picture(901, (20, 30)))
    write(train / "long.png", picture(902, (40, 200)))
    Image.fromarray(picture(903)).convert("CMYK").save(train / "cmyk.jpg")
    Image.fromarray(picture(904)).save(tmp_path / "png.png")
    (tmp_path / "png.png").rename(train / "wrong.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(905)).save(train / "turned.jpg", exif=exif)
    found = findings(folders, tmp_path)
    assert [what.split()[:2] for _, what in found] == [["1", "images"]] * 5 + [["1", "files"]]
    assert found[0] == ("error", "1 images cannot be read")


def test_problems_of_masks(masks, tmp_path):
    for path in (masks / "annotations" / "train").iterdir():
        write(path, np.asarray(Image.open(path)) + 1)
    (masks / "annotations" / "val" / "0.png").unlink()
    write(masks / "annotations" / "val" / "1.png", np.zeros((10, 10), np.uint8))
    write(masks / "annotations" / "val" / "9.png", np.zeros((64, 96), np.uint8))
    found = {what: severity for severity, what in findings(masks, tmp_path)}
    assert found["train: value 0 does not occur but 3 does: the masks seem to number classes from 1"] == "error"
    assert any(what.startswith("train: values 3 (") for what in found)
    assert found["train: 1 of 3 classes have no pixels"] == "error"
    assert found["val: 1 images have no mask"] == "error"
    assert found["val: 1 masks have another size than their image"] == "error"
    assert found["val: 1 masks have no image"] == "note"


def test_classes_that_are_rare_or_absent(folders, tmp_path):
    for i in range(3, 10):
        (folders / "train" / "cat" / f"{i}.png").unlink()
    for path in (folders / "val" / "dog").iterdir():
        path.unlink()
    assert findings(folders, tmp_path) == [
        ("warning", "train: 1 classes have fewer than 10 images"),
        ("warning", "val: 1 of 2 classes have no images"),
    ]


def test_hashes_of_a_smaller_copy_are_near():
    first, other = picture(1), picture(2)
    smaller = cv2.resize(first, (48, 32), interpolation=cv2.INTER_AREA)
    hashes = [difference_hash(p) for p in (first, other, smaller)]
    assert (hashes[0] ^ hashes[2]).bit_count() <= 2
    assert (hashes[0] ^ hashes[1]).bit_count() > 10
    assert near_pairs(hashes) == [(0, 2)]


def test_command(folders, tmp_path, capsys):
    assert main([str(folders), "--output", str(tmp_path / "out")]) == 0
    assert "no problems found" in capsys.readouterr().out
    assert main([str(tmp_path / "absent")]) == 3
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 3
    assert "none of the three layouts" in capsys.readouterr().err


def test_the_drawn_scenes_have_no_errors(tmp_path):
    """The warnings and notes are about intended properties."""
    write_demo(tmp_path / "demo", Plan(scenes=(30, 10), portraits=(10, 10)))
    for task in TASKS:
        found = findings(tmp_path / "demo" / task, tmp_path)
        assert [what for severity, what in found if severity == "error"] == []
        intended = ("fewer than 10", "have no", "category ids start", "have no boxes")
        assert all(any(text in what for text in intended) for _, what in found), found
