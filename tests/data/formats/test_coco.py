"""COCO's layout: it is read correctly, and every error in it raises one message with the cause."""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backbones.errors import BadInput, UserError
from data.batch import Draw, Sample
from data.box_dataset import BoxDataset
from data.open import read_split
from data.options import BoxOptions

Document = dict[str, Any]


def box(ident: int, image: int, category: int, bbox: list[float], **more: Any) -> dict[str, Any]:
    return {"id": ident, "image_id": image, "category_id": category, "bbox": bbox, **more}


DOCUMENT: Document = {
    "info": {"year": 2017},
    "images": [
        {"id": 30, "file_name": "c.png", "width": 40, "height": 20},
        {"id": 10, "file_name": "a.png", "width": 40, "height": 20},
        {"id": 20, "file_name": "b.png", "width": 16, "height": 24},
    ],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}, {"id": 17, "name": "cat"}],
    "annotations": [
        box(1, 20, 90, [2, 3, 10, 12], iscrowd=0, segmentation=[[2, 3, 12, 3, 12, 15]]),
        box(2, 30, 3, [30.5, -4, 20, 10], iscrowd=0),  # beyond the right and upper edge
        box(3, 20, 17, [1, 1, 4, 4]),
        box(4, 30, 3, [0, 0, 40, 20], iscrowd=1, segmentation={"counts": [0, 800], "size": [20, 40]}),
        box(5, 30, 17, [5, 5, 0, 7]),  # no area
        box(6, 30, 17, [5, 5, float("nan"), 7]),
        box(7, 30, 17, [50, 5, 7, 7]),  # outside
        box(8, 30, 17, [9, 9, -4, 4]),
    ],
}


def write(root: Path, document: Document | str = DOCUMENT, year: str = "2017") -> Path:
    """A data set with a noise image for each image of `DOCUMENT`."""
    (root / "annotations").mkdir(parents=True)
    folder = root / f"train{year}"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for record in DOCUMENT["images"]:
        pixels = draw.integers(0, 256, (record["height"], record["width"], 3), np.uint8)
        Image.fromarray(pixels).save(folder / record["file_name"])
    text = document if isinstance(document, str) else json.dumps(document)
    (root / "annotations" / f"instances_train{year}.json").write_text(text, "latin-1")
    return root


def changed(change: Callable[[Document], Any]) -> Document:
    document = copy.deepcopy(DOCUMENT)
    change(document)
    return document


