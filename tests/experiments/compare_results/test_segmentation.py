"""Compares folders of predicted masks with NumPy's numbers: plain values, palettes, data sets, damaged folders."""

import csv

import numpy as np
import pytest
from PIL import Image

from experiments.compare_results.__main__ import main
from experiments.compare_results.config import CompareResultsConfig
from experiments.compare_results.segmentation import compare_masks

CLASSES, IMAGES, SIZE = 4, 36, (20, 24)
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]  # the first colours of Pascal VOC's


def truth_of():
    """(n, H, W) uint8: regions of classes 0 to 2, and some pixels without a class; 3 does not occur."""
    random = np.random.default_rng(0)
    maps = random.integers(0, 3, (IMAGES, *SIZE)).astype(np.uint8)
    maps[:, :2, :5] = 255
    return maps


def predictions_of(seed, accuracy=0.7, stray=0):
    """(n, H, W) uint8. `stray`: number of pixels of class 3 in the first image."""
    random = np.random.default_rng(seed)
    truth = truth_of()
    maps = np.where((random.random(truth.shape) < accuracy) & (truth != 255), truth, random.integers(0, 3, truth.shape))
    maps = maps.astype(np.uint8)
    maps[0, 10, :stray] = 3
    return maps


def write(folder, maps, palette=False, names="img_{}", suffix=".png"):
    """Write masks as PNG files; returns the folder."""
    folder.mkdir(parents=True)
    for i, pixels in enumerate(maps):
        image = Image.fromarray(pixels)
        if palette:
            image = Image.new("P", pixels.shape[::-1])
            image.frombytes(pixels.tobytes())
            image.putpalette(PALETTE)
        image.save(folder / f"{names.format(i)}{suffix}")
    return folder


def iou(predicted, truth=None, classes=CLASSES):
    """IoU of each class by NumPy; NaN for a class that the truth does not contain."""
    truth = truth_of() if truth is None else truth
    counted = truth != 255
    values = []
    for k in range(classes):
        a, b = (truth == k) & counted, (predicted == k) & counted
        values.append((a & b).sum() / (a | b).sum() if a.any() else np.nan)
    return np.array(values)


def compare(truth, metric="mIoU", pixels=(), data=None, **folders):
    results = [f"{name}={path}" for name, path in folders.items()]
    config = CompareResultsConfig("segmentation", str(truth), results, metric=metric, pixels=list(pixels))
    for name, value in (data or {}).items():
        setattr(config.data, name, value)
    config.check()
    return compare_masks(config, {name: [path] for name, path in folders.items()}, metric)


def run(truth, folder, *arguments):
    main(["--task", "segmentation", "--truth", str(truth), "--output", str(folder / "out"), *arguments])
    with (folder / "out/results.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@pytest.fixture
def truth(tmp_path):
    return write(tmp_path / "truth", truth_of())


@pytest.mark.parametrize("palette", [False, True], ids=["values", "palette"])
def test_folders_of_masks_have_the_scores_of_numpy(tmp_path, truth, palette):
    predicted = predictions_of(1)
    folder = write(tmp_path / "a", predicted, palette)
    found = compare(truth, a=folder, b=folder).sides[0]
    assert found.mean == pytest.approx(np.nanmean(iou(predicted)), abs=1e-12)
    assert list(found.by_class.values()) == pytest.approx(iou(predicted)[:3].tolist())
    counted = truth_of() != 255
    accuracy = (predicted == truth_of())[counted].mean()
    assert compare(truth, "pixel_accuracy", a=folder, b=folder).sides[0].mean == pytest.approx(accuracy)


def data_set(folder, names="background tree house car", values=None):
    """A data set with images, masks and names of classes; `values`: mask value of each class."""
    (folder / "images/val").mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(names.split()))
    maps = truth_of()
    stored = maps if values is None else np.append(np.array(values, np.uint8), np.full(252, 255, np.uint8))[maps]
    write(folder / "annotations/val", stored)
    for i in range(IMAGES):
        Image.new("RGB", SIZE[::-1]).save(folder / f"images/val/img_{i}.jpg")
    return folder


def test_a_data_set_as_truth(tmp_path):
    root = data_set(tmp_path / "set")
    predicted = predictions_of(1)
    folder = write(tmp_path / "a", predicted)
    found = compare(root, data={"ignore_index": 255}, a=folder, b=folder)
    assert found.sides[0].mean == pytest.approx(np.nanmean(iou(predicted)), abs=1e-12)
    assert list(found.sides[0].by_class) == ["background", "tree", "house", "car"]
    assert np.isnan(found.sides[0].by_class["car"])
    assert any("no pixel of car" in note for note in found.notes)


