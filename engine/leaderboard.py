"""The table that ends every training and evaluation: the run beside recorded ResNets, and beside what is published."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from backbones.errors import BadInput
from engine.checkpoint import RUNS
from engine.config import TrainConfig
from engine.published import published
from engine.schema import read_record
from engine.spec import TaskSpec

log = logging.getLogger(__name__)

# What has to be equal for scores to be compared: the data, the budget, and what was trained.
BUDGET = ("image_size", "epochs", "batch_size", "protocol", "style")
RESNET = "resnet50"  # what the user is told to train where no ResNet has been
MOST = 5  # runs in the table


def print_leaderboard(
    out: Console, record: dict[str, Any], spec: TaskSpec, classes: Sequence[str], folder: Path | None
) -> None:
    """Print the table, or the command that makes a ResNet to compare with.

    Args:
        out: where to.
        record: of the run, as in its `record.json`.
        spec: of the task.
        classes: of the data that was scored, by name.
        folder: of the run; None where published weights were scored, which no recorded run is like.
    """
    benchmark = spec.benchmark.dataset if spec.benchmark.matches(classes) else None
    if folder is not None:
        others = comparable(record, folder, spec.train_config)
        rivals = [run for run in others if _is_resnet(run)] or (others if _is_resnet(record) else [])
        if rivals:
            out.print(_table(record, rivals[:MOST], spec.metric))
        elif not _is_resnet(record):
            out.print(
                f"no ResNet has been trained on this data and budget yet; this does it:\n  {resnet_command(record)}"
            )
    for name in dict.fromkeys((record["backbone"], RESNET)) if benchmark else ():
        for row in published(name):
            if row.dataset == benchmark:
                scores = ", ".join(f"{key} {100 * value:.1f}" for key, value in row.scores.items())
                built_on = ", ".join(part for part in (row.neck, row.tag, row.training) if part)
                out.print(f"published on {benchmark}: {name} {scores} ({built_on}; {row.source})")


def comparable(record: dict[str, Any], folder: Path, settings: type[TrainConfig]) -> list[dict[str, Any]]:
    """Records of other backbones' runs on the same data, budget and kind of weights, the best of each, best first.

    They are looked for beside the run's folder and where runs go by default. `settings` is the class of the task's.
    """
    places = {
        path.resolve() for parent in (folder.parent, RUNS / record["task"]) for path in parent.glob("*/record.json")
    }
    best: dict[str, dict[str, Any]] = {}
    for other in read_records(sorted(places - {(folder / "record.json").resolve()}), settings):
        if _key(other) == _key(record) and other["backbone"] != record["backbone"]:
            known = best.get(other["backbone"])
            if known is None or _score(other) > _score(known):
                best[other["backbone"]] = other
    return sorted(best.values(), key=_score, reverse=True)


def read_records(files: Iterable[Path], settings: type[TrainConfig]) -> list[dict[str, Any]]:
    """Records of runs of one task, whose settings have the class `settings`.

    Files that are no such thing are left out, with a warning where a newer version wrote them.
    """
    records = []
    for file in files:
        try:
            record = read_record(file, lambda task: settings)
            _key(record)
            _score(record)
            records.append(record)
        except BadInput as error:
            log.warning("%s", error)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # somebody else's file, or an older layout: nothing that could be compared
    return records


def resnet_command(record: dict[str, Any]) -> str:
    """The run's own command line with ResNet-50 in place of its backbone."""
    words, kept, skip = shlex.split(record["command_line"]), [], False
    for word in words:
        name = word.partition("=")[0]
        if not skip and name not in ("--backbone", "--output", "--resume", "--pretrained"):
            kept.append(word)
        skip = name in ("--backbone", "--output", "--resume", "--pretrained") and "=" not in word
    kept += ["--backbone", RESNET]
    if record["pretrained"]["source"] == "random" and record["config"]["protocol"] != "scratch":
        kept += ["--pretrained", "false"]
    return shlex.join(kept)


def _table(record: dict[str, Any], rivals: Sequence[dict[str, Any]], metric: str) -> Table:
    title = "on the same data and budget, from weights of the same kind"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for head in ("backbone", f"{metric}, %", "params, M", "MACs, G", "ms an image", "training, s"):
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


def _key(record: dict[str, Any]) -> tuple:
    """What two runs share that can be compared."""
    config, weights = record["config"], record["pretrained"]
    budget = tuple(str(config.get(name)) for name in BUDGET)
    data = config["data"]
    fraction = data["fraction"], data.get("holdout", 0.0), data.get("cached_augmentations", 0)  # older ones lack some
    kind = None if weights["source"] == "random" else weights["data"] or weights["source"]
    return record["task"], record["neck"], tuple(record["dataset"]["fingerprint"].values()), budget, fraction, kind


def _score(record: dict[str, Any]) -> float:
    """The first of the record's metrics, which is its task's main one."""
    value = next(iter(record["metrics"].values()))
    return float("-inf") if value is None or value != value else value


def _is_resnet(record: dict[str, Any]) -> bool:
    return record["backbone"].startswith("resnet")
