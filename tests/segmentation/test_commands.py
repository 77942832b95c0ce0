"""The segmentation commands: train, eval and predict, the files that they write, and their errors."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from segmentation import eval as eval_command
from segmentation import predict as predict_command
from segmentation import train as train_command
from segmentation.config import METRICS, PRESETS, TrainConfig
from tests.commands import fails, loads, run

TINY = ["--image_size", "64", "--epochs", "2", "--batch_size", "4", "--device", "cpu", "--data.ignore_index", "9"]
ONCE = [*TINY, "--epochs", "1", "--phi", "lite0"]


@pytest.fixture(scope="module")
def trained(mask_root, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "lite0"
    run(train_command, "--data.root", mask_root, "--output", output, "--losses", "ce", "dice=0.5", *TINY)
    return output


def test_load_run(trained, mask_root):
    loaded, logits = loads(trained, torch.zeros(2, 3, 33, 47))
    assert loaded.classes == tuple((mask_root / "classes.txt").read_text().split("\n")[:-1])
    assert logits.shape == (2, len(loaded.classes), 33, 47)


def test_run_folder(trained, mask_root):
    record = json.loads((trained / "record.json").read_text())
    assert record["task"] == "segmentation"
    assert (record["backbone"], record["neck"]) == ("tf_efficientnet_lite0", "bifpn")
    assert record["pretrained"]["source"].startswith("packaged:")
    assert record["dataset"]["train"]["images"] == 8
    assert tuple(record["metrics"]) == METRICS
    assert all(0 <= value <= 1 for value in record["metrics"].values())
    assert record["config"]["losses"] == ["ce", "dice=0.5"]
    for name in ("params", "macs", "latency_ms", "images_per_second", "peak_memory_mb", "train_seconds"):
        assert record[name] > 0, name
    assert yaml.safe_load((trained / "config.yaml").read_text())["data"]["root"] == str(mask_root)
    assert {p.name for p in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    rows = list(csv.DictReader((trained / "metrics.csv").open()))
    assert len([row for row in rows if row["loss_dice"]]) == 2
    assert len([row for row in rows if row["mIoU"]]) == 2
    assert set(json.loads((trained / "per_class.json").read_text())) == {"ground", "red <b>", "green"}
    confusion = np.loadtxt(trained / "confusion.csv", delimiter=",", skiprows=1)
    assert confusion.sum() == 4 * 92 * 128  # four rows of every mask belong to no class
    assert np.diag(confusion).sum() / confusion.sum() == pytest.approx(record["metrics"]["pixel_accuracy"])
    rows = list(csv.DictReader((trained / "per_class.csv").open()))
    assert [row["class"] for row in rows] == ["ground", "red <b>", "green"]
    assert [int(row["pixels"]) for row in rows] == confusion.sum(1).tolist()
    dice = 2 * np.diag(confusion) / (confusion.sum(0) + confusion.sum(1))
    assert [float(row["Dice"]) for row in rows] == pytest.approx(dice.tolist())
    assert record["metrics"]["Dice"] == pytest.approx(dice.mean())
    errors = json.loads((trained / "errors.json").read_text())
    assert list(errors["per_class"]) == ["ground", "red <b>", "green"]
    assert errors["regions"]["true"] >= 4 * 2
    # Of the last epoch only: as many pixels as one evaluation has.
    assert json.loads((trained / "calibration.json").read_text())["predictions"] == confusion.sum()
    assert (trained / "pictures" / "reliability.png").stat().st_size > 1000


def test_pictures_of_worst_and_best(trained):
    names = sorted(p.name for p in (trained / "pictures").iterdir())
    assert sum(name.startswith("worst-") for name in names) == 3
    assert sum(name.startswith("best-") for name in names) == 3
    assert "curves.png" in names
    ends = json.loads((trained / "images.json").read_text())
    assert ends["worst"][0]["mIoU"] <= ends["best"][0]["mIoU"]
    picture = Image.open(trained / "pictures" / next(name for name in names if name.startswith("worst-1")))
    assert picture.width > 2 * 480  # truth and prediction of a 128 px image, both enlarged, and the legend


def test_eval_reproduces_the_recorded_scores_exactly(trained, mask_root, tmp_path):
    output = tmp_path / "scores"
    run(eval_command, "--checkpoint", trained, "--data.root", mask_root, "--output", output, "--batch_size", 4)
    recorded = json.loads((trained / "record.json").read_text())["metrics"]
    assert json.loads((output / "metrics.json").read_text()) == recorded
    for name in ("errors.json", "calibration.json"):
        stored, again = (json.loads((folder / name).read_text()) for folder in (trained, output))
        assert again.keys() == stored.keys()
    assert again["predictions"] == 4 * 92 * 128
    assert again["ECE"] == pytest.approx(stored["ECE"], abs=1e-5)
    for name in ("per_class.json", "confusion.csv", "images.json"):
        assert (output / name).read_text() == (trained / name).read_text()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_do_not_depend_on_the_batch_size(trained, mask_root, tmp_path, batch_size):
    run(eval_command, "--checkpoint", trained, "--data.root", mask_root, "--output", tmp_path / "s", "--batch_size",
        batch_size)  # fmt: skip
    recorded = json.loads((trained / "record.json").read_text())["metrics"]
    assert json.loads((tmp_path / "s" / "metrics.json").read_text()) == pytest.approx(recorded, abs=1e-3)


def test_eval_with_augmentation_and_another_split(trained, mask_root, tmp_path, capsys):
    """Sliding windows, several scales and flips. The ignore_index is the run's."""
    run(eval_command, "--checkpoint", trained, "--data.root", mask_root, "--output", tmp_path / "s", "--slide", "true",
        "--flip", "true", "--scales", 1, 1.5, "--image_size", "96x128")  # fmt: skip
    assert 0 < json.loads((tmp_path / "s" / "metrics.json").read_text())["pixel_accuracy"] <= 1
    for kind in ("images", "annotations"):
        shutil.copytree(mask_root / kind, tmp_path / "data" / kind)
        shutil.move(tmp_path / "data" / kind / "val", tmp_path / "data" / kind / "test")
    shutil.copy(mask_root / "classes.txt", tmp_path / "data")
    run(eval_command, "--checkpoint", trained, "--data.root", tmp_path / "data", "--data.split", "test")
    assert "annotations/test, 4 images" in " ".join(capsys.readouterr().out.split())


