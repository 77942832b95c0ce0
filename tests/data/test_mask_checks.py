"""What masks show before training: nothing to train on, a single class, classes without a pixel, unreadable masks."""

import numpy as np
import pytest

import data.mask_checks
from backbones.errors import BadInput
from data.mask_dataset import MaskDataset
from data.options import MaskOptions
from tests.data.mask_sets import class_map, first_error, save, write_masks

NAMES = "background\nred\nblue\n"


def checked(root, split="train", skip_bad=0, **options):
    settings = MaskOptions(**options)
    dataset = MaskDataset.open(root, split, skip_bad=skip_bad, options=settings)
    (dataset.check_training if split == "train" else dataset.check_scored)()


def test_good_masks_cause_no_message(tmp_path, caplog):
    assert first_error(write_masks(tmp_path)) == ""
    assert caplog.text == ""


@pytest.mark.parametrize("split", ["train", "val"])
def test_no_labelled_pixel(split, tmp_path):
    """Without a label there is nothing to learn, and mIoU is undefined."""
    root = write_masks(tmp_path)
    for file in (root / "annotations" / split).iterdir():
        save(file, np.full((16, 24), 9, np.uint8))
    message = "has nothing to train on" if split == "train" else "has nothing to score.*mIoU is undefined"
    with pytest.raises(BadInput, match=message) as caught:
        checked(root, split, ignore_index=9)
    assert caught.value.exit_code == 3
    assert ("has nothing to" in first_error(root, ignore_index=9)) is True


def test_ignored_classes_are_named_if_nothing_is_left(tmp_path):
    root = write_masks(tmp_path, classes=2)
    with pytest.raises(BadInput, match="`ignore_index` removes background, red"):
        checked(root, ignore_index=[0, 1])


def test_a_single_class(tmp_path, caplog):
    """Following the advice to ignore 255 would have led to mIoU 100."""
    root = write_masks(tmp_path, lambda mask: (mask > 0) * np.uint8(255), "background\nlesion\n")
    assert first_error(root, ignore_index=255) == ""
    assert caplog.text.count("ONLY ONE CLASS") == 1
    assert "All labelled pixels in the 4 masks are 'background'" in caplog.text
    assert "scores mIoU 100" in caplog.text
    assert "--data.mask_values" in caplog.text
    assert "Without a pixel: lesion" in caplog.text


def test_classes_without_a_pixel(tmp_path, caplog):
    root = write_masks(tmp_path, names=NAMES + "green\nyellow\n")
    checked(root)
    assert "2 of 5 classes have NO PIXEL in the 4 masks and cannot be learned: green, yellow" in caplog.text
    assert "count" not in caplog.text
    caplog.clear()
    checked(root, ignore_index=[3, 4])
    assert caplog.text == ""


def test_masks_that_may_count_from_1(tmp_path, caplog):
    """No value is unknown, but the first class has no pixel."""
    write_masks(tmp_path, lambda mask: mask + 1, NAMES + "green\n")
    checked(tmp_path)
    assert "1 of 4 classes have NO PIXEL" in caplog.text
    assert "If the masks count the classes from 1" in caplog.text


def test_large_sets_are_sampled(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(data.mask_checks, "TRAINING", 4)
    root = write_masks(tmp_path, names=NAMES + "green\n", count=(12, 1))
    checked(root)
    assert "1 of 4 classes have NO PIXEL in 4 of the 12 masks" in caplog.text


def test_the_whole_set_is_read_before_it_is_refused(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(data.mask_checks, "TRAINING", 3)
    monkeypatch.setattr(data.mask_checks, "SCORED", 2)
    root = write_masks(tmp_path, lambda mask: mask * 0, "background\nred\n", count=(12, 6))
    checked(root)
    assert "ONLY ONE CLASS. All labelled pixels in the 12 masks" in caplog.text
    caplog.clear()
    save(root / "annotations/train/train5.png", class_map(0, 2))
    checked(root)
    assert caplog.text == ""
    for file in (root / "annotations/val").iterdir():
        save(file, np.full((16, 24), 9, np.uint8))
    save(root / "annotations/val/val3.png", class_map(0, 2))
    checked(root, "val", ignore_index=9)


def test_unreadable_masks_are_left_to_skip_bad(tmp_path):
    root = write_masks(tmp_path)
    (root / "annotations/train/train1.png").write_bytes(b"damaged")
    save(root / "annotations/train/train2.png", np.full((16, 24), 77, np.uint8))
    with pytest.raises(BadInput, match=r"train1\.png"):
        checked(root)
    with pytest.raises(BadInput, match=r"train1\.png"):
        checked(root, skip_bad=1)
    checked(root, skip_bad=2)


def test_the_class_list_may_have_one_name(tmp_path, caplog, monkeypatch):
    """All masks have its class. This needs no second look at the masks."""
    monkeypatch.setattr(data.mask_checks, "TRAINING", 2)
    root = write_masks(tmp_path, lambda mask: mask * 0, "ground\n", count=(5, 1))
    (root / "annotations/train/train2.png").write_bytes(b"not in the sample")
    checked(root)
    assert "ONLY ONE CLASS. All labelled pixels in 2 of the 5 masks are 'ground'" in caplog.text
