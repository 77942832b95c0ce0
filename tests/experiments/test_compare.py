"""Tests comparisons: equal arguments for all, finished trainings kept, failures reported, resuming after kill -9."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
from safetensors.torch import save_file

from backbones.errors import BadInput, UserError
from data.columns import subset_indices
from engine.schema import SCHEMA
from experiments.compare import __main__ as compare
from experiments.compare.cells import comparison_cells
from experiments.compare.config import CompareConfig
from experiments.compare.runner import ComparisonRunner, Entry, shared_settings
from experiments.compare.tuning import trial_cell
from experiments.corpus.rows import Corpus
from experiments.jobs.arguments import shared_arguments, split_by_task
from experiments.jobs.cell import Cell, with_settings
from experiments.jobs.local import COMPLETE, Outcome, finished
from tests.classification.conftest import write_folders
from tests.commands import fails

TINY = ("--image_size", "32", "--epochs", "1", "--batch_size", "6")
LITE = "tf_efficientnet_lite0"
METRICS = ("top1", "top5")


def test_arguments_are_split_by_task():
    own, by_task = split_by_task(
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
    assert by_task == {"detection": ["--epochs", "3", "--jitter", "0.5", "2", "--data.root", "R"]}


def test_settings_of_a_task_override_shared_ones_and_these_its_preset():
    config = CompareConfig(epochs=5, protocol="finetune")
    arguments = ["--epochs", "7", "--config", "camvid", "--data.root", "R"]
    cell = Cell("segmentation", (*shared_arguments(config, "segmentation", arguments), "--backbone", "resnet18"))
    assert (cell.config.epochs, cell.config.image_size, cell.config.data.ignore_index) == (7, "352x480", 11)
    with pytest.raises(UserError, match=r"--segmentation\.seed cannot be set"):
        shared_arguments(config, "segmentation", ["--seed", "3"])


def test_a_key_depends_on_the_settings_only():
    cell = Cell("detection", ("--backbone", "resnet18", "--epochs", "3", "--lr", "0.01"))
    same = Cell("detection", ("--lr", "1e-2", "--epochs=3", "--backbone", "resnet18", "--data.workers", "3"))
    assert cell.key == same.key
    assert cell.name.startswith("detection/resnet18-s0-")
    others = [with_settings(cell, lr=0.02), with_settings(cell, seed=1), Cell("detection", ("--backbone", "resnet50"))]
    assert len({cell.key, *(other.key for other in others)}) == 4


def test_a_metric_is_for_all_tasks_or_one():
    assert CompareConfig().metric_of(["classification", "detection"]) == {"classification": "top1", "detection": "AP"}
    config = CompareConfig(metric=["precision", "detection=AP50"])
    assert config.metric_of(["detection", "segmentation"]) == {"detection": "AP50", "segmentation": "precision"}


def test_differing_settings_are_listed():
    cells = [Cell("classification", ("--backbone", name)) for name in ("resnet18", "vgg16")]
    same, differing = shared_settings(cells)
    assert differing == {"classification": []}
    assert same["classification"]["data.fraction"] == 1.0
    assert "backbone" not in same["classification"]
    assert shared_settings([cells[0], with_settings(cells[1], lr=0.5)])[1] == {"classification": ["lr"]}


@pytest.mark.parametrize("total", [5, 87, 205])
def test_held_out_images_are_not_trained_on(total):
    trained, scored = subset_indices(total, (0.0, 0.8), 3), subset_indices(total, (0.8, 1.0), 3)
    assert sorted([*trained, *scored]) == list(range(total))
    assert set(subset_indices(total, (0.0, 0.4), 3)) <= set(trained)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "pose"], "there are classification, detection"),
        (["--backbones", "resnet18", "resnet18"], "given twice"),
        (["--baseline", "vgg16"], "not among --backbones"),
        (["--backbones", "resnet19"], "Did you mean resnet18"),
        (["--detection.epochs", "none"], "epochs"),
        (["--epoch", "3"], "--epoch"),
        (["--tasks", "detection", "--segmentation.epochs", "2"], "which --tasks leaves out"),
        (["--tune", "1"], "--tune 1 is too small"),
        (["--slots", "0"], "--slots 0 is too small"),
        (["--tune", "4", "--resplit", "3"], "which --resplit scores on"),
        (["--metric", "mIoU"], "--metric mIoU: classification cannot be compared on mIoU, but on top1, balanced"),
        (["--metric", "F1"], "segmentation cannot be compared on F1, but on mIoU"),
        (["--metric", "classification=top5"], "cannot be compared on top5"),
        (["--tasks", "detection", "--metric", "segmentation=Dice"], "'segmentation' is not among the tasks detection"),
    ],
)
def test_wrong_usage_is_an_error_before_the_first_training(capsys, tmp_path, arguments, message):
    assert message in fails(capsys, 2, compare, *arguments, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_completion_file_is_an_error(tmp_path):
    cell = Cell("detection", ())
    assert finished(cell, tmp_path) is None
    (tmp_path / COMPLETE).write_text("{")
    with pytest.raises(BadInput, match="damaged"):
        finished(cell, tmp_path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("compare") / "rectangles")


def start(root: Path, output: Path, *backbones_and_more: str, place: Path = Path()) -> subprocess.Popen:
    """Start a comparison. Python also finds the modules in the folder `place`."""
    command = [sys.executable, "-m", "experiments.compare", "--tasks", "classification", *TINY]
    command += ["--data.classification.root", str(root), "--data.classification.workers", "0"]
    return subprocess.Popen(
        [*command, "--output", str(output), "--backbones", *backbones_and_more],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{Path.cwd()}{os.pathsep}{place.resolve()}"},
    )  # fmt: skip


def scores(output: Path) -> dict:
    """The scores of the finished trainings, by backbone."""
    cells = json.loads((output / "comparison.json").read_text())["cells"]
    done = {cell["backbone"]: cell["folder"] for cell in cells if cell["status"] == "done"}
    records = {name: json.loads((output / folder / "record.json").read_text()) for name, folder in done.items()}
    return {name: [record["metrics"][metric] for metric in METRICS] for name, record in records.items()}


FAILING = """
import timm

