"""Reads and scores folders of predicted masks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from backbones.errors import BadInput
from data.batch import IGNORE
from data.mask_files import read_mask
from data.mask_reader import MaskFiles
from engine.class_scores import class_scores
from experiments.compare_results.classification import images_of
from experiments.compare_results.compared import Compared, ScoredFile, Side
from experiments.compare_results.config import CompareResultsConfig
from experiments.compare_results.image_names import ImageNames, stem_of
from experiments.compare_results.mask_truth import THREADS, MaskTruth, mask_files, read_mask_truth
from segmentation.results import results_of_counts

CLASS_METRICS = {"Dice": "F1", "precision": "precision", "recall": "recall"}  # others: IoU


@dataclass(frozen=True)
class _Masks:
    """A folder of predicted masks, in the order of the truth.

    Attributes:
        folder: for messages.
        files: n masks.
        class_map: index -> (H, W) uint8 class indices, `IGNORE` for no class of the truth.
    """

    folder: Path
    files: Sequence[Path]
    class_map: Callable[[int], np.ndarray]


def compare_masks(config: CompareResultsConfig, files: Mapping[str, Sequence[Path]], metric: str) -> Compared:
    """Read and score the folders of each name. Raises BadInput for masks that cannot be read or do not fit."""
    truth = read_mask_truth(Path(str(config.truth)), config.data)
    found = {name: [_masks(path, truth, config.pixels_of(name)) for path in paths] for name, paths in files.items()}
    counts = _count(truth, [masks for own in found.values() for masks in own])
    if not counts[:, :, 1].any():
        raise BadInput(f"no pixel of the truth {truth.source} has a class, so there is nothing to score")
    class_metric = metric if metric in CLASS_METRICS else "IoU"
    sides, warnings = [], []
    position = 0
    for name, own in found.items():
        scored = []
        for masks in own:
            scored.append(_scored(masks.folder, truth, counts[position], metric, class_metric))
            without = scored[-1].facts["pixels_without_class"]
            if without:
                warnings.append(
                    f"{name}: {without} predicted pixels in {masks.folder} have values that are no class of the truth, "
                    "and count as wrong. If the values are positions in its classes, pass --pixels indices"
                )
            position += 1
        sides.append(Side(name, tuple(scored)))
    present = counts[0, 1].sum(0) > 0
    missing = [name for i, name in enumerate(truth.classes) if not present[i] and i not in truth.ignored]
    notes = [note if note.endswith(".") else f"{note}." for note in truth.notes]
    if missing:
        notes.append(f"The truth has no pixel of {', '.join(missing[:5])}: means are over the other classes.")
    return Compared(
        task="segmentation",
        metric=metric,
        class_metric=class_metric,
        truth=f"{len(truth.names)} masks with {int(present.sum())} classes in {truth.source}.",
        sides=sides,
        notes=notes,
        warnings=warnings,
    )


def _masks(folder: Path, truth: MaskTruth, pixels: str) -> _Masks:
    """The predicted masks in a folder, in the order of the truth."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder: pass a folder with a predicted mask for each image")
    files = mask_files(folder)
    if not files:
        raise BadInput(f"{folder} has no masks: expected PNG files, or other images without loss")
    texts = [stem_of(file.relative_to(folder).as_posix()) for file in files]
    names = ImageNames(truth.names, stems=True)
    if truth.mask_names and any(names.find(text) is None for text in texts):
        names = ImageNames(truth.mask_names, stems=True)
        if all(names.find(text) is None for text in texts):
            names = ImageNames(truth.names, stems=True)
    order = np.argsort(images_of(texts, names, folder, truth.source))
    ordered = [files[i] for i in order]
    if pixels == "indices" or truth.legend is None:
        return _Masks(folder, ordered, _Indices(ordered, len(truth.classes)))
    legend = truth.legend
    if not legend.colors:  # values that the truth does not have are classes of their own, and wrong
        legend = replace(legend, values={**dict.fromkeys(range(IGNORE + 1), IGNORE), **legend.values})
    return _Masks(folder, ordered, MaskFiles(ordered, legend))


@dataclass(frozen=True)
class _Indices:
    """Masks whose values are positions in K classes: index -> class map."""

    files: Sequence[Path]
    classes: int

    def __call__(self, index: int) -> np.ndarray:
        values = read_mask(self.files[index]).values
        if values is None:
            raise BadInput(
                f"{self.files[index]} has colours, not positions of classes: write masks with one value per pixel"
            )
        return np.where(values < self.classes, values, IGNORE).astype(np.uint8)


def _count(truth: MaskTruth, folders: Sequence[_Masks]) -> np.ndarray:
    """(folders, 3, n, K) int64 pixels of each class: predicted correctly, in the truth, predicted among those with one.

    Raises BadInput for masks that cannot be read, and for those of another size than the truth.
    """
    classes = len(truth.classes)

    def count(index: int) -> np.ndarray:
        true = truth.class_map(index)
        counted = true != IGNORE
        rows = []
        for masks in folders:
            predicted = masks.class_map(index)
            if predicted.shape != true.shape:
                raise BadInput(
                    f"{masks.files[index]} is {predicted.shape[1]} x {predicted.shape[0]} pixels, but the truth of "
                    f"{truth.names[index]} is {true.shape[1]} x {true.shape[0]}: write masks in the size of the truth"
                )
            own = np.minimum(predicted[counted], classes).astype(np.int64)  # the last column: no class
            index_of_pair = true[counted].astype(np.int64) * (classes + 1) + own
            matrix = np.bincount(index_of_pair, minlength=classes * (classes + 1))
            matrix = matrix.reshape(classes, classes + 1)
            rows.append(np.stack([matrix[:, :-1].diagonal(), matrix.sum(1), matrix[:, :-1].sum(0)]))
        return np.stack(rows)

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        return np.stack(list(pool.map(count, range(len(truth.names)))), axis=2)


def _scored(folder: Path, truth: MaskTruth, counts: np.ndarray, metric: str, class_metric: str) -> ScoredFile:
    right, of_class, predicted = counts
    sparse = csr_array(right), csr_array(of_class), csr_array(predicted)
    images = results_of_counts(list(truth.names), *sparse, metric)
    total = class_scores(right.sum(0), of_class.sum(0), predicted.sum(0))[CLASS_METRICS.get(class_metric, "IoU")]
    scores = np.where(of_class.sum(0) > 0, total, np.nan)
    return ScoredFile(
        file=folder,
        images=replace(images, digest=hashlib.sha256(np.ascontiguousarray(counts).tobytes()).hexdigest()),
        by_class={name: float(scores[i]) for i, name in enumerate(truth.classes) if i not in truth.ignored},
        facts={"images": len(of_class), "pixels_without_class": int(of_class.sum() - predicted.sum())},
    )
