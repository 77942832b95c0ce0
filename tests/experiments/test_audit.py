"""Tests the audit: each problem is found in data without other problems, and the drawn scenes have no errors."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from backbones.errors import BadInput
from data.demo.writer import Plan, write_demo
from data.findings import Finding
from experiments.audit.__main__ import main
from experiments.audit.config import AuditConfig, AuditData
from experiments.audit.runner import audit
from experiments.tasks import TASKS


def picture(seed: int, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """An image that differs from those of other seeds."""
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR)


def write(path: Path, pixels: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def tagged(path: Path, pixels: np.ndarray, orientation: int) -> None:
    """Write a JPEG with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    write(path, pixels, exif=exif)


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


def audited(root: Path, tmp_path: Path, quick: bool = False, **data) -> list[Finding]:
    return audit(AuditConfig(str(root), quick=quick, output=str(tmp_path / "out"), data=AuditData(**data)))


def findings(root: Path, tmp_path: Path, quick: bool = False, **data) -> list[tuple[str, str]]:
    """Severity and text of each finding, without the note on anchors."""
    found = audited(root, tmp_path, quick, **data)
    return [(f.severity, f.what.replace(f"{root}/", "")) for f in found if "with an anchor" not in f.what]


def stored(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "out" / "audit.json").read_text())


@pytest.mark.parametrize("layout", ["folders", "coco", "masks"])
def test_correct_data_have_no_findings(layout, request, tmp_path):
    assert findings(request.getfixturevalue(layout), tmp_path) == []
    assert (tmp_path / "out" / "balance.png").stat().st_size > 5000
    assert (tmp_path / "out" / "samples.jpg").stat().st_size > 20_000
    assert stored(tmp_path)["findings"] is not None


def edit(root: Path, change, split: str = "train") -> None:
    """Change the annotations of a split."""
    file = root / "annotations" / f"instances_{split}.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "severity", "what"),
    [
        (lambda d: d["annotations"][0].update(bbox=[5, 5, 0, 9]), "warning",
         "annotations/instances_train.json: 1 of 20 boxes are left out of training and scoring: they have no area"),
        (lambda d: d["annotations"][0].update(bbox=[500, 5, 9, 9]), "warning",
         "annotations/instances_train.json: 1 of 20 boxes are left out"),
        (lambda d: d["annotations"][0].update(bbox=[80, 5, 90, 9]), "note", "train: 1 boxes extend more than a pixel"),
        (lambda d: d["images"][0].update(not_exhaustive_category_ids=[1]), "note",
         "train: in 1 of 10 images, objects of some classes may have no box: 1 of 20 pairs of image and class"),
        (lambda d: d["annotations"][0].update(category_id=2), "error",
         "annotations/instances_train.json: annotations[0] has category_id 2, which the file does not list"),
        (lambda d: d["annotations"][0].update(image_id=77), "error",
         "annotations/instances_train.json: annotations[0] has image_id 77, which the file does not list"),
        (lambda d: d["images"][1].update(id=0), "error",
         "annotations/instances_train.json: id 0 occurs more than once in images"),
        (lambda d: d["annotations"].append(d["annotations"][0] | {"id": 999}), "warning", "train: 1 boxes are dupl"),
        (lambda d: d["images"][0].update(width=64, height=96), "error",
         "the image sizes in annotations/instances_train.json contradict the files"),
        (lambda d: d["images"].append(d["images"][0] | {"id": 10, "file_name": "x.png"}), "error",
         "1 of 11 images of annotations/instances_train.json are not in"),
        (lambda d: d.update(annotations=[a for a in d["annotations"] if a["category_id"] == 1]), "warning",
         "annotations/instances_train.json: 1 of 2 classes have no example and cannot be learned"),
        (lambda d: d["images"].append(d["images"][0] | {"id": 10}), "error",
         "train: 1 images are listed more than once"),
        (lambda d: [a.update(iscrowd=1) for a in d["annotations"]], "error",
         "annotations/instances_train.json has nothing to train on: 10 images with 20 boxes, of which 20 are crowd"),
        (lambda d: [a.update(bbox=[v / 96 for v in a["bbox"]]) for a in d["annotations"]], "warning",
         "annotations/instances_train.json: no box extends beyond 2 px: the coordinates are probably normalised"),
        (lambda d: [a.update(bbox=[50, 8, 80, 60]) for a in d["annotations"]], "warning",
         "annotations/instances_train.json: 20 of 20 boxes leave their image. Probably their numbers are two corners"),
        (lambda d: d["categories"][1].update(name="cat"), "error",
         "annotations/instances_train.json has 2 classes called 'cat', with the ids 1 and 3"),
        (lambda d: d["images"].pop(), "error", "annotations/instances_train.json: annotations[18] has image_id 9"),
    ],
)  # fmt: skip
def test_problems_of_boxes(coco, tmp_path, change, severity, what):
    edit(coco, change)
    found = findings(coco, tmp_path)
    assert any(s == severity and w.startswith(what) for s, w in found), found
    assert found[0][0] == severity
    quick = findings(coco, tmp_path, quick=True)
    assert any(s == severity and w.startswith(what) for s, w in quick), quick


