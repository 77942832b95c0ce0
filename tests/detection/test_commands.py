"""The command line as users type it: train, eval and predict, the files they write, and their errors."""

import contextlib
import csv
import io
import json
import shutil
import signal
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from effdet import create_model
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones import create_backbone
from detection import eval as eval_command
from detection import predict as predict_command
from detection import train as train_command
from detection.config import METRICS, PRESETS, TrainConfig
from detection.results import read_image_results
from engine.cli import parse
from engine.lightning_module import TaskModule
from tests.commands import fails, loads, run

TINY = ["--image_size", "64", "--epochs", "2", "--batch_size", "4", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(coco_root, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "lite0"
    run(train_command, "--data.root", coco_root, "--output", output, *TINY)
    return output


def test_load_run(trained):
    loaded, (logits, deltas) = loads(trained, torch.zeros(2, 3, 64, 64))
    assert loaded.classes == ("red <b>", "green")
    assert loaded.preprocessing == {"mean": [0.5] * 3, "std": [0.5] * 3, "size": [64, 64]}
    assert logits.shape == (2, deltas.shape[1], 2)


@pytest.mark.case("R8")
def test_run_folder(trained, coco_root):
    record = json.loads((trained / "record.json").read_text())
    assert record["task"] == "detection"
    assert record["backbone"] == "tf_efficientnet_lite0"
    assert record["pretrained"]["source"].startswith("packaged:")
    assert record["dataset"]["train"]["images"] == 8
    assert tuple(record["metrics"]) == (*METRICS, "score_threshold")
    assert 0 <= record["metrics"]["AP"] <= 1
    assert record["best"]["epoch"] in (1, 2)
    for name in ("params", "macs", "latency_ms", "images_per_second", "peak_memory_mb", "train_seconds"):
        assert record[name] > 0, name
    assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert yaml.safe_load((trained / "config.yaml").read_text())["data"]["root"] == str(coco_root)
    assert {p.name for p in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert len(list((trained / "pictures").glob("val-*.jpg"))) == 4
    assert (trained / "pictures" / "curves.png").stat().st_size > 1000
    assert (trained / "pictures" / "reliability.png").stat().st_size > 1000
    assert list(trained.glob("events.out.tfevents.*"))
    rows = list(csv.DictReader((trained / "metrics.csv").open()))
    assert len([row for row in rows if row["loss"]]) == 2
    assert len([row for row in rows if row["AP"]]) == 2
    found = json.loads((trained / "detections.json").read_text())
    assert {d["category_id"] for d in found} <= {2, 5}
    table = {row["class"]: row for row in csv.DictReader((trained / "per_class.csv").open())}
    assert list(table["green"]) == ["class", "AP", "AP50", "precision", "recall", "F1", "objects"]
    assert {name: float(row["AP"]) for name, row in table.items()} == json.loads(
        (trained / "per_class.json").read_text()
    )
    assert [row["objects"] for row in table.values()] == ["4", "4"]
    for name in ("AP50", "precision", "recall", "F1"):
        assert record["metrics"][name] == pytest.approx(np.mean([float(row[name]) for row in table.values()]))
    errors = json.loads((trained / "errors.json").read_text())
    assert errors["AP50"] == pytest.approx(record["metrics"]["AP50"])
    assert (errors["at_threshold"] is None) == (record["metrics"]["score_threshold"] is None)
    assert json.loads((trained / "calibration.json").read_text())["predictions"] == len(found)


def test_checkpoint_has_only_plain_values(trained):
    content = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["run"]["classes"] == ["red <b>", "green"]
    assert content["run"]["preprocessing"]["mean"] == [0.5, 0.5, 0.5]


def test_eval_reproduces_the_recorded_scores_exactly(trained, coco_root, tmp_path):
    output = tmp_path / "scores"
    run(eval_command, "--checkpoint", trained, "--data.root", coco_root, "--output", output, "--batch_size", 4)
    recorded = json.loads((trained / "record.json").read_text())["metrics"]
    assert json.loads((output / "metrics.json").read_text()) == recorded
    for name in ("errors.json", "calibration.json"):
        assert json.loads((output / name).read_text()) == json.loads((trained / name).read_text())
    assert json.loads((output / "detections.json").read_text()) == json.loads((trained / "detections.json").read_text())


def test_latest_run_is_the_default(trained, coco_root, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs" / "detection").mkdir(parents=True)
    (tmp_path / "runs" / "detection" / "mine").symlink_to(trained)
    monkeypatch.chdir(tmp_path)
    run(eval_command, "--data.root", coco_root)
    captured = capsys.readouterr()
    assert "mine" in captured.err
    assert "AP50" in captured.out


@pytest.mark.case("R8")
def test_predict_writes_pictures_and_coco_results(trained, coco_root, tmp_path):
    output = tmp_path / "out"
    run(predict_command, "--checkpoint", trained, "--images", coco_root / "val", "--output", output, "--min_score", 0)
    assert {p.name for p in output.iterdir()} == {"1.jpg", "2.jpg", "3.jpg", "4.jpg", "predictions.json", "images.json"}
    records = json.loads((output / "predictions.json").read_text())
    assert {r["file"] for r in records} == {"1.png", "2.png", "3.png", "4.png"}
    boxes = np.array([r["bbox"] for r in records])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= 128.01).all()
    assert (boxes[:, 1] + boxes[:, 3] <= 96.01).all()
    drawn = np.asarray(Image.open(output / "1.jpg"), dtype=int)
    plain = np.asarray(Image.open(coco_root / "val" / "1.png").resize(drawn.shape[1::-1]), dtype=int)
    assert (np.abs(drawn - plain) > 80).any()


@pytest.mark.case("seed")
def test_same_seed_same_weights(trained, coco_root, tmp_path):
    """Two runs on the CPU, with different numbers of loader workers."""
    run(train_command, "--data.root", coco_root, "--output", tmp_path / "again", "--data.workers", 2, *TINY)
    first, second = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (trained, tmp_path / "again")
    )
    assert first.keys() == second.keys()
    assert len(first) > 100
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_interrupted_run_resumes_to_the_same_weights(trained, coco_root, tmp_path, monkeypatch, capsys):
    """A run interrupted by Ctrl-C in its second epoch and resumed equals the uninterrupted run."""
    output = tmp_path / "stopped"

    def stop(self):
        if self.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TaskModule, "on_train_epoch_start", stop)
        message = fails(capsys, 130, train_command, "--data.root", coco_root, "--output", output, *TINY)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning disables it when it exits
    assert f"--resume {output}" in message
    assert "--lr" in fails(capsys, 2, train_command, "--resume", output, "--lr", 0.5)
    run(train_command, "--resume", output)
    first, second = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (trained, output)
    )
    for part in ("state_dict", "current_model_state"):
        assert first[part].keys() == second[part].keys()
        assert len(first[part]) > 100
        assert all(torch.equal(first[part][key], second[part][key]) for key in first[part])
    assert "complete" in fails(capsys, 2, train_command, "--resume", output)


