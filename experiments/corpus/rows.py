"""The corpus: one row of `corpus.csv` for each finished training, checked when it is read and when it is written.

Beside it, `resamples/KEY.npz` has the training's scores on resamples of the validation images. They are the same
resamples for all trainings on the same images, so that intervals of differences cover the choice of images.
"""

from __future__ import annotations

import csv
import datetime
import io
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args
from zipfile import BadZipFile

import numpy as np

from backbones.errors import BadInput, unwritable
from backbones.pretraining import RANDOM
from data.lock import lock_or_warn
from engine.config import Protocol
from engine.record import write_bytes, write_text
from experiments.statistics.images import Resampled
from experiments.tasks import TASKS

SCHEMA = 2  # version of the columns; raise it if the meaning of one changes
PATIENCE = 60  # seconds in which another process should have added its row
SHAPES = ("resampled", "without")  # arrays of resamples that trainings must have in equal shapes
# What numpy raises for a file of arrays with wrong bytes.
DAMAGE = (OSError, ValueError, KeyError, EOFError, NotImplementedError, BadZipFile, zlib.error)


@dataclass(frozen=True)
class CorpusRow:
    """One finished training.

    Attributes:
        key: hash of all that decides the result, see `experiments.jobs.cell.Cell.key`. No two rows have the same.
        conditions: hash of what networks must share for their scores to be comparable, see `Cell.conditions`.
        set: name of the data set. Rows of the same name and other `conditions` are not compared.
        task, backbone, protocol, seed: of the training.
        train_fingerprint, val_fingerprint: of the files of both splits.
        weights: source of the initial weights, `weights_sha256` of their file, `weights_license`, and the group of
            their pretraining.
        epochs, batch_size, image_size: the budget. `image_size` is HxW in pixels, at which images are scored.
        recipe: version of the task's recipe.
        tune: number of trials that chose learning rate and others for this backbone; 0 for the recipe's.
        metric, score: the headline metric on the validation split after the last epoch, a fraction in 0..1.
        majority_score: the metric of always answering with the most frequent class of that split; 0 for detection.
        params, macs: of the network of the task; multiply-adds for one image of `image_size`.
        latency_ms, peak_memory_mb, train_seconds: measured on `device`, where other processes may have run.
        versions: of this package, Python and the main libraries.
        git_commit: of this package, with `+` if files were changed since; empty if unknown.
        date: UTC day on which the row was added.
        command: trains the cell again. `DATA` stands for the folder of the data sets.
    """

    schema: int
    set: str
    task: str
    backbone: str
    protocol: str
    seed: int
    metric: str
    score: float
    majority_score: float
    pretraining: str
    weights: str
    weights_sha256: str
    weights_license: str
    epochs: int
    batch_size: int
    image_size: str
    recipe: int
    tune: int
    params: int
    macs: float
    latency_ms: float
    peak_memory_mb: float
    train_seconds: float
    device: str
    versions: str
    git_commit: str
    date: str
    train_fingerprint: str
    val_fingerprint: str
    conditions: str
    key: str
    command: str

    @classmethod
    def of(cls, texts: dict[str, str]) -> CorpusRow:
        """A row from the texts of a line. Raises ValueError with the column's name."""
        if texts.get("schema") is not None:  # first, since another schema has other columns
            _check_schema(texts["schema"])
        if absent := [field.name for field in fields(cls) if texts.get(field.name) is None]:
            raise ValueError(f"it has no column {', '.join(absent)}")
        if None in texts:
            raise ValueError("it has more values than the header has columns")
        if unknown := [name for name in texts if name not in {field.name for field in fields(cls)}]:
            raise ValueError(f"its columns {', '.join(unknown)} are unknown")
        types = {"int": int, "float": float, "str": str}
        values: dict[str, Any] = {}
        for field in fields(cls):
            try:
                values[field.name] = types[str(field.type)](texts[field.name])
            except ValueError:
                raise ValueError(f"{field.name} is {texts[field.name]!r}, not a number") from None
        row = cls(**values)
        row.check()
        return row

    def check(self) -> None:
        """Raise ValueError for a row that no training of this package can have."""
        _check_schema(self.schema)
        if self.task not in TASKS:
            raise ValueError(f"the task {self.task!r} is unknown")
        if self.metric not in TASKS[self.task].image_metrics:
            raise ValueError(f"{self.task} has no metric {self.metric!r} that can be compared")
        for name in ("score", "majority_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, not a fraction in 0..1")
        for name in ("set", "backbone", "protocol", "weights", "train_fingerprint", "val_fingerprint", "command"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty")
        if self.protocol not in get_args(Protocol):
            raise ValueError(f"the protocol {self.protocol!r} is unknown")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, not at least 0")
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError:
            raise ValueError(f"date is {self.date!r}, not a day such as 2026-11-26") from None
        for name in ("epochs", "batch_size", "recipe", "params"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, not at least 1")
        for name in ("macs", "train_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}, not a number of at least 0")
        for name in ("key", "conditions"):
            if len(getattr(self, name)) != 64 or set(getattr(self, name)) - set("0123456789abcdef"):
                raise ValueError(f"{name} is {getattr(self, name)!r}, not a SHA-256")

    @property
    def is_pretrained(self) -> bool:
        """Whether the training started from pretrained weights."""
        return self.pretraining != RANDOM

    @property
    def network(self) -> tuple[str, str]:
        """The backbone and its weights: the digest of their file, or their source where the digest is unknown."""
        return self.backbone, self.weights_sha256 or self.weights


class Corpus:
    """The corpus in a folder.

    Args:
        folder: it has `corpus.csv` and `resamples/`, or will have them after the first row.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "corpus.csv"

    def rows(self) -> list[CorpusRow]:
        """All rows, in the order in which they were added. Raises BadInput for a file that is no corpus."""
        try:
            text = self.file.read_text()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise BadInput(f"{self.file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise BadInput(f"{self.file} is not a text file: {error}") from error
        if text and not text.endswith("\n"):
            raise BadInput(f"{self.file} ends in the middle of a row: restore it, or complete its last line")
        found: dict[str, CorpusRow] = {}
        try:
            for texts in csv.DictReader(io.StringIO(text)):
                row = CorpusRow.of(texts)
                if row.key in found:
                    raise ValueError("another row has the same key")
                found[row.key] = row
        except (ValueError, csv.Error) as error:
            raise BadInput(f"{self.file}, row {len(found) + 2}: {error}") from error
        return list(found.values())

    def add(self, row: CorpusRow, resampled: Resampled | None = None) -> CorpusRow | None:
        """Add a row, unless one with its key exists. Returns that one, or None if the row was added.

        Several processes may add rows at the same time. After a crash the file has either its old or its new content.

        Raises BadInput for a folder that cannot be written, and ValueError for a row that is not valid.
        """
        row.check()
        with self.locked():
            rows = self.rows()
            for known in rows:
                if known.key == row.key:
                    return known
            try:
                if resampled is not None:
                    self._write_resamples(row.key, resampled)
                write_text(self.file, table([*rows, row]))
            except OSError as error:
                raise unwritable(self.folder, error, "corpus") from error
        return None

    def resamples(self, rows: Sequence[CorpusRow]) -> Resampled | None:
        """The resampled scores of trainings of one backbone on the same images; None if some have none."""
        found = []
        for row in rows:
            try:
                with np.load(self._resamples_file(row.key)) as stored:
                    found.append({name: stored[name] for name in ("images", "resampled", "without")})
            except FileNotFoundError:
                return None
            except DAMAGE as error:
                raise BadInput(f"{self._resamples_file(row.key)} is damaged: {error}") from error
        if not found or len({(int(one["images"]), *(one[name].shape for name in SHAPES)) for one in found}) > 1:
            return None
        stacked = {name: np.stack([one[name] for one in found]).astype(np.float64) for name in SHAPES}
        scores = np.array([row.score for row in rows])
        return Resampled(int(found[0]["images"]), (None,) * len(rows), scores, stacked["resampled"], stacked["without"])

    def _resamples_file(self, key: str) -> Path:
        return self.folder / "resamples" / f"{key[:16]}.npz"

    def _write_resamples(self, key: str, resampled: Resampled) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            images=resampled.images,
            resampled=resampled.resampled[0].astype(np.float32),
            without=resampled.without[0].astype(np.float32),
        )
        file = self._resamples_file(key)
        file.parent.mkdir(exist_ok=True)
        write_bytes(file, buffer.getvalue())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing to the folder within the `with` block. Raises BadInput if that fails."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / ".lock", "a")  # noqa: SIM115 - closed below
        except OSError as error:
            raise unwritable(self.folder, error, "corpus") from error
        with lock:
            if not lock_or_warn(lock, PATIENCE, self.folder, "comparison"):
                raise BadInput(f"another process has locked {self.folder} for over {PATIENCE} seconds")
            yield


def table(rows: Iterable[CorpusRow]) -> str:
    """The text of `corpus.csv`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(CorpusRow)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _text(value) for name, value in asdict(row).items()})
    return text.getvalue()


def _check_schema(schema: int | str) -> None:
    if str(schema) != str(SCHEMA):
        raise ValueError(f"its schema is {schema}, and this version of the package reads {SCHEMA}")


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
