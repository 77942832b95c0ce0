"""Adds a finished training to the corpus."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backbones.errors import BadInput
from backbones.pretraining import group_of_record
from experiments.corpus.rows import SCHEMA, Corpus, CorpusRow
from experiments.jobs.cell import Cell, digest
from experiments.report.results import FinishedRun
from experiments.statistics.images import Resampled, resample

log = logging.getLogger(__name__)

RESAMPLES = 400  # of the validation images
SAME = 5e-7  # scores are stored with six digits
ROUNDING = 1e-4  # largest difference of a score in the record and from results by image, which are rounded
SHOWN = ("backbone-swap", "python", "torch", "timm")  # versions in a row
ROOT = "DATA"  # stands in commands for the folder of the data sets
DEFAULTS = {"--precision": ["fp32"]}  # flags that comparisons always state
LEFT_OUT = ("--data.workers", "--output", "--device", "--logger")  # flags that change no score


class UnusableRun(BadInput):
    """A finished run has no score that the corpus can keep."""


def add_run(
    corpus: Corpus,
    cell: Cell,
    folder: Path,
    *,
    base: Cell | None = None,
    tune: int = 0,
    name: str = "",
    place: str = "",
) -> None:
    """Add the training that was finished in a folder, and warn if the corpus has it with another score.

    Args:
        corpus: where to add it.
        cell: the training.
        folder: its run folder.
        base: the training with the recipe's settings, if `tune` trials chose those of `cell`.
        tune: number of these trials.
        name: of the data set; by default the name of its folder.
        place: path of the data set in the folder of all data sets; by default the name of its folder.

    Raises UnusableRun for a run without score or with damaged results, and BadInput where the corpus cannot be read or
    written.
    """
    rows = corpus.rows()
    try:
        run = FinishedRun.of(folder)
        known = next((other for other in rows if other.key == cell.key), None)
        row = row_of(run, cell, base=base or cell, tune=tune, name=name or set_name(cell), place=place, known=known)
        row.check()
        resampled = resamples_of(run) if known is None else None
    except (BadInput, ValueError, KeyError, TypeError) as error:
        reason = f"its record lacks {error}" if isinstance(error, KeyError) else error
        raise UnusableRun(
            f"{folder} cannot be added to {corpus.file}: {reason}. Delete the folder to train it again"
        ) from error
    if known is None:
        others = [other for other in rows if (other.set, other.task) == (row.set, row.task)]
        known = corpus.add(row, resampled)
        if others and all(_files(other) != _files(row) for other in others):
            log.warning(
                "%s of %s has other files than the rows of that name so far: they are kept apart", row.set, row.task
            )
    if known is not None and abs(known.score - row.score) > SAME:
        log.warning(
            "%s: %s with seed %d on %s is in %s with another score, %.4f instead of %.4f, from %s: the first one stays",
            row.task, row.backbone, row.seed, row.set, corpus.file, known.score, row.score, known.device,
        )  # fmt: skip


def resamples_of(run: FinishedRun) -> Resampled:
    """The run's scores on resamples of the images.

    Raises ValueError if the results by image are not those of the score: some are missing, or were changed.
    """
    found = resample({"": [run.images]}, RESAMPLES)[""]
    expected = run.record["dataset"]["val"]["images"]
    if not 0 <= expected - found.images <= run.record["config"]["data"].get("skip_bad", 0):
        raise ValueError(f"it has results of {found.images} images instead of {expected}")
    recomputed = float(found.scores[0])
    if not abs(recomputed - run.score) <= ROUNDING:
        raise ValueError(f"its results by image have the {run.metric} {recomputed:.4f}, its record {run.score:.4f}")
    return found


def _files(row: CorpusRow) -> tuple[str, str]:
    return row.train_fingerprint, row.val_fingerprint


def row_of(
    run: FinishedRun, cell: Cell, *, base: Cell, tune: int, name: str, place: str = "", known: CorpusRow | None = None
) -> CorpusRow:
    """The row of a finished training, see `add_run`. If its row is known, no results by image are read."""
    record: dict[str, Any] = run.record
    weights, config, dataset = record["pretrained"], record["config"], record["dataset"]
    source = named_weights(weights["source"])
    size = (record.get("preprocessing") or {}).get("size") or [config["image_size"]]  # runs of version 1 lack the first
    versions = ", ".join(
        f"{package} {record['versions'][package]}" for package in SHOWN if package in record["versions"]
    )
    return CorpusRow(
        schema=SCHEMA,
        set=name,
        task=cell.task,
        backbone=cell.config.backbone,
        protocol=cell.config.protocol,
        seed=cell.config.seed,
        metric=run.metric,
        score=run.score,
        majority_score=run.images.majority if known is None else known.majority_score,
        pretraining=group_of_record(weights, record["backbone"]),
        weights=source,
        weights_sha256=weights.get("sha256") or "",
        weights_license=weights.get("license") or "",
        epochs=config["epochs"],
        batch_size=config["batch_size"],
        image_size="x".join(map(str, size)),
        recipe=run.recipe,
        tune=tune,
        params=int(record["params"]),
        macs=float(record["macs"]),
        latency_ms=_number(record["latency_ms"]),
        peak_memory_mb=_number(record["peak_memory_mb"]),
        train_seconds=_number(record["train_seconds"]) + (record.get("feature_seconds") or 0.0),
        device=f"{record['device']['type']} {record['device']['name']}, {record['device']['threads']} threads",
        versions=versions,
        git_commit=record["git_commit"] or "",
        date=datetime.now(UTC).date().isoformat(),
        train_fingerprint=dataset["fingerprint"]["train"],
        val_fingerprint=dataset["fingerprint"]["val"],
        conditions=conditions_of(base, tune),
        key=cell.key,
        command=command_of(cell, place),
    )


def named_weights(source: str) -> str:
    """The source of weights without folders of this machine, whose paths mean nothing elsewhere."""
    kind, _, path = source.partition(":")
    return f"{kind}:{Path(path).name}" if kind in ("file", "run") else source


def conditions_of(base: Cell, tune: int) -> str:
    """`Cell.conditions` of the recipe; other trainings whose settings were chosen by as many trials share it."""
    if not tune:
        return base.conditions
    return digest([base.conditions, tune])


def set_name(cell: Cell) -> str:
    """Name of a training's data set: that of its folder."""
    data = cell.config.data
    place = data.root or data.train
    return Path(place).resolve().name if place else "demo scenes"


