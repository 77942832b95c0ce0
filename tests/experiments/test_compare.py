"""Comparisons: equal arguments for all, finished trainings kept, failures told, and nothing lost to kill -9."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backbones.errors import BadInput, UserError
from data.reader import subset_indices
from engine.schema import SCHEMA
from experiments.compare import __main__ as compare
from experiments.compare.config import CompareConfig
from experiments.compare.runner import Entry, Grid, shared_settings, trials
from experiments.jobs.arguments import shared_arguments, split_by_task
from experiments.jobs.cell import Cell, with_flags
from experiments.jobs.local import COMPLETE, Outcome, finished
from tests.classification.conftest import write_folders
from tests.commands import fails

TINY = ("--image_size", "32", "--epochs", "1", "--batch_size", "6")
METRICS = ("top1", "top5")


def test_arguments_of_a_task_are_told_apart():
    own, of_tasks = split_by_task(
        [
            "--tasks",
            "detection",
            "--detection.epochs",
            "3",
            "--detection.jitter",
            "0.5",
            "2",
            "--data.detection.root",
            "R",
            "--seeds",
            "2",
        ]
    )
    assert own == ["--tasks", "detection", "--seeds", "2"]
    assert of_tasks == {"detection": ["--epochs", "3", "--jitter", "0.5", "2", "--data.root", "R"]}


def test_a_task_has_the_last_word_and_its_preset_the_first():
    config = CompareConfig(epochs=5, protocol="finetune")
    asked = ["--epochs", "7", "--config", "camvid", "--data.root", "R"]
    cell = Cell("segmentation", (*shared_arguments(config, "segmentation", asked), "--backbone", "resnet18"))
    assert (cell.config.epochs, cell.config.image_size, cell.config.data.ignore_index) == (7, "352x480", 11)
    with pytest.raises(UserError, match=r"--segmentation\.seed cannot be set"):
        shared_arguments(config, "segmentation", ["--seed", "3"])


def test_a_key_is_the_settings_and_nothing_else():
    cell = Cell("detection", ("--backbone", "resnet18", "--epochs", "3", "--lr", "0.01"))
    same = Cell("detection", ("--lr", "1e-2", "--epochs=3", "--backbone", "resnet18", "--data.workers", "3"))
    assert cell.key == same.key
    assert cell.name.startswith("detection/resnet18-s0-")
    others = [with_flags(cell, lr=0.02), with_flags(cell, seed=1), Cell("detection", ("--backbone", "resnet50"))]
    assert len({cell.key, *(other.key for other in others)}) == 4


def test_what_differs_is_told():
    cells = [Cell("classification", ("--backbone", name)) for name in ("resnet18", "vgg16")]
    same, differing = shared_settings(cells)
    assert differing == {"classification": []}
    assert same["classification"]["data.fraction"] == 1.0
    assert "backbone" not in same["classification"]
    assert shared_settings([cells[0], with_flags(cells[1], lr=0.5)])[1] == {"classification": ["lr"]}


def test_learning_rates_are_tried_on_training_images():
    config = CompareConfig(tasks=["classification"], backbones=["resnet18"], lrs=[1e-3, 1e-2])
    shared = {"classification": shared_arguments(config, "classification", ["--epochs", "10"])}
    first, second = trials(config, shared)
    assert [first.config.lr, second.config.lr] == [1e-3, 1e-2]
    assert first.config.epochs == 4
    assert first.config.data.scored_on() == ("train", (0.8, 1.0))
    assert first.config.data.trained_on() == (0.0, 0.8)


@pytest.mark.parametrize("total", [5, 87, 205])
def test_holdout_has_nothing_in_common_with_training(total):
    trained, scored = subset_indices(total, (0.0, 0.8), 3), subset_indices(total, (0.8, 1.0), 3)
    assert sorted([*trained, *scored]) == list(range(total))
    assert set(subset_indices(total, (0.0, 0.4), 3)) <= set(trained)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "pose"], "there are classification, detection"),
        (["--backbones", "resnet18", "resnet18"], "named twice"),
        (["--baseline", "vgg16"], "not among --backbones"),
        (["--backbones", "resnet19"], "Did you mean resnet18"),
        (["--detection.epochs", "none"], "epochs"),
        (["--epoch", "3"], "--epoch"),
        (["--tasks", "detection", "--segmentation.epochs", "2"], "which --tasks leaves out"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_trained(capsys, tmp_path, arguments, message):
    assert message in fails(capsys, 2, compare, *arguments, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_mark_is_an_error(tmp_path):
    cell = Cell("detection", ())
    assert finished(cell, tmp_path) is None
    (tmp_path / COMPLETE).write_text("{")
    with pytest.raises(BadInput, match="damaged"):
        finished(cell, tmp_path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("compare") / "rectangles")


def start(root: Path, output: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.compare", "--backbones", "mobilenetv2_050", "resnet18", *TINY]
    command += ["--data.classification.root", str(root), "--data.classification.workers", "0", *more]
    return subprocess.Popen(
        [*command, "--output", str(output)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def scores(output: Path) -> dict:
    """By backbone, the scores of the trainings that were done."""
    cells = json.loads((output / "comparison.json").read_text())["cells"]
    done = {cell["backbone"]: cell["folder"] for cell in cells if cell["status"] == "done"}
    records = {name: json.loads((output / folder / "record.json").read_text()) for name, folder in done.items()}
    return {name: [record["metrics"][metric] for metric in METRICS] for name, record in records.items()}


def test_killed_and_started_again_it_ends_the_same(root, tmp_path):
    """Kill -9 in the second training: it dies with the comparison, the first is kept, and the scores are equal."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    first = start(root, killed)
    wait_for(lambda: list(killed.glob("cells/classification/mobile*/complete.json")))
    wait_for(lambda: list(killed.glob("cells/classification/resnet18*/config.yaml")))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    kept = next(killed.glob("cells/classification/mobile*/record.json")).stat().st_mtime_ns
    again = start(root, killed)
    other = start(root, whole, "--segmentation.epochs", "1", "--data.segmentation.root", str(tmp_path / "absent"),
                  "--tasks", "classification", "segmentation")  # fmt: skip
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert "1 of 2 trainings were finished already" in said
    assert next(killed.glob("cells/classification/mobile*/record.json")).stat().st_mtime_ns == kept

    _, said = other.communicate(timeout=120)
    assert other.returncode == 3
    assert "2 of 4 trainings failed" in said
    assert "Traceback" not in said
    assert "absent" in said
    cells = json.loads((whole / "comparison.json").read_text())["cells"]
    assert [cell["status"] for cell in cells] == ["done", "done", "failed", "failed"]
    assert scores(whole) == scores(killed)
    assert len(scores(killed)) == 2
    assert (killed / "report.html").is_file()


def test_data_that_changed_in_between_are_refused(tmp_path):
    cells = [Cell("classification", ("--backbone", name)) for name in ("resnet18", "vgg16")]
    for number, cell in enumerate(cells):
        (tmp_path / "cells" / cell.name).mkdir(parents=True)
        record = {"schema": SCHEMA, "dataset": {"fingerprint": {"train": "a", "val": str(number)}}}
        (tmp_path / "cells" / cell.name / "record.json").write_text(json.dumps(record))
    entries = [Entry(cell, None, Outcome(1.0)) for cell in cells]
    grid = Grid(CompareConfig(), tmp_path, None)
    grid.check_data(entries[:1])
    with pytest.raises(BadInput, match="changed in between"):
        grid.check_data(entries)


def wait_for(condition, patience: float = 240) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
