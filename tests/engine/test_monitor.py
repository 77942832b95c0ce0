"""`--monitor`: the metric that selects the best epoch, is shown, and is watched by `--patience`."""

import json

import pytest
import torch
import yaml

from classification import train as train_classifier
from classification.evaluator import AccuracyEvaluator
from detection import train as train_detector
from experiments.tasks import TASKS
from segmentation import train as train_segmenter
from tests.classification.conftest import folders  # noqa: F401 - a fixture
from tests.commands import fails, run

FLAGS = ["--image_size", "64", "--batch_size", "6", "--device", "cpu", "--epochs", "6", "--eval_every", "1"]


@pytest.fixture
def scripted(monkeypatch):
    """Evaluations in which top-1 falls while F1 rises, then both stay."""
    before, values = AccuracyEvaluator.compute, iter([(0.9, 0.1), (0.8, 0.2), (0.7, 0.3)] + [(0.6, 0.25)] * 9)

    def compute(self):
        top1, f1 = next(values)
        return before(self) | {"top1": top1, "F1": f1}

    monkeypatch.setattr(AccuracyEvaluator, "compute", compute)


@pytest.mark.parametrize(
    ("monitor", "epoch", "stopped"),
    [
        pytest.param(None, 1, 3, marks=pytest.mark.slow),
        pytest.param("top1", 1, 3, marks=pytest.mark.slow),
        ("F1", 3, 5),
    ],
)
def test_the_monitor_selects_the_best_epoch(scripted, folders, tmp_path, capsys, monitor, epoch, stopped):  # noqa: F811
    flags = [*FLAGS, "--patience", "2", *(["--monitor", monitor] if monitor else [])]
    run(train_classifier, "--data.root", folders, "--output", tmp_path / "run", *flags)
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert (record["best"]["epoch"], record["stopped_early"]) == (epoch, stopped)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["monitor"] == monitor
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == epoch - 1
    captured = capsys.readouterr()
    name = monitor or "top1"
    assert f"best {name} {'30.0' if name == 'F1' else '90.0'} after epoch {epoch} of 6" in captured.out
    assert f"  {name} {'10.0' if name == 'F1' else '90.0'}" in captured.err
    assert json.loads((tmp_path / "run" / "per_class.json").read_text()).keys() == {"blue <b>", "green", "red"}


@pytest.mark.parametrize(
    ("command", "task"),
    [(train_classifier, "classification"), (train_detector, "detection"), (train_segmenter, "segmentation")],
)
def test_an_unknown_metric_lists_all(command, task, tmp_path, capsys):
    message = fails(capsys, 2, command, "--monitor", "accuracy", "--output", tmp_path / "run")
    assert f"--monitor accuracy: there are {', '.join(TASKS[task].train_config.metrics)}" in message
    assert not (tmp_path / "run").exists()


def test_the_headline_metric_is_the_first():
    for spec in TASKS.values():
        assert spec.train_config.metrics[0] == spec.metric
        assert set(spec.image_metrics) <= set(spec.train_config.metrics)
