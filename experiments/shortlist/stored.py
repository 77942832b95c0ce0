"""Scores of candidates on data sets, in `shortlist.csv` of a corpus."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.errors import BadInput, unwritable
from engine.record import write_text
from experiments.corpus.rows import Corpus

OF_BOXES = "TLogME"  # in detection only
SCORES = ("k-NN", "ridge", "logistic", "LogME", "H-score", OF_BOXES)
STATIC, SIZE = "static", "size"  # lists without features: published accuracy, and number of parameters
CORPUS, CHOSEN = "corpus", "chosen"  # by mean rank on other data sets; by the list that was best on these
COLUMNS = (
    *("task", "set", "train_fingerprint", "backbone", "weights", "weights_sha256", "images", "image_size"),
    *(*SCORES, "seconds"),
)
FILE = "shortlist.csv"


@dataclass(frozen=True)
class Scored:
    """A candidate's scores on a data set.

    Attributes:
        task, set, train_fingerprint: of the data, as in `experiments.corpus.rows.CorpusRow`.
        backbone: the candidate.
        weights: source of its weights, as in `CorpusRow`, and `weights_sha256` of their file.
        images: number of images that features were computed of.
        image_size: HxW in pixels.
        scores: name -> value.
        seconds: time of features and scores, without download.
    """

    task: str
    set: str
    train_fingerprint: str
    backbone: str
    weights: str
    weights_sha256: str
    images: int
    image_size: str
    scores: dict[str, float]
    seconds: float

    @property
    def key(self) -> tuple[str, ...]:
        """What there is one row of."""
        return (self.task, self.train_fingerprint, *self.network)

    @property
    def network(self) -> tuple[str, str]:
        """As `CorpusRow.network`."""
        return self.backbone, self.weights_sha256 or self.weights


def read(folder: Path) -> list[Scored]:
    """All rows; none without the file. Raises BadInput for a file that is something else."""
    file = folder / FILE
    try:
        rows = list(csv.DictReader(io.StringIO(file.read_text())))
        return [_scored(row) for row in rows]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}") from error
    except (KeyError, ValueError, TypeError) as error:
        raise BadInput(f"{file} is not a table of scores ({error})") from error


def _scored(row: dict[str, str]) -> Scored:
    return Scored(
        task=row["task"],
        set=row["set"],
        train_fingerprint=row["train_fingerprint"],
        backbone=row["backbone"],
        weights=row["weights"],
        weights_sha256=row["weights_sha256"],
        images=int(row["images"]),
        image_size=row["image_size"],
        scores={name: _finite(row[name]) for name in SCORES if row[name]},
        seconds=float(row["seconds"]),
    )


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a score is {text}")
    return value


def write(folder: Path, rows: Sequence[Scored], setting: str = "output") -> Path:
    """Write the table to the folder that `setting` names. Returns its path. Raises BadInput if it cannot be written."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in rows:
        scores = (f"{row.scores[name]:.6f}" if name in row.scores else "" for name in SCORES)
        facts = (row.task, row.set, row.train_fingerprint, row.backbone, row.weights, row.weights_sha256)
        table.writerow([*facts, row.images, row.image_size, *scores, f"{row.seconds:.1f}"])
    return save(folder / FILE, text.getvalue(), setting)


def save(file: Path, text: str, setting: str = "output") -> Path:
    """Write a file to the folder that `setting` names. Returns its path. Raises BadInput if it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise unwritable(file.parent, error, setting) from error
    return file


def record(corpus: Corpus, new: Sequence[Scored]) -> None:
    """Add rows to those of a corpus, in place of rows of the same key. Several processes may do so at the same time."""
    with corpus.locked():
        known = {row.key: row for row in read(corpus.folder)}
        write(corpus.folder, list((known | {row.key: row for row in new}).values()), "corpus")