def test_pretrained_from_a_run(trained, coco_root, tmp_path):
    output = tmp_path / "next"
    run(train_command, "--data.root", coco_root, "--pretrained", trained / "checkpoints" / "last.ckpt", "--output",
        output, "--epochs", 1, "--protocol", "frozen", "--image_size", 64, "--batch_size", 4)  # fmt: skip
    first, second = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (trained, output)
    )
    frozen = [key for key in first if key.startswith("model.backbone.")]
    assert frozen
    assert all(torch.equal(first[key], second[key]) for key in frozen)
    assert not torch.equal(first["model.box_head.convs.0.pointwise.weight"],
                           second["model.box_head.convs.0.pointwise.weight"])  # fmt: skip


def test_early_stages_are_frozen(trained):
    """Weights and running statistics up to stride 4 equal the published ones; those of later stages do not."""
    state = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    published = create_backbone("tf_efficientnet_lite0", pretrained=True).state_dict()
    frozen = [k for k in published if k.startswith(("conv_stem", "bn1", "blocks.0", "blocks.1")) and "num_b" not in k]
    assert len(frozen) > 20
    assert all(torch.equal(state[f"model.backbone.{key}"], published[key]) for key in frozen)
    assert not torch.equal(state["model.backbone.blocks.2.0.conv_pw.weight"], published["blocks.2.0.conv_pw.weight"])
    assert not torch.equal(state["model.backbone.blocks.2.0.bn1.running_mean"],
                           published["blocks.2.0.bn1.running_mean"])  # fmt: skip


