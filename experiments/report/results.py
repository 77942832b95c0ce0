"""Reads a comparison's folder into rows: scores, differences with their intervals, and costs per task and backbone."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import BadInput
from backbones.pretraining import RANDOM, RUN, group_of_record
from engine.image_results import ImageResults
from engine.published import Published, classifier_of, published
from engine.schema import read_comparison, read_record
from experiments.jobs.scoring import split_folder
from experiments.records import config_of
from experiments.statistics import Difference, compare_resplits, compare_to_baseline, read_images
from experiments.tasks import TASKS

LEVEL = 0.95  # confidence level of all intervals of a task together
COSTS = ("params", "macs", "latency_ms", "peak_memory_mb", "train_seconds")


@dataclass(frozen=True)
class FinishedRun:
    """A finished training.

    Attributes:
        folder: the run folder.
        record: content of its `record.json`.
        compared: the metric to compare; None for the headline metric.
        split: the split whose scores are compared; None for the validation images of the training.
    """

    folder: Path
    record: dict[str, Any]
    compared: str | None = None
    split: str | None = None

    @classmethod
    def of(cls, folder: Path, compared: str | None = None, split: str | None = None) -> FinishedRun:
        """Read the training in a run folder, and its scores on another split if one is named."""
        record = read_record(folder / "record.json", config_of)
        if split is not None:
            record["metrics"] = json.loads((split_folder(folder, split) / "metrics.json").read_text())
        return cls(folder, record, compared, split)

    @property
    def metric(self) -> str:
        """Name of the metric to compare."""
        return self.compared or TASKS[self.record["task"]].metric

    @cached_property
    def score(self) -> float:
        """The metric after the last epoch, a fraction; NaN if it is undefined.

        It is computed from the results of each image if the record lacks the metric, or if comparisons average over
        other classes than the task's own scores.
        """
        metrics = self.record["metrics"]
        if self.metric not in metrics or TASKS[self.record["task"]].averages_true_classes:
            return float(self.images.score(np.ones((1, len(self.images.keys)), np.int64))[0])
        value = metrics[self.metric]
        return float("nan") if value is None else value

    @cached_property
    def images(self) -> ImageResults:
        """The results of each image. Raises BadInput if they are absent or damaged."""
        results = None if self.split is None else split_folder(self.folder, self.split)
        return read_images(self.folder, self.metric, results)

    @property
    def style(self) -> str | None:
        """Padding and biases of neck and heads, see `style` of the detector's settings; None for other tasks.

        Runs that an earlier version stored without the setting have the style of that version.
        """
        return TASKS[self.record["task"]].train_config.upgrade(self.record["config"]).get("style")

    @property
    def stopped_early(self) -> int | None:
        """Number of epochs of a training that early stopping ended; None for a training of all epochs."""
        return self.record.get("stopped_early")

    @property
    def micro_batch(self) -> int:
        """Number of images of a batch that a device processed at once; 0 without `accumulate="auto"`."""
        return self.record.get("micro_batch", 0)

    @property
    def provenance(self) -> str:
        """Protocol and group of the initial weights. Only networks with the same provenance are ranked together."""
        weights, protocol = self.record["pretrained"], self.record["config"]["protocol"]
        current = self.recipe == TASKS[self.record["task"]].recipe
        version = "" if current else f"; recipe version {self.recipe}"
        group = group_of_record(weights, self.record["backbone"])
        if group == RANDOM:
            return f"from scratch{version}"
        data = f" ({weights['data']})" if group == RUN and weights["data"] else ""  # runs on other data differ
        return f"{protocol}, pretraining: {group}{data}{version}"

    @property
    def recipe(self) -> int:
        """Version of the task's recipe, see `TaskSpec.recipe`. Records without it have version 1."""
        return self.record.get("recipe", 1)