def test_predict_writes_palette_masks_overlays_and_shares(trained, mask_root, tmp_path):
    output = tmp_path / "out"
    run(predict_command, "--checkpoint", trained, "--images", mask_root / "images" / "val", "--output", output)
    names = {p.name for p in output.iterdir()}
    assert names == {f"{i}.{suffix}" for i in range(1, 5) for suffix in ("jpg", "png")} | {
        "predictions.json",
        "images.json",
    }
    mask = Image.open(output / "1.png")
    assert mask.mode == "P"
    assert mask.size == (128, 96)
    values = np.asarray(mask)
    assert values.max() < 3
    records = [r for r in json.loads((output / "predictions.json").read_text()) if r["file"] == "1.png"]
    assert {r["index"]: r["pixels"] for r in records} == {int(i): int((values == i).sum()) for i in np.unique(values)}
    assert sum(r["share"] for r in records) == pytest.approx(1)
    assert Image.open(output / "1.jpg").width > 480


def test_predicted_masks_are_valid_ground_truth(trained, mask_root, tmp_path, capsys):
    """Palette PNGs are read as class indices, so the accuracy of the predictions against themselves is 1."""
    run(predict_command, "--checkpoint", trained, "--images", mask_root / "images" / "val", "--output", tmp_path / "o")
    for place in ("images/val", "annotations/val"):
        (tmp_path / "data" / place).mkdir(parents=True)
    for i in range(1, 5):
        shutil.copy(mask_root / "images" / "val" / f"{i}.png", tmp_path / "data" / "images" / "val")
        shutil.copy(tmp_path / "o" / f"{i}.png", tmp_path / "data" / "annotations" / "val")
    shutil.copy(mask_root / "classes.txt", tmp_path / "data")
    run(eval_command, "--checkpoint", trained, "--data.root", tmp_path / "data", "--output", tmp_path / "s",
        "--batch_size", 1)  # fmt: skip
    assert json.loads((tmp_path / "s" / "metrics.json").read_text())["pixel_accuracy"] == 1


