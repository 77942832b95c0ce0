"""A comparison's folder as rows: for each task and backbone its scores, how sure they differ, and what they cost."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from backbones.errors import BadInput
from engine.published import Published, classifier_of, published
from engine.schema import read_comparison, read_record
from experiments.records import config_of
from experiments.report.statistics import Difference, bootstrap, read_images
from experiments.tasks import TASKS

COSTS = ("params", "macs", "latency_ms", "peak_memory_mb", "train_seconds")


@dataclass(frozen=True)
class Run:
    """A finished training: its folder and what it recorded."""

    folder: Path
    record: dict[str, Any]

    @classmethod
    def of(cls, folder: Path) -> Run:
        """The training in a run folder."""
        return cls(folder, read_record(folder / "record.json", config_of))

    @property
    def score(self) -> float:
        """The task's main metric after the last epoch, a fraction; NaN where it is undefined."""
        value = self.record["metrics"][TASKS[self.record["task"]].metric]
        return float("nan") if value is None else value

    @property
    def provenance(self) -> str:
        """What the training started from, in words: networks are ranked among those that started alike."""
        weights, protocol = self.record["pretrained"], self.record["config"]["protocol"]
        if weights["source"] == "random":
            return "from scratch"
        known = [text for text in (weights["data"], weights["recipe"]) if text]
        return f"{protocol} from weights of {', '.join(known) or weights['source'].partition(':')[0]}"


@dataclass(frozen=True)
class Row:
    """A backbone on a task, over its seeds.

    Attributes:
        task, backbone: names.
        runs: finished trainings, by seed.
        failures: why others failed.
        pending: trainings that have not ended yet.
        difference: to the baseline; None for itself, and where either has not finished.
    """

    task: str
    backbone: str
    runs: tuple[Run, ...]
    failures: tuple[str, ...]
    pending: int
    difference: Difference | None

    @property
    def scores(self) -> list[float]:
        """One a seed, fractions."""
        return [run.score for run in self.runs]

    @property
    def mean(self) -> float:
        """Of the scores; NaN where no training finished."""
        return statistics.fmean(self.scores) if self.runs else float("nan")

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for fewer than two."""
        return statistics.stdev(self.scores) if len(self.runs) > 1 else None

    @property
    def provenance(self) -> str:
        """As its trainings tell; "not finished" where there is none."""
        return self.runs[0].provenance if self.runs else "not finished"

    def cost(self, name: str) -> float:
        """The median over seeds of one of `COSTS`; NaN where no training finished."""
        return statistics.median(run.record[name] for run in self.runs) if self.runs else float("nan")

    @property
    def published(self) -> Published | None:
        """What its source says of this network's own task, for the weights it started from where that is known."""
        rows = [row for row in published(self.backbone) if row.dataset == TASKS[self.task].benchmark.dataset]
        tag = self.runs[0].record["pretrained"].get("tag") if self.runs else None
        return next((row for row in rows if row.tag == tag), rows[0] if rows else None)

    @property
    def classifier(self) -> Published | None:
        """What is published of the network's size, as an ImageNet classifier."""
        known = classifier_of(self.backbone)
        return known if known is not None and known.params is not None else None


class Comparison:
    """What `experiments.compare` left in a folder. Raises BadInput where there is none that can be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.about: dict[str, Any] = read_comparison(folder / "comparison.json", config_of)
            self.cells: list[dict[str, Any]] = self.about["cells"]
            self.runs = {
                cell["key"]: Run.of(folder / cell["folder"]) for cell in self.cells if cell["status"] == "done"
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{folder} has no comparison that can be read ({error}): see experiments.compare") from error

    @property
    def baseline(self) -> str:
        """The backbone that differences are measured from."""
        return self.about["baseline"]

    @property
    def tasks(self) -> list[str]:
        """In the order of the trainings."""
        return list(dict.fromkeys(cell["task"] for cell in self.cells))

    @cached_property
    def rows(self) -> list[Row]:
        """By task, and within it by provenance and mean score, the best first."""
        rows = []
        for task in self.tasks:
            names = dict.fromkeys(cell["backbone"] for cell in self.cells if cell["task"] == task)
            found = [self._row(task, name) for name in names]
            groups = {row.provenance: max(r.mean for r in found if r.provenance == row.provenance) for row in found}
            rows += sorted(found, key=lambda row: (-_known(groups[row.provenance]), row.provenance, -_known(row.mean)))
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
            difference=self._difference(task, backbone),
        )

    def _runs(self, task: str, backbone: str) -> tuple[Run, ...]:
        wanted = [cell for cell in self.cells if (cell["task"], cell["backbone"]) == (task, backbone)]
        return tuple(self.runs[cell["key"]] for cell in wanted if cell["key"] in self.runs)

    def _difference(self, task: str, backbone: str) -> Difference | None:
        ours, baseline = self._runs(task, backbone), self._runs(task, self.baseline)
        if backbone == self.baseline or not ours or not baseline:
            return None
        images = {run.folder: read_images(run.folder) for run in (*ours, *baseline)}
        return bootstrap([images[run.folder] for run in ours], [images[run.folder] for run in baseline])


def groups(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Rows by provenance, in their order: only within a group do ranks compare like with like."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.provenance, []).append(row)
    return list(found.items())


def learning_curve(run: Run, metric: str) -> list[tuple[float, float]]:
    """(epoch from 1, score in percent) of each evaluation of a training."""
    with (run.folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get(metric)]
    return [(int(row["epoch"]) + 1, 100 * float(row[metric])) for row in rows]


def per_class(row: Row) -> dict[str, float]:
    """Mean over seeds of each class's score; NaN where it has none."""
    of_runs = [json.loads((run.folder / "per_class.json").read_text()) for run in row.runs]
    return {
        name: statistics.fmean(float("nan") if scores.get(name) is None else scores[name] for scores in of_runs)
        for name in of_runs[0]
    }


def _known(value: float) -> float:
    return value if value == value else float("-inf")