@dataclass(frozen=True)
class Row:
    """The results of a backbone on a task, over all seeds.

    Attributes:
        task, backbone: names.
        runs: finished trainings, in the order of their seeds.
        failures: reasons why other trainings failed.
        pending: number of trainings that have not ended yet.
        difference: to the baseline; None for the baseline itself, and where either has no finished training.
        compared: the metric to compare; None for the headline metric.
    """

    task: str
    backbone: str
    runs: tuple[FinishedRun, ...]
    failures: tuple[str, ...]
    pending: int
    difference: Difference | None
    compared: str | None = None

    @property
    def metric(self) -> str:
        """Name of the metric to compare."""
        return self.compared or TASKS[self.task].metric

    @property
    def scores(self) -> list[float]:
        """The score of each seed, a fraction."""
        return [run.score for run in self.runs]

    @property
    def mean(self) -> float:
        """Mean score over seeds; NaN where no training finished."""
        return statistics.fmean(self.scores) if self.runs else float("nan")

    @property
    def spread(self) -> float | None:
        """Standard deviation of the score over seeds; None for fewer than two, and where a score is undefined."""
        defined = len(self.runs) > 1 and self.mean == self.mean
        return statistics.stdev(self.scores) if defined else None

    @property
    def provenance(self) -> str:
        """See `FinishedRun.provenance`; "not finished" where no training finished."""
        return self.runs[0].provenance if self.runs else "not finished"

    def cost(self, name: str) -> float:
        """Median over seeds of one of `COSTS`; NaN where no training finished."""
        return statistics.median(run.record[name] for run in self.runs) if self.runs else float("nan")

    @property
    def published(self) -> Published | None:
        """Published score of this network on this task; that of the weights it started from, if there is one."""
        rows = [row for row in published(self.backbone) if row.dataset == TASKS[self.task].benchmark.dataset]
        tag = self.runs[0].record["pretrained"].get("tag") if self.runs else None
        return next((row for row in rows if row.tag == tag), rows[0] if rows else None)

    @property
    def classifier(self) -> Published | None:
        """Published parameters and multiply-adds of the network as ImageNet classifier."""
        known = classifier_of(self.backbone)
        return known if known is not None and known.params is not None else None


