"""A score that is undefined in some epochs, or in all, ends nothing: checkpoints, files and tables handle it."""

import csv
import json
import math
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure

from detection import train as train_command
from detection.evaluator import CocoEvaluator
from engine.checkpoint_callback import BestCheckpoint
from engine.history import History
from engine.plots import curves
from engine.progress import TrainingProgress
from tests.commands import run
from tests.detection.conftest import write_coco

NAN = math.nan


class Saved:
    """A trainer that only counts epochs and notes when it saves."""

    def __init__(self):
        self.current_epoch = self.global_step = 0
        self.epochs = []

    def save_checkpoint(self, file):
        self.epochs.append(self.current_epoch + 1)


@pytest.mark.parametrize(
    ("scores", "saved", "best"),
    [
        ([0.1, 0.3, 0.2], [1, 2], 2),
        ([0.1, 0.1], [1], 1),
        ([NAN, 0.0, 0.2], [1, 2, 3], 3),
        ([0.1, NAN, NAN], [1], 1),
        ([NAN, NAN], [1], 1),
        ([-3.0, NAN, -2.0], [1, 3], 3),
        ([None, 0.2, None, 0.3], [2, 4], 4),  # None: an epoch without evaluation
    ],
)
def test_best_checkpoint(tmp_path, scores, saved, best):
    """It is saved in exactly the epoch that the record calls the best."""
    history, trainer = History(tmp_path, "AP"), Saved()
    callback = BestCheckpoint(tmp_path / "best.ckpt", history)
    for epoch, score in enumerate(scores):
        trainer.current_epoch = epoch
        history.rows.append({"epoch": epoch, "step": epoch} | ({} if score is None else {"AP": score}))
        callback.on_train_epoch_end(trainer, None)
    assert trainer.epochs == saved
    assert history.best["epoch"] == best


def test_curves_of_one_epoch_have_whole_ticks(tmp_path, monkeypatch):
    (tmp_path / "metrics.csv").write_text("epoch,step,loss,AP\n0,1,1.5,0.2\n")
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    curves(tmp_path / "metrics.csv", "AP", tmp_path / "curves.png")
    for panel in figures[0].axes:
        low, high = panel.get_xlim()
        assert [tick for tick in panel.get_xticks() if low <= tick <= high] == [1]


def test_curves_without_a_score(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,loss,AP\n0,1,1.5,\n1,2,1.2,\n")
    curves(tmp_path / "metrics.csv", "AP", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("module", "shown"),
    [
        (SimpleNamespace(), "AP --"),
        (SimpleNamespace(scores={"AP": NAN}), "AP --"),
        (SimpleNamespace(scores={"AP": 0.5}), "AP 50.0"),
    ],
)
def test_progress(module, shown):
    text = TrainingProgress("AP")._text(SimpleNamespace(current_epoch=0, max_epochs=2), module)
    assert text.endswith(shown)


@pytest.mark.parametrize("undefined", [{1}, {1, 2}], ids=["first epoch", "all epochs"])
def test_training(tmp_path, monkeypatch, capsys, undefined):
    """Validation without objects of the class, for example: AP is undefined."""
    compute, calls = CocoEvaluator.compute, []

    def partly_undefined(self):
        calls.append(None)
        return compute(self) | ({"AP": NAN} if len(calls) in undefined else {})

    monkeypatch.setattr(CocoEvaluator, "compute", partly_undefined)
    output = tmp_path / "run"
    words = ["--image_size", 64, "--epochs", 2, "--eval_every", 1, "--batch_size", 4, "--device", "cpu"]
    run(train_command, "--data.root", write_coco(tmp_path / "data"), "--output", output, *words, "--data.workers", 0)
    record = json.loads((output / "record.json").read_text())
    rows = list(csv.DictReader((output / "metrics.csv").open()))
    assert rows[0]["AP"] == ""
    assert (record["metrics"]["AP"] is None) == (2 in undefined)
    assert record["best"]["epoch"] == (1 if 2 in undefined else 2)
    best = torch.load(output / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] + 1 == record["best"]["epoch"]
    printed = capsys.readouterr()
    assert "AP --" in printed.err
    assert "nan" not in printed.out + printed.err
