"""Scores of candidates on data sets, in `shortlist.csv` of a corpus."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.errors import BadInput
from engine.record import write_text

OF_BOXES = "TLogME"  # in detection only
SCORES = ("k-NN", "ridge", "logistic", "LogME", "H-score", OF_BOXES)
STATIC = "static"  # the ranking without scores
COLUMNS = ("task", "set", "train_fingerprint", "backbone", "images", "image_size", *SCORES, "seconds")
FILE = "shortlist.csv"


@dataclass(frozen=True)
class Scored:
    """A candidate's scores on a data set.

    Attributes:
        task, set, train_fingerprint: of the data, as in `experiments.corpus.rows.CorpusRow`.
        backbone: the candidate.
        images: number of images that features were computed of.
        image_size: HxW in pixels.
        scores: name -> value.
        seconds: time of features and scores, without download.
    """

    task: str
    set: str
    train_fingerprint: str
    backbone: str
    images: int
    image_size: str
    scores: dict[str, float]
    seconds: float

    @property
    def key(self) -> tuple[str, str, str]:
        """What there is one row of."""
        return (self.task, self.train_fingerprint, self.backbone)


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
        images=int(row["images"]),
        image_size=row["image_size"],
        scores={name: float(row[name]) for name in SCORES if row[name]},
        seconds=float(row["seconds"]),
    )


def write(folder: Path, rows: Sequence[Scored]) -> Path:
    """Write the table. Returns its path. Raises BadInput for a folder that cannot be written."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in rows:
        scores = (f"{row.scores[name]:.6f}" if name in row.scores else "" for name in SCORES)
        facts = (row.task, row.set, row.train_fingerprint, row.backbone, row.images, row.image_size)
        table.writerow([*facts, *scores, f"{row.seconds:.1f}"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / FILE, text.getvalue())
    except OSError as error:
        raise BadInput(f"{folder} cannot be written ({error.strerror})") from error
    return folder / FILE


def merged(rows: Sequence[Scored], new: Sequence[Scored]) -> list[Scored]:
    """Rows in which new ones replace those of the same key."""
    return list(({row.key: row for row in rows} | {row.key: row for row in new}).values())
