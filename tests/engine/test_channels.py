"""A set of 16-bit TIFF files with four bands, end to end: train, resume, eval, predict, audit, on the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from classification import train as train_classes
from data.bands import displayable
from detection import train as train_boxes
from engine.checkpoint import read_run
from experiments import load_run
from experiments.audit import __main__ as audit
from segmentation import eval as eval_masks
from segmentation import predict as predict_masks
from segmentation import train as train_masks
from tests.commands import fails, run

TINY = ["--backbone", "test_resnet", "--pretrained", "false", "--image_size", 64, "--epochs", 1, "--batch_size", 2,
        "--data.workers", 0, "--device", "cpu"]  # fmt: skip
INFRARED = np.array([0, 300, 600, 9000])


def field(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 4) uint16 red, green, blue, infrared of 12 bits of noise, and the mask of a bright field in it."""
    draw = np.random.default_rng(seed)
    mask = np.zeros((50, 70), np.uint8)
    mask[10:40, 10 + seed : 45] = 1
    return (draw.integers(0, 4096, (50, 70, 4)) + mask[..., None] * INFRARED).astype(np.uint16), mask


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fields")
    for split, seeds in (("train", range(4)), ("val", range(4, 6))):
        for folder in (root / "images" / split, root / "masks" / split):
            folder.mkdir(parents=True)
        for seed in seeds:
            pixels, mask = field(seed)
            tifffile.imwrite(root / "images" / split / f"{seed}.tif", pixels, photometric="rgb", compression="zlib")
            Image.fromarray(mask).save(root / "masks" / split / f"{seed}.png")
    (root / "classes.txt").write_text("ground\nfield\n")
    return root


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "fields"
    run(train_masks, "--data.root", root, "--data.bands", 4, 3, 2, 1, "--output", output, *TINY)
    return output


def test_the_run_holds_the_statistics_of_the_training_images(trained: Path) -> None:
    pixels = np.concatenate([field(seed)[0][..., ::-1].reshape(-1, 4) for seed in range(4)]) / 65535
    record = json.loads((trained / "record.json").read_text())
    stored = record["preprocessing"]
    np.testing.assert_allclose(stored["mean"], pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(stored["std"], pixels.std(0), rtol=1e-12)
    assert stored["channels"] == {"count": 4, "bands": [4, 3, 2, 1], "dtype": "uint16", "range": [0.0, 65535.0]}
    info, state = read_run(trained)
    assert info.preprocessing == stored
    assert next(value for value in state.values() if value.ndim == 4).shape[1] == 4
    assert record["macs"] > 0
    assert {path.suffix for path in (trained / "pictures").iterdir()} == {".jpg", ".png"}


def test_eval_has_the_scores_of_the_training(trained: Path, root: Path, tmp_path: Path) -> None:
    run(eval_masks, "--checkpoint", trained, "--data.root", root, "--output", tmp_path)
    expected = json.loads((trained / "record.json").read_text())["metrics"]
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found == pytest.approx(expected, abs=1e-9)


def test_eval_of_other_channels_is_refused(trained: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, 2, eval_masks, "--checkpoint", trained, "--data.root", root, "--data.channels", 3)
    assert "trained on images of 4 channels, not of 3 channels: leave out --data.channels and --data.bands" in message
    message = fails(capsys, 3, eval_masks, "--checkpoint", trained, "--data.root", root, "--data.bands", 1, 2, 3, 5)
    assert "has 4 bands, so there is no band 5, which --data.bands names" in message


def test_predict_reads_files_and_arrays(trained: Path, root: Path, tmp_path: Path) -> None:
    (root / "images" / "val" / "cut.tif").write_bytes((root / "images" / "val" / "4.tif").read_bytes()[:900])
    try:
        with pytest.raises(SystemExit) as stop:
            run(predict_masks, "--checkpoint", trained, "--images", root / "images" / "val", "--output", tmp_path)
    finally:
        (root / "images" / "val" / "cut.tif").unlink()
    assert stop.value.code == 3
    images = json.loads((tmp_path / "images.json").read_text())
    assert [image["file_name"] for image in images["images"]] == ["4.tif", "5.tif"]
    assert "is cut off" in images["skipped"][0]["reason"]
    loaded = load_run(trained)
    pixels = field(4)[0][..., ::-1]
    from_file, from_array = loaded.predict([root / "images" / "val" / "4.tif", pixels])
    assert from_file == from_array
    np.testing.assert_array_equal(from_file.image, pixels)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "4.png")), from_file.class_map)
    assert from_file.plot().width > 480
    assert displayable(pixels).std() > 20
    for wrong in (pixels[..., :3], pixels.astype(np.uint8), Image.new("RGB", (9, 9))):
        with pytest.raises(TypeError, match=r"array \(H, W, 4\) of uint16"):
            loaded.predict(wrong)


def test_audit_shows_such_a_set(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(audit, root, "--data.channels", 4, "--output", tmp_path)
    assert "error" not in capsys.readouterr().out
    assert np.asarray(Image.open(tmp_path / "samples.jpg")).std() > 30


def test_classes_and_boxes_of_depth_images(tmp_path: Path) -> None:
    """One channel of floating-point numbers, in metres, with missing values."""
    boxes: dict[str, list] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "box"}]}
    for index, split in enumerate(("train", "train", "val")):
        pixels = field(index)[0]
        metres = (pixels[..., :1] / 1000).astype(np.float32)
        metres[:3, :5] = np.nan
        for name in ("near", "far"):
            folder = tmp_path / "classes" / split / name
            folder.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / f"{index}.tif", metres * (1 + (name == "far")))
        (tmp_path / "boxes" / split).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(tmp_path / "boxes" / split / f"{index}.tif", metres)
        content = boxes | {
            "images": [{"id": index, "file_name": f"{index}.tif", "height": 50, "width": 70}],
            "annotations": [{"id": 1, "image_id": index, "category_id": 1, "bbox": [10 + index, 10, 35 - index, 30]}],
        }
        (tmp_path / "boxes" / "annotations").mkdir(exist_ok=True)
        (tmp_path / "boxes" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    (tmp_path / "boxes" / "train" / "0.tif").unlink()
    flags = ["--data.channels", 1, *TINY]
    run(train_classes, "--data.root", tmp_path / "classes", "--output", tmp_path / "c", *flags)
    run(train_boxes, "--data.root", tmp_path / "boxes", "--data.range", -1, 5, "--output", tmp_path / "d", *flags)
    stored = json.loads((tmp_path / "c" / "record.json").read_text())["preprocessing"]
    assert stored["channels"]["range"][0] == 0
    assert stored["channels"]["range"][1] == pytest.approx(2 * 4.095, rel=0.01)
    stored = json.loads((tmp_path / "d" / "record.json").read_text())["preprocessing"]
    pixels = (field(1)[0][..., 0] / 1000).astype(np.float32)
    pixels[:3, :5] = np.nan
    assert stored["channels"]["range"] == [-1, 5]
    assert stored["mean"] == pytest.approx([np.nanmean((np.clip(pixels, -1, 5) + 1) / 6)])
    state = read_run(tmp_path / "d")[1]
    assert all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point())