@pytest.mark.case("R8")
@pytest.mark.parametrize("year", ["2017", ""])
def test_reads_classes_ids_and_boxes(year: str, tmp_path: Path) -> None:
    data = BoxDataset.open(write(tmp_path, year=year), "train")
    assert len(data) == 3
    assert data.classes == ("car", "cat", "toothbrush")
    assert data.category_ids == (3, 17, 90)
    assert data.image_ids.tolist() == [30, 10, 20]
    assert data.sizes.tolist() == [[20, 40], [20, 40], [24, 16]]
    assert data.columns.source == tmp_path / "annotations" / f"instances_train{year}.json"

    sample = data[2]
    assert (sample.image_id, sample.size, sample.scale, sample.readable) == (20, (24, 16), (1.0, 1.0), True)
    assert sample.boxes.tolist() == [[2, 3, 12, 15], [1, 1, 5, 5]]
    assert sample.labels.tolist() == [2, 1]
    assert (sample.boxes.dtype, sample.labels.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(sample.image, np.asarray(Image.open(tmp_path / f"train{year}" / "b.png")))


@pytest.mark.case("R6")
@pytest.mark.case("R7")
def test_crowds_degenerate_and_outside_boxes_are_counted(tmp_path: Path) -> None:
    data = BoxDataset.open(write(tmp_path), "train")
    assert data[0].boxes.tolist() == [[30.5, 0, 40, 6]]
    report = data.report
    assert (report.images, report.images_without_boxes, report.boxes) == (3, 1, 3)
    assert (report.crowd, report.degenerate, report.clipped) == (1, 4, 1)


@pytest.mark.case("R6")
def test_infinite_boxes_are_dropped(tmp_path: Path) -> None:
    endless = changed(lambda d: d["annotations"].append(box(9, 10, 3, [1, 1, float("inf"), 5])))
    data = BoxDataset.open(write(tmp_path, endless), "train")
    assert data[1].boxes.shape == (0, 4)
    assert (data.report.boxes, data.report.degenerate, data.report.clipped) == (3, 5, 1)


@pytest.mark.case("R7")
def test_a_subset_counts_its_own_crowds(tmp_path: Path) -> None:
    """The crowd is in image 30."""
    root, counted = write(tmp_path), {}
    for seed in range(8):
        subset = BoxDataset.open(root, "train", fraction=0.4, seed=seed)
        counted[tuple(subset.image_ids.tolist())] = subset.report.crowd
    assert counted == {(30,): 1, (10,): 0, (20,): 0}


@pytest.mark.case("R5")
def test_images_without_boxes_are_included(tmp_path: Path) -> None:
    sample = BoxDataset.open(write(tmp_path), "train")[1]
    assert sample.boxes.shape == (0, 4)
    assert sample.labels.shape == (0,)
    nothing = changed(lambda d: d["annotations"].clear())
    assert BoxDataset.open(write(tmp_path / "none", nothing), "train").report.images_without_boxes == 3


def test_the_transform_receives_the_seed_of_the_draw(tmp_path: Path) -> None:
    seeds: list[int] = []

    def transform(sample: Sample, seed: int) -> Sample:
        seeds.append(seed)
        return sample

    data = BoxDataset.open(write(tmp_path), "train", transform)
    assert [data[Draw(2, 77)].image_id, data[2].image_id, data[np.int64(1)].image_id] == [20, 20, 10]  # type: ignore[index]
    assert seeds == [77, 0, 0]


def test_fraction_is_a_seeded_subset(tmp_path: Path) -> None:
    root = write(tmp_path)
    two = BoxDataset.open(root, "train", fraction=0.67, seed=1)
    assert len(two) == two.report.images == 2
    assert two.image_ids.tolist() == BoxDataset.open(root, "train", fraction=0.67, seed=1).image_ids.tolist()
    full = BoxDataset.open(root, "train")
    for position, ident in enumerate(two.image_ids.tolist()):
        expected = full[full.image_ids.tolist().index(ident)]
        np.testing.assert_array_equal(two[position].boxes, expected.boxes)
        np.testing.assert_array_equal(two[position].image, expected.image)
    subsets = {tuple(BoxDataset.open(root, "train", fraction=0.4, seed=s).image_ids.tolist()) for s in range(20)}
    assert len(subsets) == 3
    assert two.fingerprint != full.fingerprint
    for wrong in (0, 1.5, -1):
        with pytest.raises(UserError, match="fraction"):
            BoxDataset.open(root, "train", fraction=wrong)


def test_fingerprint_depends_only_on_the_data(tmp_path: Path) -> None:
    first, second = write(tmp_path / "one"), write(tmp_path / "two")
    fingerprint = BoxDataset.open(first, "train").fingerprint
    assert fingerprint == BoxDataset.open(second, "train", skip_bad=1).fingerprint
    assert len(fingerprint) == 64
    with open(second / "train2017" / "a.png", "ab") as file:
        file.write(b"x")
    assert BoxDataset.open(second, "train").fingerprint != fingerprint
    moved = changed(lambda d: d["annotations"][0].update(bbox=[2, 3, 10, 11]))
    assert BoxDataset.open(write(tmp_path / "three", moved), "train").fingerprint != fingerprint


MALFORMED: dict[str, tuple[Document | str, str]] = {
    "no JSON": ("{", "not valid JSON"),
    "not UTF-8": ('{"images": "\xff"}', "not valid JSON"),
    "deep": ("[" * 100_000, "not valid JSON"),
    "a list": ("[]", "JSON list"),
    "no images": (changed(lambda d: d.pop("images")), "no list 'images'"),
    "no annotations": (changed(lambda d: d.pop("annotations")), "no list 'annotations'"),
    "no categories": (changed(lambda d: d["categories"].clear()), "lists no categories"),
    "images an object": (changed(lambda d: d.update(images={})), "no list 'images'"),
    "no file_name": (changed(lambda d: d["images"][1].pop("file_name")), r"images\[1\] has no 'file_name'"),
    "no bbox": (changed(lambda d: d["annotations"][2].pop("bbox")), r"annotations\[2\] has no 'bbox'"),
    "a record a number": (changed(lambda d: d["annotations"].append(7)), r"annotations\[8\]"),
    "short bbox": (changed(lambda d: d["annotations"][3].update(bbox=[1, 2, 3])), r"annotations\[3\] has bbox \[1, 2"),
    "bbox a string": (changed(lambda d: d["annotations"][3].update(bbox="1 2 3 4")), r"annotations\[3\] has bbox"),
    "unknown image": (changed(lambda d: d["annotations"][0].update(image_id=99)), r"annotations\[0\].*image_id 99"),
    "unknown category": (
        changed(lambda d: d["annotations"][1].update(category_id=4)),
        r"annotations\[1\].*category_id 4",
    ),
    "duplicate image": (changed(lambda d: d["images"][1].update(id=30)), "id 30 occurs more than once in images"),
    "duplicate category": (changed(lambda d: d["categories"][1].update(id=90)), "id 90 occurs more than once in cat"),
    "id a string": (changed(lambda d: d["images"][1].update(id="x")), r"images\[1\] has id 'x'"),
    "fractional id": (changed(lambda d: d["images"][1].update(id=1.5)), r"images\[1\] has id 1.5"),
    "no width": (changed(lambda d: d["images"][1].update(width=None)), r"images\[1\] has width None"),
    "zero width": (changed(lambda d: d["images"][1].update(width=0)), r"images\[1\] has an impossible"),
    "huge": (changed(lambda d: d["images"][1].update(width=10**6, height=10**6)), r"images\[1\] has an impossible"),
}


@pytest.mark.parametrize(("document", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_annotations_are_named(document: Document | str, message: str, tmp_path: Path) -> None:
    write(tmp_path, document)
    with pytest.raises(BadInput, match=message) as caught:
        BoxDataset.open(tmp_path, "train")
    assert str(tmp_path / "annotations" / "instances_train2017.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_parts_are_named_with_the_expected_layout(tmp_path: Path) -> None:
    layout = r"ROOT/annotations/instances_train\.json"
    with pytest.raises(BadInput, match="no such folder"):
        BoxDataset.open(tmp_path / "nowhere", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=rf"empty is not recognised\. It is empty.*(?s:.*){layout}"):
        BoxDataset.open(tmp_path / "empty", "train")
    root = write(tmp_path / "set")
    with pytest.raises(BadInput, match=f"no split 'val'; it has train2017. Expected {layout}"):
        BoxDataset.open(root, "val")
    (root / "train2017").rename(root / "pictures")
    with pytest.raises(BadInput, match=r"no folder .*train.*searched"):
        BoxDataset.open(root, "train")


def test_annotation_ids_do_not_matter(tmp_path: Path) -> None:
    def damage(document: Document) -> None:
        document["annotations"][1]["id"] = 1
        del document["annotations"][2]["id"]

    assert BoxDataset.open(write(tmp_path, changed(damage)), "train").report.boxes == 3


SECRET = (24, 16, 3)


@pytest.mark.case("R16")
@pytest.mark.parametrize("name", ["../secret.png", "sub/../../secret.png", "{root}/secret.png", "", ".", "a\0.png", 5])
def test_names_that_leave_the_folder_are_refused(name: Any, tmp_path: Path) -> None:
    Image.fromarray(np.zeros(SECRET, np.uint8)).save(tmp_path / "secret.png")
    name = name.format(root=tmp_path) if isinstance(name, str) else name
    write(tmp_path / "set", changed(lambda d: d["images"][2].update(file_name=name)))
    with pytest.raises(BadInput, match=r"not a relative path.*refused"):
        BoxDataset.open(tmp_path / "set", "train", skip_bad=3)


@pytest.mark.case("R16")
def test_links_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros(SECRET, np.uint8)).save(tmp_path / "secret.png")
    root = write(tmp_path / "set")
    stray = root / "train2017" / "stray.png"
    stray.symlink_to(tmp_path / "secret.png")
    assert len(BoxDataset.open(root, "train")) == 3  # the annotations do not name it
    (root / "train2017" / "b.png").unlink()
    (root / "train2017" / "b.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(BadInput, match=r"b\.png is a link"):
        BoxDataset.open(root, "train", skip_bad=3)

    inner = write(tmp_path / "inner", changed(lambda d: d["images"][2].update(file_name="sub/secret.png")))
    (inner / "train2017" / "sub").symlink_to(tmp_path)
    with pytest.raises(BadInput, match="leads out"):
        BoxDataset.open(inner, "train", skip_bad=3)


def test_links_inside_folders_below_and_a_linked_split_are_fine(tmp_path: Path) -> None:
    root = write(tmp_path / "set", changed(lambda d: d["images"][2].update(file_name="sub/b.png")))
    folder = root / "train2017"
    (folder / "sub").mkdir()
    (folder / "sub" / "b.png").symlink_to(folder / "b.png")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "sub" / "b.png").unlink()
    (tmp_path / "elsewhere" / "sub" / "b.png").symlink_to("../b.png")
    assert BoxDataset.open(root, "train")[2].size == (24, 16)


def test_missing_images_are_counted_and_named(tmp_path: Path) -> None:
    root = write(tmp_path)
    for name in ("a.png", "b.png"):
        (root / "train2017" / name).unlink()
    with pytest.raises(BadInput, match=r"2 of 3 images .* not in .*: a\.png, b\.png"):
        BoxDataset.open(root, "train", skip_bad=1)
    assert BoxDataset.open(root, "train", skip_bad=2).skipped == []


@pytest.mark.case("R11")
def test_an_unreadable_image_is_an_error_unless_allowed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write(tmp_path)
    broken = root / "train2017" / "c.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(BadInput, match=r"c\.png"):
        BoxDataset.open(root, "train")[0]

    data = BoxDataset.open(root, "train", skip_bad=1)
    blank = data[0]
    assert (blank.readable, blank.image_id, blank.image.shape) == (False, 30, (20, 40, 3))
    assert data[Draw(0, 5)].image_id == 10
    assert data[Draw(0, 6)].readable
    assert data.skipped == [30]
    assert sum("c.png" in record.getMessage() for record in caplog.records) == 1

    os.truncate(root / "train2017" / "b.png", 0)
    with pytest.raises(BadInput, match=r"2 images cannot be read, more than `skip_bad=1`.*b\.png"):
        data[2]


def test_a_data_set_without_readable_images_is_an_error(tmp_path: Path) -> None:
    root = write(tmp_path)
    for path in (root / "train2017").iterdir():
        os.truncate(path, 0)
    data = BoxDataset.open(root, "train", skip_bad=9)
    with pytest.raises(BadInput, match="none of the 3 images"):
        data[Draw(1, 0)]


def test_an_image_of_another_size_is_an_error(tmp_path: Path) -> None:
    root = write(tmp_path)
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(root / "train2017" / "b.png")
    with pytest.raises(BadInput, match=r"b\.png is 24 x 16 pixels, but .* says 16 x 24 .*are exchanged"):
        BoxDataset.open(root, "train")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(root / "train2017" / "b.png")
    with pytest.raises(BadInput, match=r"is 9 x 9 pixels, but .* says 16 x 24 .*`scale_boxes=True`"):
        BoxDataset.open(root, "train")
    data = BoxDataset.open(root, "train", skip_bad=1)
    assert not data[2].readable
    data.skip_bad = 0
    with pytest.raises(BadInput, match=r"is 9 x 9 pixels, but .* says 16 x 24: its boxes"):
        data[2]


def test_boxes_are_scaled_to_the_files(tmp_path: Path) -> None:
    """By hand: 9/16 horizontally and 12/24 vertically."""
    root = write(tmp_path, changed(lambda d: d["annotations"][0].update(area=120)))
    Image.fromarray(np.zeros((12, 9, 3), np.uint8)).save(root / "train2017" / "b.png")
    data = BoxDataset.open(root, "train", options=BoxOptions(scale_boxes=True))
    assert data[2].boxes.tolist() == [[1.125, 1.5, 6.75, 7.5], [0.5625, 0.5, 2.8125, 2.5]]
    assert data.columns.areas[0] == pytest.approx(120 * 9 / 16 * 12 / 24)
    assert data[0].boxes.tolist() == BoxDataset.open(write(tmp_path / "same"), "train")[0].boxes.tolist()


def layout(root: Path, file: str, images: str, document: Document = DOCUMENT) -> Path:
    """A data set with the annotation file and the images in these places."""
    write(root / "made", document)
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / "made" / "annotations" / "instances_train2017.json").rename(root / file)
    for record in document["images"]:
        target = root / images / record["file_name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        (root / "made" / "train2017" / Path(record["file_name"]).name).rename(target)
    for folder in ("annotations", "train2017", ""):
        (root / "made" / folder).rmdir()
    return root


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("train/_annotations.coco.json", "train"),  # Roboflow
        ("annotations/instances_default.json", "images"),  # CVAT
        ("annotations/instances_default.json", "images/default"),
        ("annotations/instances_Train.json", "images/Train"),  # CVAT's subsets
        ("result.json", ""),  # Label Studio
        ("labels.json", "data"),  # FiftyOne
        ("train/labels.json", "train/data"),
        ("annotations/train.json", "train"),
        ("annotations/my_train_boxes.json", "images"),
        ("boxes.json", "images"),
    ],
)
def test_layouts_of_other_tools(file: str, images: str, tmp_path: Path) -> None:
    root = layout(tmp_path / "set", file, images)
    assert BoxDataset.open(root, "train").report.boxes == 3
    columns = read_split("boxes", tmp_path, f"{root / file}", BoxOptions(), may_be_path=True)
    assert BoxDataset(columns).report.boxes == 3


def test_label_studio_writes_the_folder_with_backslashes(tmp_path: Path) -> None:
    document = changed(lambda d: [r.update(file_name=f"images/{r['file_name']}") for r in d["images"]])
    root = layout(tmp_path / "set", "result.json", "", document)
    file = root / "result.json"
    file.write_text(file.read_text().replace("images/", "images\\\\"))
    assert len(BoxDataset.open(root, "train")) == 3


def test_several_files_without_a_split_are_not_chosen_from(tmp_path: Path) -> None:
    root = layout(tmp_path / "set", "one.json", "images")
    (root / "two.json").write_text((root / "one.json").read_text())
    with pytest.raises(BadInput, match=r"has several label files: one\.json, two\.json. Name one with `train`"):
        BoxDataset.open(root, "train")


def with_phantom(document: Document, ident: int = 0, name: str = "things") -> None:
    document["categories"] = [{"id": ident, "name": name, "supercategory": "none"}] + [
        category | {"supercategory": "things"} for category in document["categories"]
    ]


def test_the_category_that_roboflow_adds_is_left_out(tmp_path: Path) -> None:
    root = layout(tmp_path / "set", "train/_annotations.coco.json", "train", changed(with_phantom))
    data = BoxDataset.open(root, "train")
    assert (data.classes, data.category_ids) == (("car", "cat", "toothbrush"), (3, 17, 90))
    assert data.report.boxes == 3


@pytest.mark.parametrize("change", [
    lambda d: with_phantom(d, name="other"),
    lambda d: with_phantom(d, ident=1),
    lambda d: (with_phantom(d), d["annotations"][0].update(category_id=0)),
    lambda d: (with_phantom(d), d["categories"][1].update(supercategory="vehicle")),
])  # fmt: skip
def test_other_categories_without_boxes_stay(change: Callable[[Document], Any], tmp_path: Path) -> None:
    assert len(BoxDataset.open(write(tmp_path, changed(change)), "train").classes) == 4


def test_a_phantom_of_the_same_name_as_a_class(tmp_path: Path) -> None:
    """A project called `cat` with the only class `cat`."""

    def change(document: Document) -> None:
        document["categories"] = [{"id": 0, "name": "cat", "supercategory": "none"},
                                  {"id": 1, "name": "cat", "supercategory": "cat"}]  # fmt: skip
        for annotation in document["annotations"]:
            annotation["category_id"] = 1

    assert BoxDataset.open(write(tmp_path, changed(change)), "train").classes == ("cat",)
