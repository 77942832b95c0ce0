"""What the ids in COCO results mean: images by id or by file name, categories by id or by position.

COCO's format has the ids of the truth. Ultralytics writes the stem of the image's file as image_id, as a number if it
consists of digits, and the position of the class, counted from 0 in earlier versions and from 1 in later ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pycocotools import mask

from backbones.errors import BadInput
from data.columns import BoxColumns
from data.formats.records import shown
from detection.matching import MATCH_IOU
from experiments.compare_results.coco_results import Detections, fail
from experiments.compare_results.image_names import SEVERAL, ImageNames, examples, stem_of

SAMPLE = 2000  # detections that show which reading of the categories is probable
READINGS = {"ids": "ids of the truth", "from0": "positions counted from 0", "from1": "positions counted from 1"}


class ImageIds:
    """Finds the image of each detection in the truth."""

    def __init__(self, truth: BoxColumns) -> None:
        self.truth = truth
        self._by_id = {int(image_id): index for index, image_id in enumerate(truth.image_ids)}
        self._names, self._stems = ImageNames(truth.names), ImageNames(truth.names, stems=True)
        self._numbers: dict[int, int] = {}  # stems of digits as numbers
        for index, name in enumerate(truth.names):
            stem = stem_of(name).rpartition("/")[2]
            if stem.isdecimal():
                number = int(stem)
                self._numbers[number] = SEVERAL if number in self._numbers else index

    def images_of(self, found: Detections, reading: str | None) -> tuple[np.ndarray, str]:
        """(N,) int64 index of the image of each detection; and whether it was found by "ids" or "names".

        Args:
            found: the detections.
            reading: "ids" or "names" if it is known.

        Raises BadInput for images that the truth does not have, and if ids and names are different images.
        """
        if found.file_names is not None and reading is None:
            by_file = {name: self._by_name(name) for name in set(found.file_names)}
            if all(index is not None and index != SEVERAL for index in by_file.values()):
                return np.array([by_file[name] for name in found.file_names], np.int64), "names"
        values = set(found.image_ids)
        by_id = {value: self._by_id.get(_number(value)) for value in values}  # type: ignore[arg-type]
        by_name = {value: self._by_name(value) for value in values}
        fits = {
            "ids": all(index is not None for index in by_id.values()),
            "names": all(index is not None and index != SEVERAL for index in by_name.values()),
        }
        if reading is None and fits["ids"] and fits["names"] and by_id != by_name:
            value = next(value for value in found.image_ids if by_id[value] != by_name[value])
            raise BadInput(
                f"{found.file}: image_id {shown(value)} is the id of {self._name(by_id[value])} and the name of "
                f"{self._name(by_name[value])} in {self.truth.source}, and so are others. Choose with "
                "`image_ids=ids` or `image_ids=names`",
                settings=("image_ids",),
            )
        counts = [sum(index is not None for index in readings.values()) for readings in (by_id, by_name)]
        chosen = reading or ("names" if counts[1] > counts[0] or (fits["names"] and not fits["ids"]) else "ids")
        index_of = by_id if chosen == "ids" else by_name
        if not fits[chosen]:
            self._refuse(found, index_of)
        return np.array([index_of[value] for value in found.image_ids], np.int64), chosen

    def _by_name(self, value: int | str) -> int | None:
        if isinstance(value, str):
            for names in (self._names, self._stems):
                if (index := names.find(value)) is not None:
                    return index
        number = _number(value)
        return None if number is None else self._numbers.get(number)

    def _name(self, index: int | None) -> str:
        return str(self.truth.names[index]) if index is not None else "no image"

    def _refuse(self, found: Detections, index_of: Mapping[int | str, int | None]) -> None:
        """Raise BadInput for the images that are not in the truth."""
        truth = self.truth
        known = f"{truth.source} has ids such as {examples(truth.image_ids)} and files such as {examples(truth.names)}"
        several = next((i for i, value in enumerate(found.image_ids) if index_of[value] == SEVERAL), None)
        if several is not None:
            value = found.image_ids[several]
            fail(found.file, several, f"has image_id {shown(value)}, the name of several images: {known}")
        unknown = [value for value, index in index_of.items() if index is None]
        first = next(i for i, value in enumerate(found.image_ids) if index_of[value] is None)
        fail(
            found.file,
            first,
            f"has image_id {shown(found.image_ids[first])}, which is not in the truth: {len(unknown)} of "
            f"{len(index_of)} images are not. {known}. Pass the truth of the same images",
        )


def _number(value: int | str) -> int | None:
    if isinstance(value, int):
        return value
    return int(value) if value.isdecimal() and len(value) < 19 else None


def classes_of(
    results: Sequence[Detections], images: Sequence[np.ndarray], truth: BoxColumns, reading: str | None
) -> tuple[list[np.ndarray], str]:
    """Per file, the (N,) int64 class index of each detection; and the reading, one of `READINGS`.

    Args:
        results: the files of one name, which one tool wrote.
        images: (N,) index of the image of each detection, of each file.
        truth: with classes in the order of their ids.
        reading: one of `READINGS` if it is known.

    Raises BadInput if no reading fits all ids, or if several readings fit and differ.
    """
    used = np.unique(np.concatenate([found.category_ids for found in results]))
    count = len(truth.classes)
    positions = {
        "ids": {int(category): index for index, category in enumerate(truth.category_ids)},
        "from0": {index: index for index in range(count)},
        "from1": {index + 1: index for index in range(count)},
    }
    fitting = [name for name, index_of in positions.items() if all(int(value) in index_of for value in used)]
    if reading is not None or not fitting:
        chosen = reading or "ids"
        _refuse_unknown(results, positions[chosen], chosen, truth.category_ids)
    else:
        chosen = fitting[0]
        maps = {name: [positions[name][int(value)] for value in used] for name in fitting}
        other = next((name for name in fitting if maps[name] != maps[chosen]), None)
        if other is not None:
            shares = [
                f"{agreement(results[0], images[0], positions[name], truth):.0%} of the boxes on objects have their "
                f"class if these are {READINGS[name]}"
                for name in (chosen, other)
            ]
            raise BadInput(
                f"{results[0].file}: the category_id of its detections, {examples(used)}, can be {READINGS[chosen]} "
                f"or {READINGS[other]}, which are other classes. The truth has the ids {examples(truth.category_ids)}. "
                f"Choose with `category_ids={chosen}` or `category_ids={other}`: {'; '.join(shares)}",
                settings=("category_ids",),
            )
    index_of = positions[chosen]
    return [np.array([index_of[int(value)] for value in found.category_ids], np.int64) for found in results], chosen


def agreement(found: Detections, image: np.ndarray, index_of: Mapping[int, int], truth: BoxColumns) -> float:
    """The share of the detections on an object that have its class, in 0..1; 0 if none is on an object.

    Only the `SAMPLE` detections with the highest scores are checked. One is on the object with the highest IoU, if that
    is at least `MATCH_IOU`.
    """
    rows = np.argsort(-found.scores, kind="stable")[:SAMPLE]
    right = total = 0
    for index in np.unique(image[rows]).tolist():
        own, objects = rows[image[rows] == index], np.flatnonzero(truth.image == index)
        if not len(objects):
            continue
        corners = truth.boxes[objects]
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        ious = np.asarray(mask.iou(found.boxes[own], boxes, [0] * len(objects)))
        is_on = ious.max(axis=1) >= MATCH_IOU
        labels = np.array([index_of[int(value)] for value in found.category_ids[own]])
        right += int((labels == truth.label[objects][ious.argmax(axis=1)])[is_on].sum())
        total += int(is_on.sum())
    return right / total if total else 0.0


def _refuse_unknown(
    results: Sequence[Detections], index_of: Mapping[int, int], reading: str, category_ids: Sequence[int]
) -> None:
    """Raise BadInput for the first detection of an unknown category."""
    for found in results:
        unknown = ~np.isin(found.category_ids, list(index_of))
        if unknown.any():
            first = int(unknown.argmax())
            fail(
                found.file,
                first,
                f"has category_id {found.category_ids[first]}, as have {int(unknown.sum())} of {len(unknown)} "
                f"detections. Read as {READINGS[reading]}, it is no class: the truth has {len(category_ids)} classes "
                f"with the ids {examples(category_ids)}. Pass the truth with the classes of the training",
            )