class Comparison:
    """A comparison that `experiments.compare` wrote to a folder. Raises BadInput if it cannot be read.

    Args:
        folder: the comparison's folder.
        budget: the number of epochs whose trainings are compared; by default the largest one.
        split: the split whose scores are compared, see `compare --test_split`; by default the validation images.
    """

    def __init__(self, folder: Path, budget: int | None = None, split: str | None = None) -> None:
        self.folder, self.split = folder, split
        self._differences: dict[str, dict[str, Difference]] = {}
        try:
            self.about: dict[str, Any] = read_comparison(folder / "comparison.json", config_of)
            self.budget: int | None = budget or max(self.about.get("budgets") or [0]) or None
            # Cells of earlier versions have no budget.
            self.cells: list[dict[str, Any]] = [c for c in self.about["cells"] if c.get("budget") == self.budget]
            self.runs = {
                cell["key"]: FinishedRun.of(folder / cell["folder"], self.metric(cell["task"]), split)
                for cell in self.cells
                if cell["status"] == "done" and (split is None or split_folder(folder / cell["folder"], split).exists())
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{folder} has no comparison that can be read ({error}): run experiments.compare") from error

    @cached_property
    def at_budgets(self) -> list[tuple[int, Comparison]]:
        """The comparison at each of its budgets, the smallest first; empty if it has only one."""
        budgets = sorted(self.about.get("budgets") or [])
        return [(n, self if n == self.budget else Comparison(self.folder, n, self.split)) for n in budgets]

    @cached_property
    def on_test_split(self) -> Comparison | None:
        """The comparison of the scores on the split of `compare --test_split`; None without one."""
        split = self.about.get("test_split")
        return Comparison(self.folder, self.budget, split) if split else None

    @property
    def baseline(self) -> str:
        """Name of the backbone that the others are compared with."""
        return self.about["baseline"]

    def metric(self, task: str) -> str:
        """The metric that is compared."""
        return self.about.get("metrics", {}).get(task, TASKS[task].metric)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the order of the trainings."""
        return list(dict.fromkeys(cell["task"] for cell in self.cells))

    @cached_property
    def rows(self) -> list[Row]:
        """All rows, ordered by task, then by provenance and mean score, the best first."""
        rows = []
        for task in self.tasks:
            names = dict.fromkeys(cell["backbone"] for cell in self.cells if cell["task"] == task)
            found = [self._row(task, name) for name in names]
            best: dict[str, float] = {}
            for row in found:
                best[row.provenance] = min(best.get(row.provenance, math.inf), _descending(row.mean))
            rows += sorted(found, key=lambda row: (best[row.provenance], row.provenance, _descending(row.mean)))
        return rows

    def rows_of(self, task: str) -> list[Row]:
        """The rows of one task."""
        return [row for row in self.rows if row.task == task]

    def _row(self, task: str, backbone: str) -> Row:
        cells = [cell for cell in self.cells if (cell["task"], cell["backbone"]) == (task, backbone)]
        return Row(
            task=task,
            backbone=backbone,
            runs=self._runs(task, backbone),
            failures=tuple(dict.fromkeys(cell["error"] for cell in cells if cell["status"] == "failed")),
            pending=sum(cell["status"] == "pending" for cell in cells),
            difference=self.differences(task).get(backbone),
            compared=self.metric(task),
        )

    def _runs(self, task: str, backbone: str) -> tuple[FinishedRun, ...]:
        wanted = [cell for cell in self.cells if (cell["task"], cell["backbone"]) == (task, backbone)]
        return tuple(self.runs[cell["key"]] for cell in wanted if cell["key"] in self.runs)

    def differences(self, task: str) -> dict[str, Difference]:
        """The difference of each backbone to the baseline; empty if there are no two sides to compare.

        Backbones that were trained with another version of the recipe than the baseline are not compared.
        """
        if task not in self._differences:
            names = dict.fromkeys(cell["backbone"] for cell in self.cells if cell["task"] == task)
            runs = {name: found for name in names if (found := self._runs(task, name))}
            recipes = {run.recipe for run in runs.get(self.baseline, ())}
            runs = {name: found for name, found in runs.items() if {run.recipe for run in found} == recipes}
            level = 1 - (1 - LEVEL) / max(1, len(self.about.get("budgets") or []))  # for all budgets together
            if self.baseline not in runs or len(runs) < 2:
                self._differences[task] = {}
            elif self.about.get("resplit"):
                record = runs[self.baseline][0].record
                scores = {name: [run.score for run in found] for name, found in runs.items()}
                images, share = record["dataset"]["val"]["images"], record["config"]["data"]["holdout"]
                self._differences[task] = compare_resplits(scores, self.baseline, share, images, level)
            else:
                seconds = {n: statistics.median(r.record["train_seconds"] for r in found) for n, found in runs.items()}
                sides = {name: [run.images for run in found] for name, found in runs.items()}
                self._differences[task] = compare_to_baseline(sides, self.baseline, seconds=seconds, level=level)
        return self._differences[task]


def groups(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Group rows by provenance and keep their order. Ranks are meaningful only within a group."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.provenance, []).append(row)
    return list(found.items())


def per_class(row: Row) -> dict[str, float]:
    """Return the mean headline metric over seeds for each class; NaN where a class has none."""
    score_tables = [json.loads((run.folder / "per_class.json").read_text()) for run in row.runs]
    return {
        name: statistics.fmean(float("nan") if scores.get(name) is None else scores[name] for scores in score_tables)
        for name in score_tables[0]
    }


def _descending(value: float) -> float:
    """Sort key: large values first, NaN last."""
    return -value if value == value else float("inf")
