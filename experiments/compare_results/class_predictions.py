"""Reads tables of classified images: a row for each image with its predicted class, or with a score for each class.

Columns are recognised by usual names: those of timm's `inference.py` (filename, index, label, prob), and tables of
file, label and prediction as scripts write them. If a table has the true label, too, it has to agree with the truth.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from backbones.errors import BadInput
from data.class_names import match_names
from data.columns import ClassColumns
from data.formats.class_table_columns import CLASSES, FILES, KNOWN
from data.formats.tables import Table, plain_name, read_table
from experiments.compare_results.image_names import examples

# Plain names of columns, see `plain_name`.
PREDICTIONS = (
    *("prediction", "predictions", "predicted", "pred", "preds", "predictedclass", "predictedlabel", "predclass"),
    *("predlabel", "ypred", "yhat", "top1class", "top1label", "top1prediction", "output"),
)
INDICES = ("index", "index0", "predictedindex", "predindex", "top1index", "classindex")
TOP_LABELS = ("label0", "label")  # timm's predicted class, if no column of `PREDICTIONS` exists
SCORES = ("prob", "probs", "probability", "probabilities", "logit", "logits", "score", "scores", "output", "p", "class")
_OF_MODELS = {"model", "top1err", "paramcount"}  # columns of timm's `validate.py`
_FIRST = re.compile(r"""^\[\s*(?:'([^']*)'|"([^"]*)"|([^\s,\]]+))""")  # of a list in a cell, as NumPy prints it


@dataclass(frozen=True)
class Predictions:
    """The n predictions of a file.

    Attributes:
        files: n names of images as written.
        label: (n,) int64 class index of each; -1 for a class that the truth does not have.
        unknown: names of these classes.
        ties: number of images with several classes of the highest score; the first one counts.
    """

    files: Sequence[str]
    label: np.ndarray
    unknown: tuple[str, ...] = ()
    ties: int = 0


def read_predictions(file: Path, truth: ClassColumns, reading: str | None) -> Predictions:
    """The predictions of a table.

    Args:
        file: CSV, TSV or text.
        truth: its classes define names and indices.
        reading: whether predicted classes are "names" or "indices", if it is known.

    Raises BadInput with the file, the row and the cause.
    """
    if file.is_dir():
        raise BadInput(f"{file} is a folder: pass a table of images, such as the images.csv of a run")
    table = read_table(file, (*KNOWN, *PREDICTIONS, *INDICES, *_OF_MODELS, "label0"))
    names = {plain_name(name) for name in table.header}
    if names >= _OF_MODELS:
        raise BadInput(
            f"{file} has a row for each model, as timm's validate.py writes it, not for each image: write the "
            "predictions with timm's inference.py"
        )
    if not table.rows:
        raise BadInput(f"{file} has no rows")
    columns = table.find(FILES)
    if not columns:
        described = f"Its columns are {', '.join(table.header[:8])}" if table.header else "It has no header"
        raise BadInput(f"{file} has no column with the file of each image. {described}. Call it filename")
    files = table.column(columns[0])
    scores = _score_columns(table, truth.classes)
    predicted = table.find(PREDICTIONS)
    if not predicted and (not scores or table.find(("label0", *INDICES))):
        predicted = table.find(
            (*TOP_LABELS, *INDICES)
        )  # otherwise a label beside the scores of all classes is the truth
    predicted = [column for column in predicted if column not in (columns[0], *scores)]
    if predicted:
        return _from_column(table, files, predicted, truth, reading)
    if scores:
        return _from_scores(table, files, scores)
    raise BadInput(
        f"{file} has no predictions: its columns are {', '.join(table.header[:8])}. Call the column of predicted "
        f"classes prediction, or give each of the {len(truth.classes)} classes a column with its score"
    )


def _fail(table: Table, row: int, problem: str) -> NoReturn:
    raise BadInput(f"{table.file}: row {row + 1 + bool(table.header)} {problem}")