@pytest.mark.slow
def test_same_seed_same_weights(trained, mask_root, tmp_path):
    """Two trainings on the CPU, with different numbers of loader processes."""
    run(train_command, "--data.root", mask_root, "--output", tmp_path / "again", "--losses", "ce", "dice=0.5",
        "--data.workers", 2, *TINY)  # fmt: skip
    first, second = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (trained, tmp_path / "again")
    )
    assert first.keys() == second.keys()
    assert len(first) > 100
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_class_that_is_ignored_has_no_score(trained, mask_root, tmp_path):
    """The run was trained with all classes and predicts the class "ground", which the evaluation ignores."""
    masks = tmp_path / "data" / "annotations" / "val"
    shutil.copytree(mask_root, tmp_path / "data")
    for file in masks.glob("*.png"):  # rows without a class become ground
        mask = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(file), np.where(mask == 9, 0, mask).astype(np.uint8))
    run(eval_command, "--checkpoint", trained, "--data.root", tmp_path / "data", "--data.ignore_index", 0, "--output",
        tmp_path / "s")  # fmt: skip
    by_class = json.loads((tmp_path / "s" / "per_class.json").read_text())
    assert by_class.pop("ground") is None
    metrics = json.loads((tmp_path / "s" / "metrics.json").read_text())
    assert metrics["mIoU"] == pytest.approx(np.mean(list(by_class.values())))
    confusion = np.loadtxt(tmp_path / "s" / "confusion.csv", delimiter=",", skiprows=1)
    assert confusion[0].sum() == 0
    assert set(np.load(tmp_path / "s" / "images.npy")[:, 1]) <= {1, 2}


def test_pretrained_accepts_a_run_for_the_same_and_another_decoder(trained, mask_root, tmp_path):
    checkpoint = trained / "checkpoints" / "last.ckpt"
    run(train_command, "--data.root", mask_root, "--pretrained", checkpoint, "--output", tmp_path / "next",
        "--protocol", "linear", *TINY)  # fmt: skip
    first, second = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (trained, tmp_path / "next")
    )
    changed = {key for key in first if key.endswith("weight") and not torch.equal(first[key], second[key])}
    assert changed == {"model.head.weight"}
    run(train_command, "--data.root", mask_root, "--pretrained", checkpoint, "--output", tmp_path / "other",
        "--protocol", "frozen", "--decoder", "pspnet", *TINY, "--epochs", 1)  # fmt: skip
    third = torch.load(tmp_path / "other" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    frozen = [key for key in third if key.startswith("model.backbone.")]
    assert len(frozen) > 50
    assert all(torch.equal(third[key], first[key]) for key in frozen)


@pytest.mark.parametrize("decoder", ["unet", pytest.param("deeplabv3plus", marks=pytest.mark.slow)])
def test_any_backbone_with_any_decoder(decoder, mask_root, tmp_path):
    output = tmp_path / decoder
    run(train_command, "--data.root", mask_root, "--output", output, "--backbone", "resnet18", "--decoder", decoder,
        "--pretrained", "false", *ONCE)  # fmt: skip
    record = json.loads((output / "record.json").read_text())
    assert (record["backbone"], record["neck"]) == ("resnet18", decoder)
    run(eval_command, "--checkpoint", output, "--data.root", mask_root)


@pytest.mark.parametrize("preset", ["paper", "ade20k", "camvid"])
def test_presets(preset, mask_root, tmp_path):
    output = tmp_path / preset
    run(train_command, "--config", preset, "--data.root", mask_root, "--output", output, *ONCE, "--eval_size", "64",
        "--lr", 0.001)  # fmt: skip
    config = json.loads((output / "record.json").read_text())["config"]
    assert config["optimizer"] == ("adamw" if preset == "camvid" else "sgd")


def test_defaults_are_the_finetune_preset():
    preset = yaml.safe_load((PRESETS / "finetune.yaml").read_text())
    config = TrainConfig()
    for name, value in preset.items():
        default = getattr(config, name)
        assert (list(default) if isinstance(default, tuple) else default) == value, name


# --- errors: one message with cause and fix, and the exit code


def test_unknown_and_abbreviated_flags(capsys):
    assert "--epoch" in fails(capsys, 2, train_command, "--epoch", 1)
    assert "--neck" in fails(capsys, 2, train_command, "--neck", "bifpn")
    assert "--nonsense" in fails(capsys, 2, eval_command, "--nonsense")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "camvit"], "camvid"),
        (["--backbone", "resnet51"], "resnet50"),
        (["--decoder", "unett"], "unet"),
        (["--decoder", "deeplabv3plus", "--backbone", "vgg11", "--pretrained", "false"], "dilated"),
        (["--phi", "9"], "phi"),
        (["--losses", "lovas"], "lovasz"),
        (["--losses", "ce", "dice=0"], "dice"),
        (["--hard_pixels", "0"], "--hard_pixels"),
        (["--jitter", "2", "0.5"], "--jitter"),
        (["--eval_size", "12y"], "HxW"),
        (["--data.ignore_index", "300"], "--data.ignore_index"),
    ],
)
def test_wrong_usage(arguments, message, capsys, mask_root):
    assert message in fails(capsys, 2, train_command, "--data.root", mask_root, *TINY, *arguments)