def command_of(cell: Cell, place: str = "") -> str:
    """The command that trains the cell again, without folders of this machine.

    The folder of the data set is `DATA/NAME`, and a weight file has no folder.

    Args:
        cell: the training.
        place: path of the data set in the folder of all data sets; by default the name of its folder.
    """
    words = ["python", "-m", f"{cell.task}.train"]
    arguments = _flags(cell.arguments)
    for flag, values in arguments:
        if flag in LEFT_OUT:
            continue
        if flag == "--data.root":
            values = [f"{ROOT}/{place or Path(value).name}" for value in values]
        elif flag in ("--data.train", "--data.val", "--data.test"):
            values = [":".join(_in_root(part) for part in value.split(":")) for value in values]
        else:
            values = [Path(value).name if _is_path(value) else value for value in values]
        words += [flag, *values]
    return shlex.join(words)


def _is_path(value: str) -> bool:
    return Path(value).is_absolute() or ("/" in value and Path(value).exists())


def _in_root(place: str) -> str:
    """A file or folder as it is below `DATA`; other values, such as the name of a split, stay."""
    return f"{ROOT}/{Path(place).name}" if "/" in place else place


def same_command(one: str, other: str) -> bool:
    """Whether two commands of the corpus train the same: in any order of the flags, with or without `DEFAULTS`."""
    first, second = (shlex.split(command) for command in (one, other))
    return first[:3] == second[:3] and DEFAULTS | dict(_flags(first[3:])) == DEFAULTS | dict(_flags(second[3:]))


def _flags(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Arguments as flags with their values; of flags that occur several times, the last one."""
    found: dict[str, list[str]] = {}
    flag = ""
    for argument in arguments:
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            found.pop(flag, None)
            found[flag] = [value] if equals else []
        else:
            found[flag].append(argument)
    return list(found.items())


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
