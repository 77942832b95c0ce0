"""Tests comparisons at several budgets, and trainings of equal cost."""

import csv
import json
from pathlib import Path

import pytest

from backbones.errors import BadInput, UserError
from engine.cli import parse
from experiments.compare import equal_cost
from experiments.compare.config import CompareConfig
from experiments.compare.equal_cost import COSTS, with_equal_cost
from experiments.jobs.cell import Cell
from experiments.report.budgets import crossing, sentence
from experiments.report.writer import write_report
from experiments.statistics import Difference
from tests.experiments.test_report import write_comparison, write_run


def difference(value: float, width: float, verdict: str = "not distinguishable") -> Difference:
    return Difference(value, value - width, value + width, verdict, "", 100, (3, 3))


def test_crossing_by_hand():
    """From -0.1 at 4 epochs to 0.1 at 16: 0 at 8. The ends of the intervals are 0 halfway to it."""
    found = crossing([4, 16], [difference(-0.1, 0.05), difference(0.1, 0.05)])
    assert (found.epochs, found.upwards) == (pytest.approx(8), True)
    assert found.low == pytest.approx(4 * 2**0.5)
    assert found.high == pytest.approx(16 / 2**0.5)


def test_a_crossing_is_open_where_no_interval_excludes_0():
    found = crossing([2, 8, 32], [difference(0.01, 0.05), difference(-0.01, 0.05), difference(-0.2, 0.05)])
    assert (found.epochs, found.upwards) == (pytest.approx(4), False)
    assert found.low == pytest.approx(2)  # the smallest budget that was trained
    assert 8 < found.high < 32
    assert crossing([2, 8], [difference(0.1, 0.05), difference(0.2, 0.05)]) is None


def test_the_sentence():
    verdicts = [difference(-0.1, 0.05, "worse"), difference(-0.05, 0.01, "worse"), difference(0.1, 0.05, "better")]
    assert sentence("b0", [3, 10, 30], verdicts).startswith(
        "b0: worse at 3 and 10 epochs; better at 30 epochs. It overtakes the baseline at about 14.4 epochs "
    )


def test_the_report_of_several_budgets(tmp_path):
    """The networks change places: the first is ahead at 2 epochs, the second at 8."""
    write_comparison(tmp_path, [("resnet50", 0.6, "random", 4e9)])
    cells = []
    for budget, scores in (
        (2, {"resnet50": 0.6, "efficientnet_b0": 0.4}),
        (8, {"resnet50": 0.6, "efficientnet_b0": 0.8}),
    ):
        for name, accuracy in scores.items():
            for seed in range(2):
                folder = f"cells/{name}-{budget}-{seed}"
                write_run(tmp_path / folder, name, seed + 10 * budget, accuracy + 0.02 * seed, "random", 4e8)
                cells.append({"task": "classification", "backbone": name, "seed": seed, "budget": budget,
                              "status": "done", "key": folder, "folder": folder, "error": None})  # fmt: skip
    about = json.loads((tmp_path / "comparison.json").read_text())
    (tmp_path / "comparison.json").write_text(
        json.dumps(about | {"cells": cells, "budgets": [8, 2], "equal": "epochs"})
    )
    page = write_report(tmp_path).read_text()
    assert "efficientnet_b0: worse at 2 epochs; better at 8 epochs. It overtakes the baseline at about 4 epochs" in page
    rows = list(csv.DictReader((tmp_path / "budgets.csv").open()))
    assert [(row["budget"], row["verdict"]) for row in rows if row["verdict"]] == [("2", "worse"), ("8", "better")]
    main = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [(row["backbone"], row["mean"]) for row in main] == [
        ("efficientnet_b0", "0.810000"),
        ("resnet50", "0.610000"),
    ]


def cells(*backbones: str) -> list[Cell]:
    return [
        Cell("classification", ("--backbone", name, "--epochs", "12", "--protocol", "scratch")) for name in backbones
    ]


def test_epochs_that_the_same_multiply_adds_buy(tmp_path):
    found = with_equal_cost(cells("resnet18", "efficientnet_b0"), "resnet18", "macs", tmp_path)
    assert found[0].config.epochs == 12
    assert 45 < found[1].config.epochs < 60  # 1.81 and 0.39 billion at 224 px
    assert with_equal_cost(cells("resnet18", "vgg16"), "resnet18", "epochs", tmp_path)[1].config.epochs == 12


def test_measured_times_are_kept(tmp_path, monkeypatch):
    seconds = {"resnet18": 2.0, "vgg16": 30.0}
    monkeypatch.setattr(equal_cost, "_step_seconds", lambda cell: seconds[cell.config.backbone])
    found = with_equal_cost(cells("resnet18", "vgg16"), "resnet18", "seconds", tmp_path)
    assert [cell.config.epochs for cell in found] == [12, 1]
    seconds["resnet18"] = 60.0
    again = with_equal_cost(cells("resnet18", "vgg16"), "resnet18", "seconds", tmp_path)
    assert [cell.key for cell in again] == [cell.key for cell in found]
    (tmp_path / COSTS).write_text("{")
    with pytest.raises(BadInput, match="is damaged"):
        with_equal_cost(cells("resnet18"), "resnet18", "seconds", tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--budgets", "3", "3"], "the same value is given twice"),
        (["--budgets", "0", "3"], "at least 1 epoch"),
        (["--budgets", "3", "--epochs", "2"], "both set the number of epochs"),
        (["--resplit", "1"], "a verdict needs at least 3"),
        (["--resplit", "3", "--seeds", "2"], "each division has its own seed"),
    ],
)
def test_settings_that_contradict_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        parse("experiments.compare", CompareConfig, flags, "", Path(".")).check()
