"""The table after each training and evaluation: it compares the run with stored ResNet runs and published scores."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from backbones.errors import BadInput
from engine.checkpoint import RUNS
from engine.config import TrainConfig
from engine.published import published
from engine.schema import flat, read_record
from engine.spec import TaskSpec

log = logging.getLogger(__name__)

# Runs are comparable only if these settings are equal, besides data set and kind of weights, see `_key`.
BUDGET = (
    "image_size", "epochs", "batch_size", "protocol", "style", "patience", "class_weights",
    "max_detections", "data.fraction", "data.holdout", "data.balance", "data.augment",
    "data.cached_augmentations",
)  # fmt: skip
RESNET = "resnet50"  # the backbone to suggest if there is no ResNet run
MAX_RIVALS = 5  # other runs in the table
REPLACED_FLAGS = ("--backbone", "--output", "--resume", "--pretrained")  # see `resnet_command`


def print_leaderboard(
    out: Console, record: dict[str, Any], spec: TaskSpec, classes: Sequence[str], folder: Path | None
) -> None:
    """Print the table, or the command that trains a ResNet for comparison, and published scores on the same benchmark.

    Args:
        out: console to print to.
        record: content of the run's `record.json`.
        spec: the task.
        classes: class names of the evaluated data.
        folder: the run folder. None for published weights, which are not comparable with any run.
    """
    benchmark = spec.benchmark.dataset if spec.benchmark.matches(classes) else None
    if folder is not None:
        others = comparable(record, folder, spec.train_config)
        rivals = [run for run in others if _is_resnet(run)] or (others if _is_resnet(record) else [])
        if rivals:
            out.print(_table(record, rivals[:MAX_RIVALS], spec.metric))
        elif not _is_resnet(record):
            command = resnet_command(record)
            out.print(f"no ResNet run with this data and budget to compare with. To train one, run:\n  {command}")
    for name in dict.fromkeys((record["backbone"], RESNET)) if benchmark else ():
        for row in published(name):
            if row.dataset == benchmark:
                scores = ", ".join(f"{key} {100 * value:.1f}" for key, value in row.scores.items())
                built_on = ", ".join(part for part in (row.neck, row.tag, row.training) if part)
                out.print(f"published on {benchmark}: {name} {scores} ({built_on}; {row.source})")


def comparable(record: dict[str, Any], folder: Path, settings: type[TrainConfig]) -> list[dict[str, Any]]:
    """Records of runs of other backbones with the same data, budget and kind of weights, best first.

    Only the best run of each backbone is returned. The search covers the parent of `folder` and the default folder.
    `settings` is the class of the task's training settings.
    """
    files = {
        path.resolve() for parent in (folder.parent, RUNS / record["task"]) for path in parent.glob("*/record.json")
    }
    best: dict[str, dict[str, Any]] = {}
    for other in read_records(sorted(files - {(folder / "record.json").resolve()}), settings):
        if _key(other, settings) == _key(record, settings) and other["backbone"] != record["backbone"]:
            known = best.get(other["backbone"])
            if known is None or _score(other) > _score(known):
                best[other["backbone"]] = other
    return sorted(best.values(), key=_score, reverse=True)


def read_records(files: Iterable[Path], settings: type[TrainConfig]) -> list[dict[str, Any]]:
    """The content of the files that are run records of a task with the training settings `settings`.

    Other files are ignored, with a warning for records of a newer version of this package.
    """
    records = []
    for file in files:
        try:
            record = read_record(file, lambda task: settings)
            _key(record, settings)
            _score(record)
            records.append(record)
        except BadInput as error:
            log.warning("%s", error)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # a file of another program or of an old version: not comparable
    return records


def resnet_command(record: dict[str, Any]) -> str:
    """The run's command line with ResNet-50 instead of its backbone."""
    words: list[str] = []
    skip = False
    for word in shlex.split(record["command_line"]):
        flag = word.partition("=")[0]
        if not skip and flag not in REPLACED_FLAGS:
            words.append(word)
        skip = flag in REPLACED_FLAGS and "=" not in word  # the next word is the flag's value
    words += ["--backbone", RESNET]
    if record["pretrained"]["source"] == "random" and record["config"]["protocol"] != "scratch":
        words += ["--pretrained", "false"]
    return shlex.join(words)


def _table(record: dict[str, Any], rivals: Sequence[dict[str, Any]], metric: str) -> Table:
    title = "same data, budget and kind of initial weights"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for head in ("backbone", f"{metric}, %", "params, M", "MACs, G", "ms per image", "training, s"):
        table.add_column(head, justify="left" if head == "backbone" else "right")
    for run in sorted((record, *rivals), key=lambda run: -_score(run)):
        value = run["metrics"][metric]
        table.add_row(
            f"{run['backbone']}{' (this run)' if run is record else ''}".replace("[", r"\["),
            "--" if value is None or value != value else f"{100 * value:.1f}",
            f"{run['params'] / 1e6:.2f}",
            f"{run['macs'] / 1e9:.2f}",
            f"{run['latency_ms']:.1f}",
            f"{run['train_seconds']:.0f}",
        )
    return table


def _key(record: dict[str, Any], settings: type[TrainConfig]) -> tuple:
    """A key that is equal for runs that are comparable. Settings that a record lacks have their defaults."""
    values, weights = dict(flat(asdict(settings()))) | dict(flat(record["config"])), record["pretrained"]
    budget = tuple(str(values.get(name)) for name in BUDGET)
    kind = None if weights["source"] == "random" else weights["data"] or weights["source"]
    return (
        record["task"],
        record.get("recipe", 1),
        record["neck"],
        tuple(record["dataset"]["fingerprint"].values()),
        budget,
        kind,
    )


def _score(record: dict[str, Any]) -> float:
    """The record's first metric, which is the headline metric of its task. Minus infinity if undefined or absent."""
    value = next(iter(record["metrics"].values()), None)
    return float("-inf") if value is None or value != value else value


def _is_resnet(record: dict[str, Any]) -> bool:
    return record["backbone"].startswith("resnet")