@pytest.mark.parametrize("protocol", ["frozen", "scratch"])
def test_protocols(protocol, coco_root, tmp_path):
    output = tmp_path / protocol
    run(train_command, "--data.root", coco_root, "--output", output, "--protocol", protocol, "--epochs", 1,
        "--image_size", 64, "--batch_size", 4)  # fmt: skip
    record = json.loads((output / "record.json").read_text())
    assert (record["pretrained"]["source"] == "random") == (protocol == "scratch")


@pytest.mark.parametrize("neck", ["fpn", pytest.param("panet", marks=pytest.mark.slow)])
def test_backbone_and_neck_are_one_flag_each(neck, coco_root, tmp_path):
    output = tmp_path / neck
    run(train_command, "--data.root", coco_root, "--output", output, "--backbone", "resnet18", "--neck", neck,
        "--pretrained", "false", "--epochs", 1, "--image_size", "64x96", "--batch_size", 4)  # fmt: skip
    record = json.loads((output / "record.json").read_text())
    assert (record["backbone"], record["neck"]) == ("resnet18", neck)


def test_paper_preset(coco_root, tmp_path):
    output = tmp_path / "paper"
    run(train_command, "--config", "paper", "--data.root", coco_root, "--output", output, "--lr", 0.01, *TINY)
    config = json.loads((output / "record.json").read_text())["config"]
    assert (config["assignment"], config["box_loss"], config["optimizer"]) == ("iou", "huber", "sgd")


def test_published_checkpoint_scores_and_predicts(coco_root, tmp_path, capsys):
    """The commands eval and predict read an effdet file. Its classes are matched by name."""
    file = tmp_path / "tf_efficientdet_d0_34-f153e0cf.pth"
    model = create_model("tf_efficientdet_d0", bench_task="", pretrained=False, pretrained_backbone=False)
    torch.save(model.state_dict(), file)
    message = fails(capsys, 3, eval_command, "--checkpoint", file, "--data.root", coco_root, "--image_size", 128)
    assert "'red <b>'" in message
    named = tmp_path / "named"
    shutil.copytree(coco_root, named)
    annotations = named / "annotations" / "instances_val.json"
    text = annotations.read_text().replace("red <b>", "Traffic_light").replace("green", "car")
    annotations.write_text(text)
    run(eval_command, "--checkpoint", file, "--data.root", named, "--image_size", 128)
    assert "Traffic_light" not in capsys.readouterr().out
    run(predict_command, "--checkpoint", file, "--images", coco_root / "val" / "1.png", "--output", tmp_path / "out",
        "--image_size", 128)  # fmt: skip
    assert (tmp_path / "out" / "1.jpg").exists()


# --- errors: one message with cause and fix, and the documented exit code


def test_unknown_and_abbreviated_flags(capsys):
    assert "--epoch" in fails(capsys, 2, train_command, "--epoch", 1)
    assert "--nonsense" in fails(capsys, 2, eval_command, "--nonsense")


def test_wrong_backbone_suggests_similar_names(capsys, coco_root):
    message = fails(capsys, 2, train_command, "--data.root", coco_root, "--backbone", "resnet51")
    assert "resnet50" in message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--config", "papr"], "paper"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--neck", "bifp"], "bifpn"),
        (["--phi", "9"], "phi"),
        (["--image_size", "12y"], "HxW"),
        (["--epochs", "0"], "--epochs"),
        (["--epochs", "many"], "epochs"),
        (["--protocol", "linear", "--pretrained", "false"], "linear"),
        (["--device", "cuda:7"], "cuda:7"),
    ],
)
def test_wrong_usage(arguments, named, capsys, coco_root):
    assert named in fails(capsys, 2, train_command, "--data.root", coco_root, *arguments)