def test_a_problem_is_found_once(coco, tmp_path):
    edit(coco, lambda d: d["annotations"][0].update(bbox=[5, 5, 0, 9]))
    assert len([what for _, what in findings(coco, tmp_path) if "left out" in what]) == 1


def test_images_with_more_objects_than_detections_count(coco, tmp_path):
    edit(
        coco,
        lambda d: d["annotations"].extend(d["annotations"][0] | {"bbox": [i % 80, i // 80, 8, 9]} for i in range(99)),
    )
    (finding,) = [f for f in audited(coco, tmp_path) if "more than 100 objects" in f.what]
    assert finding.what.startswith("train: 1 images have more than 100 objects, the most 101")
    assert "--max_detections 101" in finding.fix
    assert finding.examples == (str(coco / "train" / "0.png"),)


def test_sizes_that_contradict_are_shown_as_the_proposed_setting_reads_them(coco, tmp_path, capsys):
    def halve(document: dict) -> None:
        for image in document["images"]:
            image.update(width=48, height=32)
        for annotation in document["annotations"]:
            annotation.update(bbox=[v / 2 for v in annotation["bbox"]])

    edit(coco, halve)
    error, *rest = findings(coco, tmp_path)
    assert error[0] == "error"
    assert "(10 of the 10 checked images contradict)" in error[1]
    assert "--data.scale_boxes true" in error[1]
    assert rest == []
    assert "train is shown as --data.scale_boxes true reads it" in capsys.readouterr().out
    assert stored(tmp_path)["splits"]["train"]["read_with"] == {"scale_boxes": True}
    assert findings(coco, tmp_path, scale_boxes=True) == []


def test_boxes_without_an_anchor(coco, tmp_path):
    edit(coco, lambda d: [a.update(bbox=[1, 1, 2, 2]) for a in d["annotations"]])
    config = AuditConfig(str(coco), image_size=96, output=str(tmp_path / "out"))
    found = [f for f in audit(config) if "with an anchor" in f.what]
    assert found[0].severity == "warning"
    assert "smaller than one cell" in found[0].what
    assert (tmp_path / "out" / "box_sizes.png").exists()


def test_splits_that_share_an_image(coco, tmp_path):
    (coco / "val.json").write_text((coco / "annotations" / "instances_train.json").read_text())
    train, val = (f"{coco / file}:{coco / 'train'}" for file in ("annotations/instances_train.json", "val.json"))
    found = [(f.severity, f.what) for f in audited(coco, tmp_path, train=train, val=val)]
    assert ("error", f"10 images belong to two splits ({train} and {val})") in found


def test_classes_that_do_not_match(coco, tmp_path):
    edit(coco, lambda d: d["categories"][0].update(name="owl"), "val")
    (found,) = [what for severity, what in findings(coco, tmp_path) if severity == "error"]
    assert "1 classes of annotations/instances_val.json are not among the 2 classes of the training images" in found
    edit(coco, lambda d: d["categories"][0].update(name="CAT"), "val")
    assert findings(coco, tmp_path) == []


def test_orientations(coco, tmp_path):
    for i in range(3):
        (coco / "train" / f"{i}.png").unlink()
        tagged(coco / "train" / f"{i}.jpg", picture(i), 3)
    tagged(coco / "train" / "3.jpg", np.ascontiguousarray(np.rot90(picture(3))), 6)
    edit(coco, lambda d: [d["images"][i].update(file_name=f"{i}.jpg") for i in range(4)])
    (coco / "train" / "3.png").unlink()
    warning, note = findings(coco, tmp_path)
    assert warning[0] == "warning"
    assert warning[1].startswith("3 of 10 checked images in")
    assert note == ("note", "train: 4 of 10 images have an EXIF orientation: 1 of them are read upright, 3 as stored")
    assert findings(coco, tmp_path, exif="apply") == [
        ("note", "train: 4 of 10 images have an EXIF orientation: 4 of them are read upright, 0 as stored")
    ]


def test_images_of_16_bits(folders, tmp_path):
    for file in (folders / "train").rglob("*.png"):
        Image.fromarray(np.random.default_rng(len(file.name)).integers(0, 4096, (40, 40)).astype(np.uint16)).save(file)
    found = findings(folders, tmp_path, quick=True)
    assert [severity for severity, _ in found] == ["warning"]
    assert "have values from 0 to 409" in found[0][1]


def test_duplicates(folders, tmp_path):
    copy = folders / "val" / "dog" / "copy.png"
    copy.write_bytes((folders / "train" / "dog" / "3.png").read_bytes())
    brighter = (picture(5).astype(float) * 0.9 + 20).astype(np.uint8)
    write(folders / "train" / "cat" / "again.png", brighter)
    found = audited(folders, tmp_path)
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
    tagged(train / "turned.jpg", picture(905), 6)
    found = findings(folders, tmp_path)
    assert [(severity, what.split(" have ")[0].split(" are ")[0]) for severity, what in found] == [
        ("error", "1 images cannot be read"),
        ("warning", "1 of 26 checked images in train"),
        ("warning", "train: 1 of 26 images"),
        ("note", "train: 1 of 26 images"),
        ("note", "1 images"),
        ("note", "1 files"),
    ]


def test_problems_of_masks(masks, tmp_path):
    for path in (masks / "annotations" / "train").iterdir():
        write(path, np.asarray(Image.open(path)) + 1)
    (masks / "annotations" / "val" / "0.png").unlink()
    write(masks / "annotations" / "val" / "1.png", np.zeros((10, 10), np.uint8))
    write(masks / "annotations" / "val" / "9.png", np.zeros((64, 96), np.uint8))
    found = findings(masks, tmp_path)
    errors = " ".join(what for severity, what in found if severity == "error")
    assert "pixels of value 3" in errors
    assert "1 of 4 images in" in errors
    assert "have no mask" in errors
    assert "its mask annotations/val/1.png is 10 x 10: the sizes must be equal" in errors.replace(f"{masks}/", "")
    left_out = [what for severity, what in found if "left out, because they have no image" in what]
    assert len(left_out) == 1


def test_classes_that_are_rare_or_absent(folders, tmp_path):
    for i in range(3, 10):
        (folders / "train" / "cat" / f"{i}.png").unlink()
    for path in (folders / "val" / "dog").iterdir():
        path.unlink()
    (folders / "train" / "owl").mkdir()
    assert findings(folders, tmp_path) == [
        ("warning", "train: 1 of 3 classes have no example and cannot be learned"),
        ("warning", "val: 2 of the 3 classes have no image, so their accuracy is not measured"),
        ("warning", "train: 1 classes have fewer than 10 images"),
    ]


def test_a_single_class_and_nested_class_folders(folders, tmp_path):
    for split in ("train", "val"):
        for path in (folders / split / "cat").iterdir():
            path.unlink()
        (folders / split / "cat").rmdir()
    assert findings(folders, tmp_path)[0] == (
        "error", "train has a single class, 'dog': a classifier needs at least two",
    )  # fmt: skip
    for split in ("train", "val"):
        (folders / split).rename(folders / f"{split}_")
        (folders / split).mkdir()
        (folders / f"{split}_").rename(folders / split / "images")
    write(folders / "train" / "images" / "cat" / "0.png", picture(1))
    with pytest.raises(BadInput, match="no split of"):
        audited(folders, tmp_path)
    error = stored(tmp_path)["findings"][0]
    assert error["severity"] == "error"
    assert f"--data.train {folders}/train/images" in error["what"]


def test_a_missing_validation_split(folders, tmp_path):
    (folders / "val").rename(folders / "test")
    (error,) = findings(folders, tmp_path)
    assert error[0] == "error"
    assert "has no validation split" in error[1]
    assert "--data.holdout 0.2" in error[1]
    assert "--data.val test" in error[1]
    (warning,) = findings(folders, tmp_path, val="auto")
    assert warning == ("warning", f"{folders} has no validation split: 20% of its training images are held out")
    assert findings(folders, tmp_path, val="test") == []


def test_images_that_no_split_lists(coco, tmp_path):
    write(coco / "train" / "more.png", picture(77))
    assert findings(coco, tmp_path) == [("note", "train: 1 of 11 images are in no split")]


def test_stored_results(coco, tmp_path):
    audited(coco, tmp_path, quick=True, boxes="xywh")
    content = stored(tmp_path)
    assert content["root"] == str(coco)
    assert (content["layout"], content["format"], content["quick"]) == ("detection", "coco", True)
    assert content["why"] == "annotations/instances_train.json is a COCO file"
    assert content["settings"] == {"boxes": "xywh"}
    assert content["splits"]["val"]["images"] == 10
    assert content["splits"]["train"]["balance"] == {"cat": 10, "dog": 10}
    assert content["splits"]["train"]["sizes"]["median"] == [96, 64]
    assert not (tmp_path / "out" / "balance.png").exists()


def test_several_kinds_of_labels(coco, tmp_path, capsys):
    for split in ("train", "val"):
        for i in range(10):
            write(coco / "images" / split / f"{i}.png", picture(i))
            write(coco / "masks" / split / f"{i}.png", (picture(i)[..., 0] > 99).astype(np.uint8))
        (coco / "annotations" / split).symlink_to(coco / "masks" / split)
    (coco / "classes.txt").write_text("dark\nlight\n")
    audited(coco, tmp_path, quick=True)
    assert "also semantic segmentation, format masks" in capsys.readouterr().out
    assert stored(tmp_path)["also"][0]["layout"] == "segmentation"
    audit(AuditConfig(str(coco), quick=True, kind="masks", output=str(tmp_path / "out")))
    assert stored(tmp_path)["layout"] == "segmentation"


def exit_code(*arguments: str) -> int:
    try:
        main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_command(coco, tmp_path, capsys):
    assert exit_code(str(coco), "--output", str(tmp_path / "out")) == 0
    assert "detection" in capsys.readouterr().out
    assert exit_code("--quick", str(coco), "--data.exif", "apply", "--output", str(tmp_path / "out")) == 0
    assert stored(tmp_path)["settings"] == {"exif": "apply"}
    assert "Without --quick" in capsys.readouterr().out
    assert exit_code(str(tmp_path / "absent")) == 3
    (tmp_path / "empty").mkdir()
    assert exit_code(str(tmp_path / "empty")) == 3
    assert "Layouts that can be read" in " ".join(capsys.readouterr().err.split())
    assert exit_code(str(coco), "--data.format", "unknown") == 2
    assert exit_code(str(coco), "--image_size", "0") == 2


def test_the_drawn_scenes_have_no_errors(tmp_path):
    """The warnings and notes are about intended properties."""
    write_demo(tmp_path / "demo", Plan(scenes=(30, 10), portraits=(10, 10)))
    for task in TASKS:
        found = findings(tmp_path / "demo" / task, tmp_path)
        assert [what for severity, what in found if severity == "error"] == []
        intended = ("fewer than 10", "have no", "are in no split")
        assert all(any(text in what for text in intended) for _, what in found), found


def test_a_folder_that_does_not_exist_is_named_with_the_argument(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "gone")])
    assert stop.value.code == 3
    assert "Pass the place of the data as ROOT" in " ".join(capsys.readouterr().err.split())
