"""`--patience`: when a training stops, what it records, and how it resumes."""

import csv
import json
import math
import signal

import pytest
import torch

from classification import train as train_command
from classification.evaluator import AccuracyEvaluator
from classification.task import ClassificationTask
from engine.history import History
from tests.classification.conftest import folders  # noqa: F401 - a fixture
from tests.commands import fails, run
from tests.reliability.test_resume import stopped_at

FLAGS = [
    "--image_size",
    "64",
    "--batch_size",
    "6",
    "--device",
    "cpu",
    "--epochs",
    "12",
    "--eval_every",
    "1",
    "--patience",
]
NAN = math.nan


@pytest.fixture
def scripted(monkeypatch):
    """Evaluations return these values of top-1, one after the other."""
    before = AccuracyEvaluator.compute

    def script(*values):
        remaining = iter(values)
        monkeypatch.setattr(AccuracyEvaluator, "compute", lambda self: before(self) | {"top1": next(remaining)})

    return script


def read(folder):
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    return json.loads((folder / "record.json").read_text()), [int(row["epoch"]) for row in rows if row["top1"]]


@pytest.mark.parametrize(
    ("patience", "values", "epoch", "best"),
    [
        (2, [0.5, 0.6, 0.6, 0.4, 0.9], 4, 2),  # an equal score is no improvement
        pytest.param(1, [0.5, 0.6, 0.7, 0.1], 4, 3, marks=pytest.mark.slow),
        pytest.param(3, [0.5, 0.4, 0.3, 0.6, 0.5, 0.5, 0.5], 7, 4, marks=pytest.mark.slow),
        pytest.param(2, [NAN, 0.1, NAN, NAN], 4, 2, marks=pytest.mark.slow),
        pytest.param(0, [0.5] * 12, None, 1, marks=pytest.mark.slow),
        pytest.param(11, [0.5] * 12, None, 1, marks=pytest.mark.slow),  # the last epoch is the last one anyway
    ],
)
def test_a_training_stops_after_evaluations_without_a_new_best(
    scripted, folders, tmp_path, capsys, patience, values, epoch, best  # noqa: F811
):  # fmt: skip
    scripted(*values)
    run(train_command, "--data.root", folders, "--output", tmp_path / "run", *FLAGS, patience)
    record, scored = read(tmp_path / "run")
    assert record["stopped_early"] == epoch
    assert record["best"]["epoch"] == best
    assert record["metrics"]["top1"] == (None if values[-1] != values[-1] else values[(epoch or 12) - 1])
    assert len(scored) == sum(v == v for v in values[: epoch or 12])
    captured = capsys.readouterr()
    waited = "1 evaluation" if patience == 1 else f"{patience} evaluations"
    assert (f"stopped early after epoch {epoch}, {waited} without" in captured.out) == (epoch is not None)
    assert ("at most 0:" in captured.err) == (patience > 0)
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == (epoch or 12)


@pytest.mark.slow
def test_epochs_without_an_evaluation_do_not_count(scripted, folders, tmp_path):  # noqa: F811
    scripted(0.6, 0.5, 0.5)
    flags = [*FLAGS[:-1], "--eval_every", "3", "--patience", "2"]
    run(train_command, "--data.root", folders, "--output", tmp_path / "run", *flags)
    record, scored = read(tmp_path / "run")
    assert (record["stopped_early"], scored) == (9, [2, 5, 8])


@pytest.mark.slow
@pytest.mark.case("R1")
def test_a_resumed_training_stops_in_the_same_epoch(scripted, folders, tmp_path, monkeypatch, capsys):  # noqa: F811
    values = [0.5, 0.6, 0.6, 0.4, 0.9]
    scripted(*values)
    run(train_command, "--data.root", folders, "--output", tmp_path / "whole", *FLAGS, 2)
    scripted(*values)
    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "on_train_batch_start", stopped_at(2, 1, ClassificationTask))
        fails(capsys, 130, train_command, "--data.root", folders, "--output", tmp_path / "stopped", *FLAGS, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run(train_command, "--resume", tmp_path / "stopped")
    whole, resumed = (read(tmp_path / name) for name in ("whole", "stopped"))
    assert whole[1] == resumed[1] == [0, 1, 2, 3]
    for name in ("stopped_early", "metrics", "best"):
        assert whole[0][name] == resumed[0][name]


@pytest.mark.slow
@pytest.mark.case("R1")
def test_a_stopped_training_that_was_killed_before_its_record_trains_no_further(
    scripted, folders, tmp_path, monkeypatch  # noqa: F811
):  # fmt: skip
    scripted(0.6, 0.5, 0.5, 0.7)
    run(train_command, "--data.root", folders, "--output", tmp_path / "run", *FLAGS, 2)
    before, _ = read(tmp_path / "run")
    (tmp_path / "run" / "record.json").unlink()

    def trains(*arguments):
        raise AssertionError("a step was trained")

    monkeypatch.setattr(ClassificationTask, "training_step", trains)
    run(train_command, "--resume", tmp_path / "run")
    after, _ = read(tmp_path / "run")
    assert before["stopped_early"] == after["stopped_early"] == 3
    assert (before["metrics"], before["best"]) == (after["metrics"], after["best"])


def test_ctrl_c_in_the_epoch_that_stops_the_run_completes_it(scripted, folders, tmp_path, monkeypatch):  # noqa: F811
    scripted(0.6, 0.5)
    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "on_train_batch_start", stopped_at(1, 2, ClassificationTask))
        run(train_command, "--data.root", folders, "--output", tmp_path / "run", *FLAGS, 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert read(tmp_path / "run")[0]["stopped_early"] == 2


def test_evaluations_since_the_best_by_hand(tmp_path):
    history = History(tmp_path, "AP")
    assert history.evaluations_since_best == 0
    for epoch, (score, expected) in enumerate([(0.2, 0), (None, 0), (0.3, 0), (0.3, 1), (NAN, 2), (0.1, 3), (0.4, 0)]):
        history.rows.append({"epoch": epoch, "step": epoch} | ({} if score is None else {"AP": score}))
        assert history.evaluations_since_best == expected, epoch


def test_a_negative_patience_is_an_error(capsys):
    assert "--patience -1 is too small" in fails(capsys, 2, train_command, *FLAGS, -1)