def test_missing_data(capsys, tmp_path):
    assert "instances_train" in fails(capsys, 3, train_command, "--data.root", tmp_path / "nowhere")


@pytest.mark.case("R18")
def test_missing_weights(capsys, coco_root, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = fails(capsys, 3, train_command, "--data.root", coco_root, "--backbone", "resnet18")
    assert "--pretrained false" in message
    assert not (tmp_path / "runs").exists()


def test_missing_and_invalid_checkpoints(capsys, coco_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "detection.train" in fails(capsys, 3, eval_command)
    assert "gone" in fails(capsys, 3, eval_command, "--checkpoint", tmp_path / "gone")
    (tmp_path / "bad.ckpt").write_bytes(b"not a checkpoint")
    assert "bad.ckpt" in fails(capsys, 3, eval_command, "--checkpoint", tmp_path / "bad.ckpt")


def test_existing_output_is_refused(trained, capsys, coco_root):
    message = fails(capsys, 2, train_command, "--data.root", coco_root, "--output", trained, *TINY)
    assert "--resume" in message


def test_no_images(trained, capsys, tmp_path):
    assert "--images" in fails(capsys, 2, predict_command, "--checkpoint", trained)
    assert "no images" in fails(capsys, 3, predict_command, "--checkpoint", trained, "--images", tmp_path)


@pytest.mark.case("R4")
def test_divergence_names_the_images(capsys, coco_root, tmp_path):
    message = fails(capsys, 4, train_command, "--data.root", coco_root, "--output", tmp_path / "nan", "--lr", "1e30",
                    "--warmup_epochs", 0, "--clip", 0, "--ema_decay", 0, *TINY)  # fmt: skip
    assert "images" in message
    assert "--lr" in message


def test_finetune_preset_is_the_default():
    given = yaml.safe_load((PRESETS / "finetune.yaml").read_text())
    default = asdict(TrainConfig())
    assert given == {name: list(v) if isinstance(v := default[name], tuple) else v for name in given}


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_parse(preset):
    parse("detection.train", TrainConfig, ["--config", preset.stem], presets=PRESETS).check()


# --- results that others can check


def test_pycocotools_computes_the_recorded_ap_from_the_files_of_a_run(trained):
    """From `detections.json` and `truth.json`, or from the scored annotation file, whose ids the files have."""
    record = json.loads((trained / "record.json").read_text())
    for truth in (trained / "truth.json", Path(record["dataset"]["root"]) / "annotations" / "instances_val.json"):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(truth))
            evaluation = COCOeval(coco, coco.loadRes(str(trained / "detections.json")), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        assert record["metrics"]["AP"] == pytest.approx(evaluation.stats[0], abs=1e-9)
    scores = [detection["score"] for detection in json.loads((trained / "detections.json").read_text())]
    assert len(set(scores)) > 0.9 * len(scores)  # not rounded


def test_held_out_images_are_scored_again_by_eval_and_by_the_bootstrap(coco_root, tmp_path):
    held = tmp_path / "held"
    run(train_command, "--data.root", coco_root, "--output", held, "--data.holdout", 0.5, *TINY)
    run(eval_command, "--checkpoint", held, "--output", tmp_path / "again")
    record = json.loads((held / "record.json").read_text())
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert again["AP"] == pytest.approx(record["metrics"]["AP"], abs=1e-9)
    assert (held / "matches.npz").is_file()  # written by the training
    results = read_image_results(held, record)
    truth = json.loads((held / "truth.json").read_text())
    assert len(results.keys) == len(truth["images"]) == 4  # half of the eight training images
    assert results.score(np.ones((1, 4), int))[0] == pytest.approx(record["metrics"]["AP"], abs=1e-9)
    (held / "truth.json").unlink()  # as in runs of earlier versions
    assert read_image_results(held, record).keys == results.keys