def network():
    network = timm.create_model("resnet10t", features_only=True)
    network.register_forward_pre_hook(lambda module, images: 1 / 0 if module.training else None)
    return network
"""


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """A comparison of a network with one that fails in training. Its folder and messages."""
    output = tmp_path_factory.mktemp("whole")
    (output / "failing.py").write_text(FAILING)
    more = ("--test_split", "val", "--corpus", str(output / "results"))
    process = start(root, output / "out", "mobilenetv2_050", "failing:network", *more, place=output)
    _, messages = process.communicate(timeout=240)
    assert process.returncode == 3, messages
    return output / "out", messages


def test_trainings_that_fail_are_reported_after_all_others(whole):
    output, messages = whole
    assert "1 of 2 trainings failed" in messages
    assert "Traceback" not in messages
    assert "division by zero" in messages
    cells = json.loads((output / "comparison.json").read_text())["cells"]
    assert [cell["status"] for cell in cells] == ["done", "failed"]
    assert [cell["group"] for cell in cells] == ["random", None]


def test_finished_trainings_are_in_the_corpus(whole, root):
    output, _ = whole
    (row,) = Corpus(output.parent / "results").rows()
    record = json.loads(next(output.glob("cells/classification/mobile*/record.json")).read_text())
    assert (row.backbone, row.set, row.seed, row.image_size) == ("mobilenetv2_050", root.name, 0, "32x32")
    assert row.score == pytest.approx(record["metrics"]["top1"], abs=1e-6)
    assert row.val_fingerprint == record["dataset"]["fingerprint"]["val"]
    assert str(root) not in row.command
    assert Corpus(output.parent / "results").resamples([row]).images == record["dataset"]["val"]["images"]


def test_a_training_that_the_corpus_cannot_take_is_kept_in_mind(tmp_path, monkeypatch):
    def add_run(*arguments, **options):
        raise BadInput("no space left\nsecond line")

    monkeypatch.setattr("experiments.compare.runner.add_run", add_run)
    cell = SimpleNamespace(name="a training", folder_in=lambda folder: folder)
    runner = ComparisonRunner.__new__(ComparisonRunner)
    runner.config, runner.folder, runner.not_added = SimpleNamespace(corpus=str(tmp_path), tune=0), tmp_path, {}
    runner.add_to_corpus(SimpleNamespace(cell=cell, outcome=Outcome(1.0), base=cell))
    assert runner.not_added == {"a training": "no space left"}


def test_the_test_split_is_scored_once_and_reported(whole):
    output, _ = whole
    rows, again = ((output / name).read_text() for name in ("results.csv", "results-val.csv"))
    assert rows == again  # the test split is the validation split here
    assert "On the split val" in (output / "report.html").read_text()


@pytest.mark.slow
def test_resuming_after_kill_9_gives_the_same_results(root, whole, tmp_path):
    """Kill -9 during the second training ends it too. The first one is kept, and the scores are equal."""
    killed = tmp_path / "killed"
    first = start(root, killed, "mobilenetv2_050", "resnet18")
    wait_for(lambda: list(killed.glob("cells/classification/mobile*/complete.json")))
    wait_for(lambda: list(killed.glob("cells/classification/resnet18*/config.yaml")))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    kept = next(killed.glob("cells/classification/mobile*/record.json")).stat().st_mtime_ns
    again = start(root, killed, "mobilenetv2_050", "resnet18")
    _, messages = again.communicate(timeout=120)
    assert again.returncode == 0, messages
    assert "1 of 2 trainings were finished already" in messages
    assert next(killed.glob("cells/classification/mobile*/record.json")).stat().st_mtime_ns == kept
    assert scores(whole[0])["mobilenetv2_050"] == scores(killed)["mobilenetv2_050"]
    assert len(scores(killed)) == 2
    assert (killed / "report.html").is_file()


def test_data_that_changed_between_trainings_are_an_error(tmp_path):
    cells = [Cell("classification", ("--backbone", name)) for name in ("resnet18", "vgg16")]
    for number, cell in enumerate(cells):
        (tmp_path / "cells" / cell.name).mkdir(parents=True)
        record = {"schema": SCHEMA, "dataset": {"fingerprint": {"train": "a", "val": str(number)}}}
        (tmp_path / "cells" / cell.name / "record.json").write_text(json.dumps(record))
    entries = [Entry(cell, Outcome(1.0)) for cell in cells]
    runner = ComparisonRunner(CompareConfig(), tmp_path, None)
    runner.check_data(entries[:1])
    with pytest.raises(BadInput, match="data changed between"):
        runner.check_data(entries)


def wait_for(condition, patience: float = 240) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_weights_of_single_backbones(capsys, tmp_path):
    """A file's name may contain "="; a wrong entry is an error before the first training."""
    file = tmp_path / "a=b.safetensors"
    save_file(timm.create_model("mobilenetv2_035").state_dict(), file, {"license": "MIT"})
    config = CompareConfig(backbones=["mobilenetv2_035", LITE], protocol="linear")
    config.weights = [f"mobilenetv2_035={file}"]
    shared = {"classification": shared_arguments(config, "classification", [])}
    config.tasks = ["classification"]
    cells, _ = comparison_cells(config, shared, tmp_path)
    assert [cell.config.pretrained for cell in cells] == [str(file), True]
    assert [trial_cell(cell).config.pretrained for cell in cells] == [str(file), True]
    for entry, protocol, message in (
        (f"resnet18={file}", "linear", f"'resnet18' is not among --backbones mobilenetv2_035 {LITE}"),
        ("mobilenetv2_035", "linear", "expected BACKBONE=FILE"),
        ("mobilenetv2_035=", "linear", "the file is missing"),
        (f"mobilenetv2_035={file}", "scratch", "starts from random weights. Use"),
    ):
        with pytest.raises(UserError, match=message):
            replace(config, weights=[entry], protocol=protocol).check()
    own = ("--tasks", "classification", "--backbones", *config.backbones, "--output", tmp_path / "out")
    for entry, message in (("mobilenetv2_035=absent.pth", "no weight file at"), (f"{LITE}={file}", "does not fit")):
        assert message in fails(capsys, 3, compare, *own, "--protocol", "linear", "--weights", entry)
    without = ("--tasks", "classification", "--backbones", "efficientnet_b8", "--output", tmp_path / "out")
    assert "--weights efficientnet_b8=FILE" in fails(capsys, 3, compare, *without, "--protocol", "lora")
    assert not (tmp_path / "out").exists()
