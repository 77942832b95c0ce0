"""Folders of classes: they are read correctly, and every error in the layout raises one message with the cause."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.errors import BadInput, UserError
from data.batch import Draw, Sample, collate
from data.class_dataset import ClassDataset

FILES = {"bee": ["b.jpg", "a.PNG"], "ant": ["1.png", "deep/2.png", "3.jpeg"], "Wasp": ["x.png"]}


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(path, "PNG")  # for any suffix: the content determines the format


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, files in FILES.items():
        for number, file in enumerate(files):
            picture(tmp_path / "set" / "train" / name / file, number)
    (tmp_path / "set" / "train" / "ant" / "notes.txt").write_text("no image")
    picture(tmp_path / "set" / "train" / "ant" / ".hidden.png")
    (tmp_path / "set" / "train" / ".cache").mkdir()
    return tmp_path / "set"


def test_reads_classes_and_images_in_order(root: Path) -> None:
    data = ClassDataset.open(root, "train")
    assert data.classes == ("Wasp", "ant", "bee")  # as Python and torchvision sort
    assert [data.name(i) for i in range(len(data))] == [
        "Wasp/x.png", "ant/1.png", "ant/3.jpeg", "ant/deep/2.png", "bee/a.PNG", "bee/b.jpg",
    ]  # fmt: skip
    assert data.labels.tolist() == [0, 1, 1, 1, 2, 2]
    assert data.image_ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert (data.report.images, data.report.classes, data.report.images_per_class) == (6, 3, (1, 3))
    sample = data[3]
    assert (sample.image_id, sample.size, sample.scale, sample.readable) == (3, (20, 30), (1.0, 1.0), True)
    np.testing.assert_array_equal(sample.image, np.asarray(Image.open(root / "train/ant/deep/2.png")))


def test_batches_have_one_label_per_image(root: Path) -> None:
    data = ClassDataset.open(root, "train")
    batch = collate([data[i] for i in (5, 0)])
    assert batch.labels.tolist() == [[2], [0]]
    assert batch.image_ids.tolist() == [5, 0]


def test_the_transform_receives_the_seed_of_the_draw(root: Path) -> None:
    seeds: list[int] = []

    def transform(sample: Sample, seed: int) -> Sample:
        seeds.append(seed)
        return sample

    data = ClassDataset.open(root, "train", transform)
    assert [data[Draw(2, 77)].image_id, data[2].image_id] == [2, 2]
    assert seeds == [77, 0]


def test_fraction_is_a_seeded_subset_of_each_class(tmp_path: Path) -> None:
    for name, count in (("many", 20), ("few", 10), ("one", 1)):
        for i in range(count):
            (tmp_path / "train" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "train" / name / f"{i}.png").write_bytes(b"unread")
    half = ClassDataset.open(tmp_path, "train", fraction=0.5, seed=3)
    assert np.bincount(half.labels).tolist() == [5, 10, 1]
    full = ClassDataset.open(tmp_path, "train")
    assert [full.name(i) for i in half.image_ids] == [half.name(i) for i in range(len(half))]
    assert half.image_ids.tolist() == ClassDataset.open(tmp_path, "train", fraction=0.5, seed=3).image_ids.tolist()
    assert half.image_ids.tolist() != ClassDataset.open(tmp_path, "train", fraction=0.5, seed=4).image_ids.tolist()
    assert half.fingerprint != full.fingerprint
    assert set(ClassDataset.open(tmp_path, "train", fraction=0.001).labels.tolist()) == {0, 1, 2}
    for wrong in (0, 1.5, -1):
        with pytest.raises(UserError, match="fraction"):
            ClassDataset.open(tmp_path, "train", fraction=wrong)


def test_fingerprint_depends_only_on_the_data(root: Path) -> None:
    first = ClassDataset.open(root, "train").fingerprint
    assert len(first) == 64
    assert first == ClassDataset.open(root, "train", skip_bad=2).fingerprint
    (root / "train/bee/b.jpg").rename(root / "train/ant/b.jpg")
    moved = ClassDataset.open(root, "train").fingerprint
    with open(root / "train/ant/b.jpg", "ab") as file:
        file.write(b"x")
    assert len({first, moved, ClassDataset.open(root, "train").fingerprint}) == 3


def test_missing_parts_are_named_with_the_expected_layout(root: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere: there is no such folder"):
        ClassDataset.open(root / "nowhere", "train")
    with pytest.raises(BadInput, match=r"no split 'val'; it has train\. Expected ROOT/train/CLASS/"):
        ClassDataset.open(root, "val")
    picture(root / "val" / "a.png")
    with pytest.raises(BadInput, match=r"no class folders: expected .*val_labels\.txt"):
        ClassDataset.open(root, "val")
    (root / "val" / "a.png").unlink()
    (root / "val" / "ant").mkdir()
    with pytest.raises(BadInput, match=r"no class folder in .* has an image"):
        ClassDataset.open(root, "val")


def test_empty_classes_are_reported(root: Path) -> None:
    (root / "train" / "moth").mkdir()
    data = ClassDataset.open(root, "train")
    assert "moth" in data.classes
    assert data.report.empty_classes == ("moth",)


@pytest.mark.parametrize("split", ["../set/train", "..", ".", "", "train/ant"])
def test_splits_that_leave_the_root_are_refused(split: str, root: Path) -> None:
    with pytest.raises(BadInput, match="no split"):
        ClassDataset.open(root, split)


def test_links_that_leave_the_folder_are_refused(root: Path, tmp_path: Path) -> None:
    picture(tmp_path / "secret" / "s.png")
    link = root / "train/bee/s.png"
    link.symlink_to(tmp_path / "secret" / "s.png")
    with pytest.raises(BadInput, match=r"s\.png is a link that leads out"):
        ClassDataset.open(root, "train")
    link.unlink()
    (root / "train" / "moth").symlink_to(tmp_path / "secret")
    with pytest.raises(BadInput, match="moth is a link that leads out"):
        ClassDataset.open(root, "train")


def test_cyclic_links_are_refused(root: Path) -> None:
    (root / "train/bee/again").symlink_to("..")
    with pytest.raises(BadInput, match="again is a link to a folder that contains it"):
        ClassDataset.open(root, "train")


def test_links_inside_and_a_linked_split_are_fine(root: Path, tmp_path: Path) -> None:
    (root / "train/bee/twin.png").symlink_to("../ant/1.png")
    (root / "train").rename(tmp_path / "elsewhere")
    (root / "train").symlink_to(tmp_path / "elsewhere")
    data = ClassDataset.open(root, "train")
    assert len(data) == 7
    assert data[6].size == (20, 30)


def test_an_unreadable_image_is_an_error_unless_allowed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.truncate(root / "train/Wasp/x.png", 100)
    with pytest.raises(BadInput, match=r"x\.png"):
        ClassDataset.open(root, "train")[0]
    data = ClassDataset.open(root, "train", skip_bad=1)
    assert (data[0].readable, data[0].labels.tolist()) == (False, [0])
    assert data[Draw(0, 5)].image_id == 1
    assert data.skipped == [0]
    assert sum("x.png" in record.getMessage() for record in caplog.records) == 1
    os.truncate(root / "train/ant/1.png", 0)
    with pytest.raises(BadInput, match=r"more than `skip_bad=1`.*1\.png"):
        data[1]


# --- flat folders with a label file


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    for i in range(3):
        picture(tmp_path / "val" / f"v_{i}.JPEG", i)
    return tmp_path


@pytest.mark.parametrize(
    "text",
    ["v_2.JPEG n02\nv_0.JPEG n01\nv_1.JPEG n02\n", "v_0.JPEG\tn01\nv_1.JPEG\tn02\n\nv_2.JPEG\tn02", "n01\nn02\nn02"],
)
def test_label_files_by_name(text: str, flat: Path) -> None:
    (flat / "val_labels.txt").write_text(text)
    data = ClassDataset.open(flat, "val")
    assert (data.classes, data.labels.tolist()) == (("n01", "n02"), [0, 1, 1])
    assert data.name(2) == "v_2.JPEG"
    known = data.with_classes(["n02", "n00", "n01"], "the model")
    assert (known.classes, known.labels.tolist()) == (("n02", "n00", "n01"), [2, 0, 0])


def test_label_files_by_number(flat: Path) -> None:
    (flat / "val_labels.txt").write_text("v_0.JPEG 2\nv_1.JPEG 0\nv_2.JPEG 2\n")
    data = ClassDataset.open(flat, "val")
    assert (data.classes, data.labels.tolist()) == (("0", "2"), [1, 0, 1])
    indexed = data.with_classes(["a", "b", "c"], "the model")
    assert (indexed.classes, indexed.labels.tolist()) == (("a", "b", "c"), [2, 0, 2])
    with pytest.raises(BadInput, match="number 2, but the model has 2 classes"):
        data.with_classes(["a", "b"], "the model")


def test_numbers_that_are_class_names_are_names(flat: Path) -> None:
    """The order of the folders 0, 1, 10, 2 is not that of the numbers."""
    (flat / "val_labels.txt").write_text("v_0.JPEG 2\nv_1.JPEG 0\nv_2.JPEG 10\n")
    named = ClassDataset.open(flat, "val").with_classes(["0", "1", "10", "2"], "the model")
    assert named.labels.tolist() == [3, 0, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n01\nn02\n", "2 lines for 3 images"),
        (
            "v_0.JPEG a\nv_1.JPEG b\n../v_2.JPEG c\nv_2.JPEG c",
            r"4 lines for 3 images .*'\.\./v_2.JPEG c' starts with none",
        ),
        ("v_0.JPEG a\nv_1.JPEG b\nv_1.JPEG c", r"does not name 1 of the images .* v_2\.JPEG"),
        ("", "0 lines for 3 images"),
    ],
)
def test_wrong_label_files(text: str, message: str, flat: Path) -> None:
    (flat / "val_labels.txt").write_text(text)
    with pytest.raises(BadInput, match=message):
        ClassDataset.open(flat, "val")


def test_the_numbers_of_the_devkit_are_refused(flat: Path) -> None:
    (flat / "ILSVRC2012_validation_ground_truth.txt").write_text("490\n361\n171\n")
    with pytest.raises(BadInput, match="in another order"):
        ClassDataset.open(flat, "val")
