"""The trainings of a comparison, epochs of equal cost by hand, and its tables."""

import csv
import json
import subprocess
import sys
import time

import pytest

from backbones.errors import BadInput, UserError
from engine.schema import SCHEMA
from experiments.compare.__main__ import main as compare_main
from experiments.joint import comparison, tables
from experiments.joint.comparison import JointComparison, epochs_of_equal_cost
from experiments.joint.config import JointCompareConfig
from experiments.joint.plan import Plan, Training
from experiments.joint.settings import resolved, split_by_head
from tests.reliability.processes import left, processes

SHARED = ["--epochs", "5", "--data.workers", "0", "--image_size", "64"]


def test_the_trainings_have_the_same_data_and_size(tmp_path):
    config = JointCompareConfig(heads=["segmentation", "a=detection", "classification"], output=str(tmp_path))
    words = [*SHARED, "--data.a.root", "BOXES", "--a.lr", "0.5", "--segmentation.config", "camvid", "--phi", "lite0"]
    plan = Plan(config, words, ["--balance", "pcgrad"])
    assert (plan.epochs, plan.settings.settings["a"]["lr"]) == (5, 0.5)
    alone = {name: plan.single(name, "resnet18", 3) for name in plan.kinds}
    assert [training.package for training in alone.values()] == ["segmentation", "detection", "classification"]
    boxes = " ".join(alone["a"].arguments)
    assert boxes == " ".join(
        [*SHARED, "--data.root BOXES --lr 0.5 --phi lite0 --epochs 5 --backbone resnet18 --seed 3"]
    )
    assert alone["segmentation"].arguments[:2] == ("--config", "camvid")
    assert "--neck bifpn" in " ".join(alone["classification"].arguments)
    joint = plan.joint("resnet18", 3, 7)
    assert "--balance pcgrad --heads segmentation a=detection classification --epochs 7" in " ".join(joint.arguments)
    assert joint.folder != plan.joint("resnet18", 3).folder
    with pytest.raises(UserError, match="seed cannot be set"):
        Plan(config, ["--seed", "1"], [])


def test_settings_of_the_whole_training_are_those_of_the_first_head():
    words = [
        "--heads",
        "classification",
        "detection",
        "--lr",
        "0.5",
        "--detection.lr",
        "0.25",
        "--detection.epochs",
        "3",
    ]
    own, by_head = split_by_head(words)
    from engine.cli import parse
    from experiments.joint.config import JointTrainConfig

    config = resolved(parse("x", JointTrainConfig, own), own, by_head)
    assert {name: head["lr"] for name, head in config.settings.items()} == {"classification": 0.5, "detection": 0.25}
    assert {head["epochs"] for head in config.settings.values()} == {config.epochs} == {6}
    assert config.settings["classification"]["neck"] == "bifpn"
    assert JointTrainConfig.of(json.loads(json.dumps(vars(config) | {"data": vars(config.data)}))).settings.keys()


def record(folder, **values):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record.json").write_text(json.dumps({"schema": SCHEMA, **values}))
    return folder


def test_epochs_of_equal_cost_by_hand(tmp_path):
    """One head: 10 images in batches of 4 are 8; 4 epochs of 100 each. The other: crops of half the area, 20 images."""
    config = {"batch_size": 4, "epochs": 4, "image_size": None}
    boxes = record(tmp_path / "a", config=config, macs=100, dataset={"train": {"images": 10}})
    masks = record(
        tmp_path / "b", config=config | {"image_size": "32x64"}, macs=200, dataset={"train": {"images": 20}},
        preprocessing={"size": [64, 64]},
    )  # fmt: skip
    joint = tmp_path / "joint"
    joint.mkdir()
    (joint / "training_cost.json").write_text(json.dumps({"macs_per_epoch": 1600}))
    assert comparison.training_macs(boxes) == 3200
    assert comparison.training_macs(masks) == 8000
    assert epochs_of_equal_cost([boxes, masks], joint) == 7


def test_a_failed_training_is_reported_and_a_complete_one_is_kept(tmp_path):
    config = JointCompareConfig(heads=["detection"], output=str(tmp_path))
    trains = JointComparison(Plan(config, SHARED, []), lock=None)
    with pytest.raises(BadInput, match="epochs"):
        trains.train(Training("detection", ("--epochs", "none"), tmp_path / "run"))
    done = record(tmp_path / "complete", task="detection", metrics={"AP": 0.5}, train_seconds=3)
    assert trains.train(Training("no.such.package", (), done)) == done


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_comparison_that_is_stopped_leaves_no_training(tmp_path):
    words = ["--joint", "--heads", "detection", "--backbones", "test_efficientnet", "--pretrained", "false",
             "--output", str(tmp_path / "joint"), *SHARED]  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "experiments.compare", *words], stdout=log, stderr=log)
        while not (found := processes("detection.train", str(tmp_path))) and process.poll() is None:
            time.sleep(0.02)
        assert found, (tmp_path / "log").read_text()
        process.terminate()
        assert process.wait(60) == 130
    assert not left("detection.train", str(tmp_path))
    assert "to resume, run the same command" in " ".join((tmp_path / "log").read_text().split())


def test_tables(tmp_path, capsys):
    difference = {"value": 0.021, "low": -0.01, "high": 0.05, "verdict": "not distinguishable", "reason": "because"}
    row = {
        "backbone": "b0", "budget": "epochs", "head": "boxes", "metric": "AP",
        "single": [0.3, 0.32], "joint": [0.33, 0.34], "difference": difference, "epochs": {"single": 4, "joint": 4},
        "train_seconds": {"single": [10, 20], "joint": [12, 12]},
    }  # fmt: skip
    costs = {"params": 3e6, "macs": 2e9, "latency_ms": {"p50": 8.0, "p95": 9.0}, "memory_mb": 300.0, "threads": 1}
    half = {"params": 1.5e6, "macs": 1e9, "latency_ms": {"p50": 4.0, "p95": 4.5}, "memory_mb": 300.0, "threads": 1}
    tables.write_tables(tmp_path, [row], {"b0": {"single": costs, "joint": half}})
    with (tmp_path / "joint.csv").open(newline="") as file:
        (found,) = csv.DictReader(file)
    assert (found["single"], found["joint"], found["difference"]) == ("31.0 ± 1.4", "33.5 ± 0.7", "+2.1")
    assert (found["95% interval"], found["reason"]) == ("-1.0 to +5.0", "because")
    text = (tmp_path / "joint.md").read_text()
    assert "| b0 | latency, ms (median) | 8 | 4 | 0.50 |" in text
    assert "| b0 | training at equal epochs, s | 15 | 12 | 0.80 |" in text
    printed = capsys.readouterr().out
    assert "+2.1 (-1.0 to +5.0)" in " ".join(printed.split())
    assert (tmp_path / "joint.png").stat().st_size > 10_000


def test_compare_joint_lists_the_trainings(capsys, tmp_path):
    compare_main(["--joint", "--dry_run", "--heads", "detection", "--output", str(tmp_path), *SHARED])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == ["detection.train", "experiments.joint.train"]
