"""Reads and scores tables of classified images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from backbones.errors import BadInput
from classification.results import results_of_labels
from data.columns import ClassColumns
from data.open import read_place
from engine.class_scores import class_scores
from experiments.compare_results.class_predictions import read_predictions, true_labels
from experiments.compare_results.compared import Compared, ScoredFile, Side
from experiments.compare_results.config import CompareResultsConfig
from experiments.compare_results.image_names import SEVERAL, ImageNames, examples
from experiments.compare_results.truth import locate_truth


def compare_classifications(config: CompareResultsConfig, files: Mapping[str, Sequence[Path]], metric: str) -> Compared:
    """Read and score the tables of each name. Raises BadInput for tables that cannot be read or do not fit."""
    root = Path(str(config.truth))
    if not root.exists():
        raise BadInput(f"there is no truth at {root}: pass an existing file or folder as `truth`", settings=("truth",))
    form, split = locate_truth("classes", root, config.data)
    truth = read_place(form, split, config.data)
    assert isinstance(truth, ClassColumns)
    class_metric = metric if metric in ("precision", "recall", "F1") else "recall"
    names = ImageNames(truth.names)
    sides, notes, warnings = [], [], []
    for name, paths in files.items():
        scored = []
        for path in paths:
            found = read_predictions(path, truth, config.labels_of(name))
            label = np.empty(len(truth), np.int64)
            label[images_of(found.files, names, path, truth.source)] = found.label
            _check_labels(path, truth, names)
            if found.ties:
                notes.append(
                    f"{name}: {found.ties} of {len(label)} images in {path.name} have several classes with the highest "
                    "score. The first class counts."
                )
            if found.unknown:
                count = int((found.label < 0).sum())
                warnings.append(
                    f"{name}: {count} predictions in {path.name} are classes that the truth does not have, such as "
                    f"{examples(found.unknown)}. They count as wrong"
                )
            scored.append(_scored(path, truth, label, metric, class_metric, found.ties))
        sides.append(Side(name, tuple(scored)))
    return Compared(
        task="classification",
        metric=metric,
        class_metric=class_metric,
        truth=f"{len(truth)} images of {len(truth.classes)} classes in {truth.source}.",
        sides=sides,
        notes=notes,
        warnings=warnings,
    )


def images_of(files: Sequence[str], names: ImageNames, source: Path, truth: Path) -> np.ndarray:
    """(n,) int64 index in the truth of the image of each file, all of them once.

    Args:
        files: n paths or names of files.
        names: the images of the truth.
        source: what has the files, for messages.
        truth: the same for the truth.

    Raises BadInput for files that are not in the truth or fit several of its images, and for images without a file or
    with several.
    """
    found = {text: names.find(text) for text in dict.fromkeys(files)}
    several = [text for text, index in found.items() if index == SEVERAL]
    if several:
        raise BadInput(
            f"{source}: {len(several)} names fit several images of the truth {truth}, such as {examples(several)}: "
            "write their folders, too"
        )
    unknown = [text for text, index in found.items() if index is None]
    if unknown:
        raise BadInput(
            f"{source}: {len(unknown)} of {len(found)} images are not in the truth {truth}: {examples(unknown)}. The "
            f"truth has {examples(names.names)}"
        )
    index = np.array([found[text] for text in files], np.int64)
    counts = Counter(index.tolist())
    missing = [name for i, name in enumerate(names.names) if i not in counts]
    if missing:
        raise BadInput(
            f"{source}: {len(missing)} of the {len(names.names)} images of the truth {truth} are missing: "
            f"{examples(missing)}. Only results of the same images can be compared"
        )
    repeated = [names.names[i] for i, count in counts.items() if count > 1]
    if repeated:
        raise BadInput(f"{source}: {len(repeated)} images occur more than once: {examples(repeated)}")
    return index


def _check_labels(path: Path, truth: ClassColumns, names: ImageNames) -> None:
    """Raise BadInput if a table has true labels by name that contradict the truth."""
    labels = true_labels(path)
    if labels is None or not set(labels[1]) <= set(truth.classes):
        return  # numbers of classes, whose order another tool decides
    wrong = [
        (text, label) for text, label in zip(*labels, strict=True)
        if label != truth.classes[truth.label[names.find(text) or 0]]
    ]  # fmt: skip
    if wrong:
        text, label = wrong[0]
        raise BadInput(
            f"{path}: {len(wrong)} of {len(labels[0])} labels differ from the truth {truth.source}: {text} is "
            f"{label!r}, in the truth {truth.classes[truth.label[names.find(text) or 0]]!r}"
        )


def _scored(
    path: Path, truth: ClassColumns, label: np.ndarray, metric: str, class_metric: str, ties: int
) -> ScoredFile:
    correct, count = label == truth.label, len(truth.classes)
    images = results_of_labels(list(truth.names), truth.label, label, correct, metric)
    right = np.bincount(truth.label[correct], minlength=count)
    predicted = np.bincount(label[label >= 0], minlength=count)
    by_truth = np.bincount(truth.label, minlength=count)
    scores = np.where(by_truth > 0, class_scores(right, by_truth, predicted)[class_metric], np.nan)
    return ScoredFile(
        file=path,
        images=replace(images, digest=hashlib.sha256(label.tobytes()).hexdigest()),
        by_class=dict(zip(truth.classes, scores.tolist(), strict=True)),
        facts={"images": len(label), "correct": int(correct.sum()), "tied_scores": ties},
    )
