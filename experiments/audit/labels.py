"""Findings about labels that training does not report: rare classes, duplicates, images without labels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from posixpath import basename, dirname, normpath
from typing import Any

import numpy as np

from backbones.errors import BadInput
from data.batch import IGNORE
from data.columns import Kind
from data.findings import EXAMPLES, Finding
from data.images import IMAGE_SUFFIXES
from data.scan import sample_of
from detection.config import MAX_DETECTIONS
from experiments.audit.splits import AuditedSplit, Opened, errors_into

UNITS: dict[Kind, str] = {"boxes": "boxes", "masks": "pixels", "classes": "images"}  # what is counted by class
FEW = 10  # examples of a class below which a model learns little about it
BEYOND = 1.0  # px that a box may exceed its image by without a finding
MASKS = 64  # masks that are read for the first page
NO_CLASS = "no class"  # in the counts of pixels


def label_findings(opened: Opened, balance: dict[str, dict[str, int]]) -> list[Finding]:
    """Findings from the labels of all splits. `balance`: of each split, see `balance_of`."""
    findings: list[Finding] = []
    files: dict[str, list[str]] = {}
    for split in opened.splits:
        if split.columns is not None:
            with errors_into(findings, split.columns.source):
                files[split.name] = _files(split)
                findings += _repeated_images(split, files[split.name])
        if split.dataset is not None and opened.kind == "boxes":
            with errors_into(findings, split.columns.source):
                findings += _boxes(split)
    with errors_into(findings, opened.root):
        findings += _shared_images(files)
        if opened.kind == "boxes" and len(files) == len(opened.splits):  # else images seem to be unlisted
            findings += _unlisted_images(files)
        findings += _balance(opened, balance)
    return findings


def _files(split: AuditedSplit) -> list[str]:
    """The image files of a split as paths without links to folders; none if the images are not files of their own."""
    if split.columns.content is not None:
        return []
    folder = os.path.realpath(split.columns.folder)
    return [normpath(f"{folder}/{name}") for name in split.columns.names]


def balance_of(split: AuditedSplit, kind: Kind) -> dict[str, int]:
    """Number of images or boxes of each class, or of pixels in a sample of the masks."""
    if split.columns is None:
        return {}
    source = split.dataset if split.dataset is not None else split.columns
    if kind == "masks":
        return mask_balance(split, list(_sampled_counts(source, sample_of(split.columns, MASKS))))
    if split.dataset is not None:
        counts = np.asarray(split.dataset.label_counts().sum(0)).ravel()
    else:
        counts = np.bincount(source.label, minlength=len(source.classes))
    return dict(zip(source.classes, counts.tolist(), strict=True))


def class_counts(class_map: np.ndarray) -> np.ndarray:
    """(257,) pixels of each class; the last one counts those without a class."""
    counts = np.bincount(class_map.ravel(), minlength=257)
    counts[256], counts[IGNORE] = counts[IGNORE], 0
    return counts


def _sampled_counts(source: Any, indices: np.ndarray) -> Iterator[np.ndarray]:
    columns = getattr(source, "columns", source)
    for index in indices.tolist():
        try:
            yield class_counts(columns.class_map(index))
        except BadInput:  # reported by training's checks, or where all images are checked
            continue


def mask_balance(split: AuditedSplit, counts: Sequence[np.ndarray]) -> dict[str, int]:
    """Pixels of each class in some masks, from their `class_counts`; nothing if none of them can be read."""
    classes = (split.dataset if split.dataset is not None else split.columns).classes
    total = np.sum(counts, axis=0) if len(counts) else np.zeros(257, np.int64)
    if not total.any():
        return {}
    return {**dict(zip(classes, total.tolist(), strict=False)), NO_CLASS: int(total[256])}


def _boxes(split: AuditedSplit) -> Iterator[Finding]:
    columns, name = split.dataset.columns, split.name
    limits = split.dataset.sizes[columns.image][:, [1, 0, 1, 0]]
    beyond = ((columns.boxes < -BEYOND) | (columns.boxes > limits + BEYOND)).any(1)
    if beyond.any():
        yield _of_images("note", columns, beyond, f"{name}: {{}} boxes extend more than a pixel beyond their image",
                         "Training clips them")  # fmt: skip
    same = _duplicates(columns)
    if same.any():
        yield _of_images("warning", columns, same, f"{name}: {{}} boxes are duplicates of another of the same class",
                         "Remove one of each pair")  # fmt: skip
    counts = np.bincount(columns.image[~columns.crowd], minlength=len(columns))
    many = np.flatnonzero(counts > MAX_DETECTIONS)
    if len(many):
        yield Finding.of_files(
            "warning",
            f"{name}: {len(many)} images have more than {MAX_DETECTIONS} objects, the most {counts.max()}. By default "
            f"{MAX_DETECTIONS} detections of an image count, so that the others are missed",
            f"Pass --max_detections {counts.max()} to training and evaluation",
            [columns.folder / columns.names[i] for i in many],
        )
    empty = np.flatnonzero(np.bincount(columns.image, minlength=len(columns)) == 0)
    if len(empty):
        yield Finding.of_files(
            "note",
            f"{name}: {len(empty)} images have no boxes",
            "Nothing, if they contain no object",
            [columns.folder / columns.names[i] for i in empty[:EXAMPLES]],
        )
    if columns.complete is not None:
        partly = np.flatnonzero(~columns.complete.all(1))
        yield Finding.of_files(
            "note",
            f"{name}: in {len(partly)} of {len(columns)} images, objects of some classes may have no box: "
            f"{(~columns.complete).sum()} of {columns.complete.size} pairs of image and class",
            "Nothing, if `neg_category_ids` and `not_exhaustive_category_ids` are right",
            [columns.folder / columns.names[i] for i in partly[:EXAMPLES]],
        )


def _duplicates(columns: Any) -> np.ndarray:
    """(N,) bool, whether another box before it has the same image, class and corners."""
    keys = [columns.image, columns.label, columns.crowd, *columns.boxes.T]
    order = np.lexsort(keys)
    same = np.zeros(len(order), bool)
    same[order[1:]] = np.all([key[order[1:]] == key[order[:-1]] for key in keys], axis=0)
    return same


def _of_images(severity: str, columns: Any, selected: np.ndarray, what: str, fix: str) -> Finding:
    """A finding with the images of some boxes as examples."""
    images = np.unique(columns.image[selected])[:EXAMPLES]
    files = [columns.folder / columns.names[i] for i in images]
    return Finding.of_files(severity, what.format(int(selected.sum())), fix, files)  # type: ignore[arg-type]


def _repeated_images(split: AuditedSplit, files: Sequence[str]) -> Iterator[Finding]:
    repeated = [file for file, count in Counter(files).items() if count > 1]
    if repeated:
        yield Finding.of_files(
            "error",
            f"{split.name}: {len(repeated)} images are listed more than once, so each entry lacks the labels of the "
            "others",
            "Give each image one entry with all of its labels",
            [Path(file) for file in repeated[:EXAMPLES]],
        )


def _shared_images(files: dict[str, list[str]]) -> Iterator[Finding]:
    """The same file in two splits. Copies of a file are found by their content. `files`: of each split."""
    seen: dict[str, str] = {}
    found: list[tuple[str, str, str]] = []
    for split, own in files.items():
        for file in set(own):
            other = seen.setdefault(file, split)
            if other != split:
                found.append((file, other, split))
    if found:
        pairs = ", ".join(f"{first} and {second}" for first, second in dict.fromkeys(entry[1:] for entry in found))
        yield Finding.of_files(
            "error",
            f"{len(found)} images belong to two splits ({pairs})",
            "Remove them from one: scores on images that were trained on are too high",
            [Path(entry[0]) for entry in sorted(found)[:EXAMPLES]],
        )


def _unlisted_images(files: dict[str, list[str]]) -> Iterator[Finding]:
    """Images in the folders of listed images that no split lists. `files`: of each split."""
    known = {file for own in files.values() for file in own}
    for folder in sorted({dirname(file) for file in known}):
        try:
            with os.scandir(folder) as entries:
                present = [entry.path for entry in entries if entry.name.lower().endswith(IMAGE_SUFFIXES)]
        except OSError:  # missing images are reported
            continue
        unlisted = sorted(file for file in set(present) - known if not basename(file).startswith("."))
        if unlisted:
            yield Finding.of_files(
                "note",
                f"{folder}: {len(unlisted)} of {len(present)} images are in no split",
                "Nothing, if they should not be used",
                [Path(file) for file in unlisted[:EXAMPLES]],
            )


def _balance(opened: Opened, balance: dict[str, dict[str, int]]) -> Iterator[Finding]:
    """Classes that a split lacks, beyond what training reports, and rare classes."""
    unit = UNITS[opened.kind]
    known = list(dict.fromkeys(name for counts in balance.values() for name in counts if name != NO_CLASS))
    for split in opened.splits:
        counts = balance.get(split.name, {})
        if not counts:
            continue
        absent = [name for name in known if not counts.get(name)]
        reported = split.role == "train" or opened.kind == "classes"
        if absent and not reported:
            yield Finding(
                "warning",
                f"{split.name}: {len(absent)} of {len(known)} classes have no {unit}, so they have no score there",
                examples=tuple(absent[:EXAMPLES]),
            )
        rare = [name for name in known if 0 < counts.get(name, 0) < FEW]
        if rare and unit != "pixels":
            yield Finding(
                "warning",
                f"{split.name}: {len(rare)} classes have fewer than {FEW} {unit}",
                "Expect wide intervals for their scores",
                tuple(rare[:EXAMPLES]),
            )