def _from_column(
    table: Table, files: Sequence[str], candidates: Sequence[int], truth: ClassColumns, reading: str | None
) -> Predictions:
    """Predictions from the first of the columns whose values are classes."""
    problems = []
    for column in candidates:
        values = [_first(cell) for cell in table.column(column)]
        try:
            label, unknown = _labels(table, column, values, truth, reading)
        except BadInput as error:
            problems.append(error)
            continue
        return Predictions(files, label, unknown)
    raise problems[0]


def _first(cell: str) -> str:
    """The value of a cell; of a list, as timm writes with `--topk 5`, the first one."""
    found = _FIRST.match(cell)
    return next(group for group in found.groups() if group is not None) if found else cell


def _labels(
    table: Table, column: int, values: Sequence[str], truth: ClassColumns, reading: str | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(n,) class index of each value, -1 for other classes, and the names of these."""
    if "" in values:
        _fail(table, values.index(""), f"has no value in the column {table.title(column)}")
    distinct = list(dict.fromkeys(values))
    by_name = dict(zip(distinct, match_names(distinct, truth.classes), strict=True))
    count = len(truth.classes)
    positions = {str(index): index for index in range(count)}
    by_index = {value: positions[value] for value in distinct if value in positions}
    are_names = all(index >= 0 for index in by_name.values())
    are_indices = len(by_index) == len(distinct)
    if reading is None and are_names and are_indices and by_name != by_index and not truth.numbered:
        raise BadInput(
            f"{table.file}: the predicted classes, {examples(distinct)}, can be names of classes or their positions, "
            "which are other classes. Choose with `labels=names` or `labels=indices`",
            settings=("labels",),
        )
    if reading == "indices" or (reading is None and are_indices and not are_names and not truth.numbered):
        row = next((row for row, value in enumerate(values) if value not in by_index), None)
        if row is not None:
            _fail(table, row, f"has the class {values[row]!r}, not a position from 0 to {count - 1}")
        return np.array([by_index[value] for value in values], np.int64), ()
    if all(index < 0 for index in by_name.values()):
        kind = "positions beyond" if all(value.isdecimal() for value in distinct) else "none of"
        raise BadInput(
            f"{table.file}: the values in the column {table.title(column)}, {examples(distinct)}, are {kind} the "
            f"{count} classes of the truth, {examples(truth.classes)}"
        )
    unknown = tuple(value for value in distinct if by_name[value] < 0)
    return np.array([by_name[value] for value in values], np.int64), unknown


def _score_columns(table: Table, classes: Sequence[str]) -> list[int]:
    """The columns with a score for each class, in the order of the classes; empty if there are none."""
    exact = {name: column for column, name in enumerate(table.header)}
    if all(name in exact for name in classes):
        return [exact[name] for name in classes]
    for prefix in SCORES:
        numbered = {plain_name(name): column for column, name in enumerate(table.header)}
        found = [numbered.get(f"{prefix}{index}") for index in range(len(classes))]
        if all(column is not None for column in found) and f"{prefix}{len(classes)}" not in numbered:
            return [column for column in found if column is not None]
    return []


def _from_scores(table: Table, files: Sequence[str], columns: Sequence[int]) -> Predictions:
    try:
        scores = np.array([[row[column] for column in columns] for row in table.rows], np.float64)
    except ValueError:
        scores = np.array([[_number(row[column]) for column in columns] for row in table.rows])
    undefined = ~np.isfinite(scores)
    if undefined.any():
        row, position = (int(value) for value in np.argwhere(undefined)[0])
        column = columns[position]
        _fail(table, row, f"has {table.rows[row][column]!r} in the column {table.title(column)}, not a finite number")
    best = scores.max(axis=1, keepdims=True)
    return Predictions(files, scores.argmax(axis=1), ties=int(((scores == best).sum(1) > 1).sum()))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def true_labels(file: Path) -> tuple[list[str], list[str]] | None:
    """Files and true labels that a table has beside predictions; None if it has none."""
    table = read_table(file, (*KNOWN, *PREDICTIONS, *INDICES))
    predictions = table.find(PREDICTIONS)
    labels = [column for column in table.find(CLASSES) if column not in predictions]
    images = table.find(FILES)
    if not predictions or not labels or not images:
        return None
    return table.column(images[0]), table.column(labels[0])