def test_masks_with_the_values_of_the_truth_or_with_positions(tmp_path):
    values = (7, 11, 24, 30)
    root = data_set(tmp_path / "set", values=values)
    named = [f"{value}={name}" for value, name in zip(values, ("background", "tree", "house", "car"), strict=True)]
    predicted = predictions_of(1)
    as_values = write(tmp_path / "values", np.array(values, np.uint8)[predicted])
    as_positions = write(tmp_path / "positions", predicted)
    settings = {"ignore_index": 255, "mask_values": named}
    found = compare(root, pixels=["positions=indices"], data=settings, values=as_values, positions=as_positions)
    assert [side.mean for side in found.sides] == pytest.approx([np.nanmean(iou(predicted))] * 2, abs=1e-12)
    wrong = compare(root, data=settings, a=as_values, b=as_positions)
    assert wrong.sides[1].mean == 0
    assert "have values that are no class of the truth" in wrong.warnings[0]


def test_a_class_that_the_truth_does_not_contain_costs_only_its_pixels(tmp_path, truth):
    clean, stray = predictions_of(1), predictions_of(1, stray=3)
    a, b = write(tmp_path / "a", clean), write(tmp_path / "b", stray)
    found = compare(truth, a=a, b=b).sides
    assert found[1].mean == pytest.approx(np.nanmean(iou(stray)), abs=1e-12)
    assert abs(found[1].mean - found[0].mean) < 0.001


def test_a_copy_in_other_folders_is_not_distinguishable(tmp_path, truth):
    predicted = predictions_of(1)
    a = write(tmp_path / "a", predicted)
    b = tmp_path / "b"
    for part in (0, 1):  # the same masks, listed in another order
        chosen = np.arange(IMAGES) % 2 != part
        write(b / str(part), predicted[chosen], names=f"part{part}_{{}}")
        for number, i in enumerate(np.flatnonzero(chosen)):
            (b / str(part) / f"part{part}_{number}.png").rename(b / str(part) / f"img_{i}.png")
    rows = run(truth, tmp_path, "--results", f"a={a}", f"b={b}")
    assert rows["b"]["verdict"] == "not distinguishable"
    assert [float(rows["b"][name]) for name in ("difference", "low", "high")] == [0, 0, 0]


def test_two_folders_of_a_name_are_seeds(tmp_path, truth):
    folders = [write(tmp_path / str(seed), predictions_of(seed, 0.5 + 0.3 * (seed > 1))) for seed in range(4)]
    rows = run(truth, tmp_path, "--results", f"a={folders[0]},{folders[1]}", f"b={folders[2]},{folders[3]}")
    scores = [np.nanmean(iou(predictions_of(seed, 0.5 + 0.3 * (seed > 1)))) for seed in range(4)]
    assert rows["b"]["difference"] == f"{np.mean(scores[2:]) - np.mean(scores[:2]):.6f}"
    assert rows["b"]["seeds"] == "2"


def refused(capsys, truth, folder, bad):
    good = write(folder / "good", predictions_of(0))
    with pytest.raises(SystemExit) as stop:
        run(truth, folder, "--results", f"good={good}", f"bad={bad}")
    assert stop.value.code == 3
    assert not (folder / "out").exists()
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    return " ".join(message.split())


def test_missing_and_unknown_masks_are_refused(tmp_path, truth, capsys):
    bad = write(tmp_path / "bad", predictions_of(0)[:30])
    assert "6 of the 36 images of the truth" in refused(capsys, truth, tmp_path, bad)


def test_masks_of_other_images_are_refused(tmp_path, truth, capsys):
    bad = write(tmp_path / "bad", predictions_of(0), names="other_{}")
    assert "36 of 36 images are not in the truth" in refused(capsys, truth, tmp_path, bad)


def test_masks_of_another_size_are_refused(tmp_path, truth, capsys):
    bad = write(tmp_path / "bad", predictions_of(0)[:, :10])
    assert "img_0.png is 24 x 10 pixels, but the truth of img_0.png is 24 x 20" in refused(capsys, truth, tmp_path, bad)


def test_a_damaged_mask_is_refused(tmp_path, truth, capsys):
    bad = write(tmp_path / "bad", predictions_of(0))
    (bad / "img_3.png").write_bytes(b"no image")
    assert "img_3.png" in refused(capsys, truth, tmp_path, bad)


def test_masks_of_colours_are_refused(tmp_path, truth, capsys):
    bad = tmp_path / "bad"
    colors = np.random.default_rng(0).integers(0, 255, (IMAGES, *SIZE, 3)).astype(np.uint8)
    write(bad, colors)
    assert "img_" in refused(capsys, truth, tmp_path, bad)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path, truth, capsys):
    (tmp_path / "bad").write_text("x")
    assert "is not a folder" in refused(capsys, truth, tmp_path, tmp_path / "bad")


def test_an_empty_folder_is_refused(tmp_path, truth, capsys):
    (tmp_path / "bad").mkdir()
    assert "has no masks" in refused(capsys, truth, tmp_path, tmp_path / "bad")