def test_wrong_scales(trained, capsys, mask_root):
    message = fails(capsys, 2, eval_command, "--checkpoint", trained, "--data.root", mask_root, "--scales", 0)
    assert "--scales" in message


def test_missing_data(capsys, tmp_path):
    message = fails(capsys, 3, train_command, "--data.root", tmp_path / "nowhere")
    assert "ROOT/images/{train,val}" in message
    assert "classes.txt" in message


def test_error_for_mask_values_out_of_range_names_the_file(capsys, mask_root, tmp_path):
    message = fails(capsys, 3, train_command, "--data.root", mask_root, "--output", tmp_path / "r", *TINY[:-2])
    assert "annotations/train/" in message
    assert "--data.ignore_index 9" in message


def test_classes_are_matched_by_name(trained, capsys, mask_root, tmp_path):
    """The masks name the classes in another order: the scores stay, and a class of another name is refused."""
    data = tmp_path / "data"
    for kind in ("images", "annotations"):
        shutil.copytree(mask_root / kind, data / kind)
    names = (mask_root / "classes.txt").read_text().split("\n")[:3]
    (data / "classes.txt").write_text("\n".join([names[0], names[2], names[1]]))
    exchanged = np.array([0, 2, 1, *range(3, 256)], np.uint8)
    for mask in (data / "annotations").glob("*/*.png"):
        Image.fromarray(exchanged[np.asarray(Image.open(mask))]).save(mask)
    run(eval_command, "--checkpoint", trained, "--data.root", data, "--output", tmp_path / "other")
    run(eval_command, "--checkpoint", trained, "--data.root", mask_root, "--output", tmp_path / "same")
    assert (tmp_path / "other/metrics.json").read_text() == (tmp_path / "same/metrics.json").read_text()
    (data / "classes.txt").write_text("ground\nviolet\nred <b>\n")
    assert "violet" in fails(capsys, 3, eval_command, "--checkpoint", trained, "--data.root", data)


def test_data_without_labels(capsys, mask_root, tmp_path):
    """Without a labelled pixel there is nothing to train on, or no mIoU. Both end before the first step."""
    shutil.copytree(mask_root, tmp_path / "data")
    for split, message in (("val", "nothing to score"), ("train", "nothing to train on")):
        for file in (tmp_path / "data" / "annotations" / split).glob("*.png"):
            cv2.imwrite(str(file), np.full((96, 128), 9, np.uint8))
        arguments = ("--data.root", tmp_path / "data", "--output", tmp_path / "r", *ONCE)
        assert message in fails(capsys, 3, train_command, *arguments)
        assert not (tmp_path / "r").exists()


def test_missing_and_foreign_checkpoints(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "segmentation.train" in fails(capsys, 3, eval_command)
    (tmp_path / "bad.ckpt").write_bytes(b"not a checkpoint")
    assert "bad.ckpt" in fails(capsys, 3, eval_command, "--checkpoint", tmp_path / "bad.ckpt")


def test_divergence_names_the_images(capsys, mask_root, tmp_path):
    message = fails(capsys, 4, train_command, "--data.root", mask_root, "--output", tmp_path / "nan", "--lr", "1e30",
                    "--warmup_epochs", 0, "--clip", 0, "--ema_decay", 0, *TINY)  # fmt: skip
    assert "images" in message
