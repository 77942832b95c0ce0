"""Reads and scores detections in COCO's results format."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import BadInput
from data.box_dataset import BoxDataset, clipped_boxes
from data.checks import MOST, TINY, left_out_boxes, scored_boxes
from data.class_names import merge_same_names
from data.columns import BoxColumns
from data.findings import warn_or_raise
from data.formats import coco, recognise
from data.formats.coco_json import columns_of, read
from data.formats.coco_records import Records
from data.open import read_place
from detection.config import METRIC
from detection.evaluator import CocoEvaluator
from detection.results import match_detections
from detection.truth import LARGEST_AREA, coco_document, coco_results, with_unlabelled_regions
from experiments.compare_results.coco_results import Detections, read_detections
from experiments.compare_results.compared import Compared, ScoredFile, Side
from experiments.compare_results.config import CompareResultsConfig, TruthData
from experiments.compare_results.cuts import Cut, cut_warnings
from experiments.compare_results.detection_ids import READINGS, ImageIds, classes_of
from experiments.compare_results.truth import locate_truth

UNCOVERED = 0.2  # share of images that may have no detections in the results of one name only
COLUMNS = ("detections", "images_without_detections", "lowest_score", "detections_per_image_limit", "tied_scores")


@dataclass(frozen=True)
class _Rows:
    """The detections of a file, in an order that depends on their content only.

    Attributes:
        file: for messages.
        image, label: (N,) int64 indices of images and classes of the truth.
        boxes: (N, 4) x, y, width, height in original px.
        scores: (N,).
    """

    file: Path
    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, found: Detections, image: np.ndarray, label: np.ndarray) -> _Rows:
        order = np.lexsort((*found.boxes.T[::-1], label, -found.scores, image))
        return cls(found.file, image[order], label[order], found.boxes[order], found.scores[order])

    @property
    def digest(self) -> str:
        """Of the content."""
        columns = np.column_stack([self.image, self.label, self.boxes, self.scores]) + 0.0  # + 0.0: of two zeros, one
        return hashlib.sha256(columns.tobytes()).hexdigest()

    @property
    def ties(self) -> int:
        """Number of detections whose score another detection of the same class has, too."""
        _, counts = np.unique(np.stack([self.label, self.scores], axis=1), axis=0, return_counts=True)
        return int(counts[counts > 1].sum())


def compare_detections(config: CompareResultsConfig, files: Mapping[str, Sequence[Path]], metric: str) -> Compared:
    """Read and score the files of each name. Raises BadInput for files that cannot be read or do not fit the truth."""
    truth = read_truth(Path(str(config.truth)), config.data)
    document = coco_document(with_unlabelled_regions(truth), truth.image_ids, list(truth.category_ids))
    class_metric = metric if metric in ("AP", "AP50", "precision", "recall", "F1") else METRIC
    ids = ImageIds(truth)
    sides, cuts, notes, warnings = [], {}, [], []
    for name, paths in files.items():
        results = [read_detections(path) for path in paths]
        images = [ids.images_of(found, config.image_ids_of(name)) for found in results]
        labels, reading = classes_of(results, [image for image, _ in images], truth, config.category_ids_of(name))
        rows = [_Rows.of(found, image, label) for found, (image, _), label in zip(results, images, labels, strict=True)]
        if any(how == "names" for _, how in images):
            notes.append(f"The images of {name} were found by their file names.")
        if reading != "ids":
            first = min(1, len(truth.classes) - 1)
            number = int(reading.removeprefix("from")) + first
            notes.append(
                f"The category ids of {name} were read as {READINGS[reading]}: {number} is {truth.classes[first]}."
            )
        cuts[name] = [Cut.of(own.scores, own.image, len(truth)) for own in rows]
        warnings += [text for own in rows if (text := _unlikely_boxes(own, truth))]
        scored = [
            _scored(own, cut, truth, document, metric, class_metric, config.max_detections)
            for own, cut in zip(rows, cuts[name], strict=True)
        ]
        sides.append(Side(name, tuple(scored)))
    objects = int((~truth.crowd & ~truth.difficult).sum())
    return Compared(
        task="detection",
        metric=metric,
        class_metric=class_metric,
        truth=f"{len(truth)} images with {objects} objects of {len(truth.classes)} classes in {truth.source}.",
        sides=sides,
        notes=[*notes, *_ties(sides), *_partly_labelled(truth)],
        warnings=[*warnings, *_covered(sides, len(truth)), *cut_warnings(cuts)],
    )


def read_truth(root: Path, data: TruthData) -> BoxColumns:
    """The images and boxes to score against. COCO files are read without their images.

    Raises BadInput if they cannot be read, or if there is nothing to score.
    """
    file = _coco_file(root, data)
    if file is None:
        form, split = locate_truth("boxes", root, data)
        columns = read_place(form, split, data)
        assert isinstance(columns, BoxColumns)
        dataset = BoxDataset(columns, None, 0, data)
        raw, truth = dataset.annotated, dataset.columns
    else:
        records = Records(read(file), file)
        raw = replace(columns_of(records, data.boxes or "xywh"), difficult=_not_counted(records))
        raw = merge_same_names(raw, bool(data.merge_classes))
        sizes = raw.sizes[raw.image]
        truth = raw.of_boxes(clipped_boxes(raw.boxes, np.where(sizes > 0, sizes, np.inf))[1])
        warn_or_raise(left_out_boxes(raw, truth))
    warn_or_raise(scored_boxes(raw, truth))
    if len(set(truth.category_ids)) < len(truth.category_ids):
        raise BadInput(f"{truth.source} has several classes with one id")
    order = np.argsort(truth.category_ids)  # positions in results refer to this order
    position = np.empty(len(order), np.int64)
    position[order] = np.arange(len(order))
    return truth.renamed(
        [truth.classes[i] for i in order],
        [truth.category_ids[i] for i in order],
        position,
    )


def _not_counted(records: Records) -> np.ndarray:
    """(N,) bool, whether an object's area is beyond COCO's size ranges, as in a run's `truth.json`."""
    areas = records.values("annotations", "area", default=None)
    return np.array([isinstance(area, int | float) and area > LARGEST_AREA for area in areas], bool)


