"""Boxes lie on their objects, whatever the tool wrote as the size and orientation of the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backbones.errors import BadInput
from data.box_dataset import BoxDataset
from data.class_dataset import ClassDataset
from data.mask_dataset import MaskDataset
from data.options import BoxOptions
from detection.config import BoxTrainData
from engine.config import TrainData
from segmentation.config import MaskTrainData
from tests.data.coco_files import ORIENTATION, write_coco


def exchange_sizes(document: dict[str, Any], split: str) -> None:
    for image in document["images"]:
        image["width"], image["height"] = image["height"], image["width"]


def drop_sizes(document: dict[str, Any], split: str) -> None:
    for image in document["images"]:
        del image["width"], image["height"]


def is_on_objects(data: BoxDataset) -> bool:
    """Whether each box contains only the pixels of its object, and the objects have no other pixels."""
    for index in range(len(data)):
        sample = data[index]
        rest = sample.image.copy()
        for (x1, y1, x2, y2), label in zip(sample.boxes.astype(int).tolist(), sample.labels.tolist(), strict=True):
            inside = sample.image[y1:y2, x1:x2]
            if not (inside == (255, 0)[label]).mean() > 0.4:  # the second box covers a part of the first
                return False
            rest[y1:y2, x1:x2] = 100
        if (rest != 100).any():
            return False
    return True


def test_upright_files_need_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert is_on_objects(BoxDataset.open(write_coco(tmp_path / "set"), "train"))
    assert not caplog.records


def test_the_annotated_size_shows_that_labels_are_upright(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = BoxDataset.open(write_coco(tmp_path / "set", orientation=6), "train")
    assert data[0].image.shape == (64, 96, 3)
    assert is_on_objects(data)
    assert not caplog.records


def test_boxes_show_that_labels_are_upright_where_the_stored_size_is_annotated(tmp_path: Path) -> None:
    """The boxes reach x = 76, beyond the stored width of 64."""

    def change(document: dict[str, Any], split: str) -> None:
        exchange_sizes(document, split)
        for annotation in document["annotations"]:
            annotation["bbox"][0] += 35

    data = BoxDataset.open(write_coco(tmp_path / "set", change=change, orientation=6), "train")
    assert data.sizes.tolist() == [[64, 96]] * 2
    assert data[0].image.shape == (64, 96, 3)
    assert data.report.clipped == 0


def test_labels_of_the_stored_pixels_stay(tmp_path: Path) -> None:
    """COCO's own convention: size and boxes of the stored pixels, whatever the tag."""
    data = BoxDataset.open(write_coco(tmp_path / "set", change=exchange_sizes, orientation=6), "train")
    assert data[0].image.shape == (96, 64, 3)


