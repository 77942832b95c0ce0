"""Hugging Face data sets: saved to disk, or Parquet files as in a repository of the Hub.

The images are decoded by our reader. pyarrow is needed, the library `datasets` is not, and no code of a set is run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import BadInput
from data.columns import ClassColumns, Columns, Kind, Selected, digest_of
from data.formats import ALIASES, Format, Sniffed, Split
from data.formats.class_table import UNLABELLED
from data.formats.folders import indexed
from data.formats.huggingface_boxes import read_boxes
from data.formats.huggingface_features import Features, chosen, features_of
from data.formats.huggingface_files import files_of_splits, is_table, loading_script, tables_in
from data.formats.huggingface_masks import read_masks
from data.formats.huggingface_rows import Rows, is_installed
from data.formats.huggingface_split import NO_CLASS, class_indices, class_texts, open_split
from data.options import ClassOptions

SCORES: dict[Kind, float] = {"boxes": 0.93, "masks": 0.92, "classes": 0.9}  # a set may have labels of several kinds
EXAMPLES = 5

log = logging.getLogger(__name__)


def sniff(kind: Kind, root: Path) -> Sniffed | None:
    """Arrow or Parquet files with images and labels of a kind."""
    if root.is_dir() and (script := loading_script(root)) is not None and not _has_files(root):
        return Sniffed(0.3, f"{script.name} is a loading script")
    if not _has_files(root):
        return None
    described = f"{root} has Arrow or Parquet files" if root.is_dir() else f"{root.name} is an Arrow or Parquet file"
    if not is_installed():
        return Sniffed(SCORES[kind], described)
    try:
        files = next(iter(files_of_splits(root).values()))
        features = features_of(Rows(files[:1]), root)
    except BadInput:
        return Sniffed(SCORES[kind] / 3, described)  # reading it reports the cause
    kinds = _kinds(features)
    score = SCORES[kind] if kind in kinds else 0.0 if kinds else SCORES[kind] / 9
    return Sniffed(score, f"{described} with the columns {features.described()}") if score else None


def splits(root: Path) -> list[str]:
    """Splits by the names of files and folders, or as saved."""
    return list(files_of_splits(root))


def read_classes(split: Split, options: ClassOptions) -> ClassColumns:
    """Images with the class in a column of class indices, numbers or names. Rows without a class are left out."""
    opened = open_split(split)
    column = chosen(opened.features.class_columns(), options.label_column, opened.features, opened.source)
    values, names = opened.rows.column(column), opened.features.class_names(column)
    if names is not None:
        classes, label, numbered = names, class_indices(values, len(names), column, opened.source), False
    else:
        texts = class_texts(values, column, opened.source)
        classes, _, numbered = indexed([text for text in texts if text not in NO_CLASS])
        index = {name: i for i, name in enumerate(classes)}
        label = np.array([index.get(text, -1) for text in texts], np.int64)
    labelled = np.flatnonzero(label >= 0)
    if not len(labelled):
        raise BadInput(f"{opened.source} has no class in any row of its column {column}")
    left_out = [name for name, index in zip(opened.names, label.tolist(), strict=True) if index < 0]
    label = label[labelled]
    if split.name.lower() in ("", *ALIASES[0]):
        classes, label = _occurring(classes, label, opened.source)
    return ClassColumns(
        source=opened.source,
        folder=opened.folder,
        names=[opened.names[i] for i in labelled],
        image_ids=labelled + 1,
        classes=classes,
        label_digest=digest_of(classes, label, *opened.identity),
        left_out={UNLABELLED: left_out} if left_out else {},
        content=Selected(opened.content, labelled),
        label=label,
        numbered=numbered,
    )


_KINDS: tuple[tuple[Kind, str, Callable[[Split, Any], Columns]], ...] = (
    ("boxes", "objects", read_boxes),
    ("masks", "annotation", read_masks),
    ("classes", "label", read_classes),
)
FORMATS = [
    Format(
        name="huggingface",
        kind=kind,
        layout=f"""
            a Hugging Face data set with the columns image and {columns}: saved by `save_to_disk`, or
            ROOT/[data/]train-00000-of-00001.parquet""",
        sniff=partial(sniff, kind),
        splits=splits,
        read=read,
    )
    for kind, columns, read in _KINDS
]


def _has_files(root: Path) -> bool:
    if root.is_file():
        return is_table(root)
    return any((root / name).is_file() for name in ("dataset_dict.json", "state.json")) or bool(tables_in(root))


def _kinds(features: Features) -> list[Kind]:
    """Kinds of labels in a data set."""
    if not features.images:
        return []
    found: list[Kind] = ["boxes"] if features.boxes else []
    found += ["masks"] if features.mask() else []
    return found + (["classes"] if features.class_columns() else [])


def _occurring(classes: tuple[str, ...], label: np.ndarray, source: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes that occur, and the labels as indices into them. Warns about the others."""
    counts = np.bincount(label, minlength=len(classes))
    if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
        log.warning(
            "%s: %d of the %d classes that it lists have no image and are left out: %s%s", source, len(missing),
            len(classes), ", ".join(missing[:EXAMPLES]), ", ..." if len(missing) > EXAMPLES else "",
        )  # fmt: skip
    position = np.cumsum(counts > 0) - 1
    return tuple(name for name, count in zip(classes, counts, strict=True) if count), position[label]