def _coco_file(root: Path, data: TruthData) -> Path | None:
    """The COCO file of the truth; None for other layouts."""
    if not root.exists():
        raise BadInput(f"there is no truth at {root}: pass an existing file or folder as `truth`", settings=("truth",))
    if root.is_file() and root.suffix.lower() == ".json" and data.format in (None, "auto", "coco"):
        try:
            return root if recognise(root, "boxes", data.format)[0].name == "coco" else None
        except BadInput:
            return root  # the parser says what is wrong with it
    if root.is_dir():
        form, split = locate_truth("boxes", root, data)
        if form.name == "coco":
            return split.root if split.root.is_file() else coco.annotation_files(split.root)[split.name]
    return None


def _scored(
    rows: _Rows, cut: Cut, truth: BoxColumns, document: dict[str, Any], metric: str, class_metric: str, limit: int
) -> ScoredFile:
    evaluator = CocoEvaluator(truth, max_detections=limit)
    evaluator.add(np.column_stack([truth.image_ids[rows.image], rows.boxes, rows.scores, rows.label]))
    evaluator.compute()
    image_ids, boxes, scores, labels = np.split(evaluator.detections, [1, 5, 6], axis=1)
    detections = coco_results(image_ids, boxes, scores, np.array(truth.category_ids)[labels.astype(int)])
    facts = (len(rows.scores), len(truth) - len(np.unique(rows.image)), cut.lowest, cut.limit, rows.ties)
    return ScoredFile(
        file=rows.file,
        images=replace(match_detections(document, detections, metric, limit), digest=rows.digest),
        by_class={name: row[class_metric] for name, row in evaluator.class_table().items()},
        facts=dict(zip(COLUMNS, facts, strict=True)),
    )


def _covered(sides: Sequence[Side], images: int) -> list[str]:
    """A sentence if results seem to be of fewer images than the others."""
    empty = {side.name: max(int(file.facts["images_without_detections"] or 0) for file in side.files) for side in sides}
    most = max(empty, key=lambda name: empty[name])
    if empty[most] - min(empty.values()) <= UNCOVERED * images:
        return []
    others = ", ".join(f"{name} in {count}" for name, count in empty.items() if name != most)
    return [
        f"{most} has no detections in {empty[most]} of {images} images, but {others}. They count as images without "
        "detections. If the detector was not run on them, run it on all images"
    ]


def _ties(sides: Sequence[Side]) -> list[str]:
    """A sentence about equal scores, if there are any."""
    if not any(file.facts["tied_scores"] for side in sides for file in side.files):
        return []
    counts = "; ".join(f"{side.name} {', '.join(map(_tied, side.files))}" for side in sides)
    return [
        f"Detections that share their score with another of their class: {counts}. Their images and boxes decide their "
        "order, not the order in the file."
    ]


def _partly_labelled(truth: BoxColumns) -> list[str]:
    """A sentence about images in which objects may have no box, if there are any."""
    if truth.complete is None:
        return []
    partly = int((~truth.complete.all(1)).sum())
    return [
        f"In {partly} of {len(truth)} images, objects of some classes may have no box. There, detections of these "
        "classes that match no object are not counted."
    ]


def _tied(file: ScoredFile) -> str:
    return f"{file.facts['tied_scores']} of {file.facts['detections']}"


def _unlikely_boxes(rows: _Rows, truth: BoxColumns) -> str | None:
    """A sentence about boxes that are probably in other units or another order."""
    if not len(rows.boxes):
        return None
    corner = rows.boxes[:, :2] + rows.boxes[:, 2:]
    if np.abs(corner).max() <= TINY:
        return f"{rows.file}: no box extends beyond {TINY:g} px. The numbers are probably fractions of the image size"
    sizes = truth.sizes[rows.image][:, ::-1]
    leave = ((corner > sizes + 1) & (sizes > 0)).any(1)
    if leave.mean() > MOST:
        return (
            f"{rows.file}: {leave.sum()} of {len(leave)} boxes leave their image. Probably they are two corners, or of "
            "resized images. Results have x, y, width and height in pixels of the original image"
        )
    return None