@pytest.mark.parametrize("change", [None, drop_sizes])
def test_a_square_image_is_not_guessed(change: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    size = (96, 96) if change is None else (96, 64)
    root = write_coco(tmp_path / "set", size=size, orientation=6, change=change)
    BoxDataset.open(root, "train")
    (record,) = caplog.records
    assert "2 of 2 checked images" in record.getMessage()
    assert "--data.exif apply" in record.getMessage()
    caplog.clear()
    assert is_on_objects(BoxDataset.open(root, "train", options=BoxOptions(exif="apply")))
    assert BoxDataset.open(root, "train", options=BoxOptions(exif="ignore"))[0].boxes.sum() > 0
    assert not caplog.records


def test_apply_needs_no_size(tmp_path: Path) -> None:
    """Tools write the stored or the upright size, or none; with "apply", boxes belong to the upright image."""
    for name, change in (("upright", None), ("stored", exchange_sizes), ("none", drop_sizes)):
        data = BoxDataset.open(
            write_coco(tmp_path / name, orientation=6, change=change), "train", options=BoxOptions(exif="apply")
        )
        assert data.sizes.tolist() == [[64, 96]] * 2, name
        assert is_on_objects(data), name


def test_missing_sizes_are_read_from_the_files(tmp_path: Path) -> None:
    data = BoxDataset.open(write_coco(tmp_path / "set", change=drop_sizes), "train")
    assert data.sizes.tolist() == [[64, 96]] * 2
    assert is_on_objects(data)


def test_ignored_tags_and_upright_sizes_contradict(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "set", orientation=6)
    with pytest.raises(BadInput, match=r"64 x 96 pixels, but its annotation says 96 x 64 .*exchanged"):
        BoxDataset.open(root, "train", options=BoxOptions(exif="ignore"))


def test_scaled_boxes_of_turned_files(tmp_path: Path) -> None:
    """All coordinates are halved, and the size of the upright image is annotated at half, too."""

    def halve(document: dict[str, Any], split: str) -> None:
        for image in document["images"]:
            image["width"], image["height"] = image["width"] // 2, image["height"] // 2
        for annotation in document["annotations"]:
            annotation["bbox"] = (np.array(annotation["bbox"]) / 2).tolist()

    root = write_coco(tmp_path / "set", change=halve)
    with pytest.raises(BadInput, match=r"96 x 64 pixels, but its annotation says 48 x 32 .*`scale_boxes=True`"):
        BoxDataset.open(root, "train")
    assert is_on_objects(BoxDataset.open(root, "train", options=BoxOptions(scale_boxes=True)))
    turned = write_coco(tmp_path / "turned", change=halve, orientation=6)
    assert is_on_objects(BoxDataset.open(turned, "train", options=BoxOptions(scale_boxes=True, exif="apply")))


def write_classes(root: Path, size: tuple[int, int], orientation: int) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            folder = root / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", size).save(folder / "a.jpg", exif=exif)
    return root


def test_class_labels_resolve_no_orientation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_classes(tmp_path / "set", (30, 20), 6)
    train, _ = ClassDataset.open_train_val(root, TrainData(root=str(root)), 0)
    (record,) = caplog.records
    assert "2 of 2 checked images" in record.getMessage()
    assert train[0].image.shape == (20, 30, 3)
    caplog.clear()
    train, val = ClassDataset.open_train_val(root, TrainData(root=str(root), exif="apply"), 0)
    assert train[0].image.shape == val[0].image.shape == (30, 20, 3)
    assert not caplog.records


@pytest.mark.parametrize(("size", "orientation", "warnings"), [((30, 20), 6, 0), ((30, 20), 3, 1), ((30, 30), 6, 1)])
def test_masks_resolve_quarter_turns(
    size: tuple[int, int], orientation: int, warnings: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The masks are upright: of 30 x 20 pixels stored as 20 x 30."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for split in ("train", "val"):
        for kind in ("images", "annotations"):
            (tmp_path / kind / split).mkdir(parents=True)
        stored = size[::-1] if orientation == 6 else size
        Image.new("RGB", stored).save(tmp_path / "images" / split / "a.jpg", exif=exif)
        Image.fromarray(np.eye(size[1], size[0], dtype=np.uint8)).save(tmp_path / "annotations" / split / "a.png")
    (tmp_path / "classes.txt").write_text("ground\nline\n")
    train, _ = MaskDataset.open_train_val(tmp_path, MaskTrainData(root=str(tmp_path)), 0)
    assert train[0].image.shape[:2] == size[::-1]
    assert len(caplog.records) == warnings


def test_further_bands_of_a_tiff_are_no_alpha(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_classes(tmp_path / "set", (30, 20), 1)
    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[..., 0], pixels[..., 3] = 200, 7
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (root / split / name / "a.jpg").unlink()
            Image.fromarray(pixels).save(root / split / name / "a.tif")
    train, _ = ClassDataset.open_train_val(root, TrainData(root=str(root)), 0)
    assert train[0].image[0, 0].tolist() == [200, 0, 0]
    (record,) = caplog.records
    assert "TIFF files with 4 bands: only the first three are read" in record.getMessage()


def widen_first_box(document: dict[str, Any], split: str) -> None:
    document["annotations"][0]["bbox"] = [1, 2, 90, 20]


def test_boxes_that_fit_only_the_stored_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The tool wrote the size of the upright image beside boxes of the stored one, which is 64 x 96."""

    def change(document: dict[str, Any], split: str) -> None:
        for annotation in document["annotations"]:
            annotation["bbox"] = [1, 2, 30, 90]

    train, _ = BoxDataset.open_train_val(*boxes_in(write_coco(tmp_path / "set", change=change, orientation=6)))
    assert "the sizes of 2 images are those of the upright image" in caplog.text
    assert train[0].image.shape == (96, 64, 3)
    assert train[0].boxes[0].tolist() == [1, 2, 31, 92]


def test_a_tool_that_writes_stored_sizes_leaves_small_boxes_unclear(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The wide box shows that boxes belong to the upright image. Those of the other image fit both."""

    def change(document: dict[str, Any], split: str) -> None:
        exchange_sizes(document, split)
        for annotation in document["annotations"]:
            annotation["bbox"] = [1, 2, 30, 20]
        widen_first_box(document, split)

    train, _ = BoxDataset.open_train_val(*boxes_in(write_coco(tmp_path / "set", change=change, orientation=6)))
    assert [sample.image.shape for sample in (train[0], train[1])] == [(64, 96, 3), (96, 64, 3)]
    assert "1 of 2 checked images" in caplog.text
    assert "pass --data.exif apply" in caplog.text


def boxes_in(root: Path) -> tuple[Path, BoxTrainData, int]:
    return root, BoxTrainData(root=str(root)), 0
