"""Random annotation files, with the oddities that files of users have, to compare implementations of COCO's scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Rows = list[dict[str, Any]]


@dataclass
class Case:
    """Truth and detections, and how they are scored.

    Attributes:
        truth, found: a COCO document, and rows of COCO's result format.
        limits: `maxDets`.
        segm: whether masks are scored instead of boxes.
        indexed: whether the detections are a second document with areas and ids, as this package passes them, instead
            of rows for `loadRes`.
        summarized: whether the twelve numbers are compared too, not only the arrays that they are means of.
        edit: change of the truth after it is loaded.
    """

    truth: dict[str, Any]
    found: Rows
    limits: list[int] = field(default_factory=lambda: [1, 10, 100])
    segm: bool = False
    indexed: bool = False
    summarized: bool = True
    edit: Callable[[dict[str, Any]], None] | None = None


def plain(random: np.random.Generator, ids: list | None = None, ties: bool = False) -> Case:
    """Up to 8 images with up to 6 objects each of 4 classes, one of them without objects; some images are empty.

    One in ten objects is a crowd. With `ties`, boxes lie on a grid and scores have few values.
    """
    ids = ids if ids is not None else list(range(1, int(random.integers(1, 9)) + 1))
    annotations: Rows = []
    found: Rows = []
    for image in ids:
        for _ in range(random.integers(0, 7) if random.random() < 0.8 else 0):
            box = [*random.uniform(0, 200, 2), *np.exp(random.uniform(2, 5.3, 2))]
            box = [float(8 * round(value / 8)) if ties else float(value) for value in box]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(random.choice([1, 2, 3])),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(random.random() < 0.1),
                }
            )
    for _ in range(random.integers(1, 60)):
        if annotations and random.random() < 0.8:
            near = annotations[random.integers(len(annotations))]
            noise = random.choice([0, 0, 8, 16], 4) if ties else random.normal(0, 5, 4)
            box = [max(1.0, float(value + shift)) for value, shift in zip(near["bbox"], noise, strict=True)]
            image, category = near["image_id"], near["category_id"]
        else:
            box = [float(value) for value in random.uniform(1, 200, 4)]
            image, category = ids[random.integers(len(ids))], int(random.integers(1, 5))
        score = float(random.integers(1, 6) / 5) if ties else float(random.random())
        found.append({"image_id": image, "category_id": category, "bbox": box, "score": score})
    truth = {
        "images": [{"id": i, "width": 256, "height": 256, "file_name": f"{i}.jpg"} for i in ids],
        "categories": [{"id": i, "name": str(i)} for i in (1, 2, 3, 4)],
        "annotations": annotations,
    }
    return Case(truth, found)


def as_passed(random: np.random.Generator) -> Case:
    """What this package's evaluator passes: whole numbers from 1 as ids, finite boxes of positive size, areas.

    Objects may have an area of their own, or one beyond COCO's largest (Pascal VOC's difficult objects). The limits
    follow `--max_detections`. The evaluator reads the arrays of precision and recall.
    """
    case = plain(random, ties=bool(random.random() < 0.5))
    for annotation in case.truth["annotations"]:
        annotation["area"] = [annotation["area"], 700.0, 2e10][random.choice(3, p=[0.7, 0.2, 0.1])]
    limits = [[1, 10, 100], [1, 3], [1], [1, 10, 100, 300], [1, 10, 50]][random.integers(5)]
    return Case(case.truth, case.found if random.random() < 0.9 else [], limits, indexed=True, summarized=False)


def annotation_ids(random: np.random.Generator, rule: Callable[[int], int]) -> Case:
    """Ids of annotations by a rule from their number, which starts at 0."""
    case = plain(random)
    for number, annotation in enumerate(case.truth["annotations"]):
        annotation["id"] = rule(number)
    return case


def category_ids(random: np.random.Generator) -> Case:
    """Categories whose ids are not consecutive, not sorted, and large."""
    case = plain(random)
    for row in [*case.truth["annotations"], *case.found]:
        row["category_id"] = {1: 7, 2: 90, 3: 10**9, 4: 4}[row["category_id"]]
    case.truth["categories"] = [{"id": i, "name": str(i)} for i in (90, 7, 4, 10**9)]
    return case


def image_ids(random: np.random.Generator) -> Case:
    """Image ids that are 0, not consecutive, not sorted, or beyond 32 and 53 bits."""
    ids = random.choice([0, 5, 3, 2**31, 2**40 + 1, 2**53 + 1, 12, 999_999_999_999], 5, replace=False)
    return plain(random, ids.tolist())


def float_ids(random: np.random.Generator) -> Case:
    """Ids that JSON has as 1.0."""
    case = plain(random)
    for row in [*case.truth["annotations"], *case.found] if random.random() < 0.5 else case.found:
        row["image_id"], row["category_id"] = float(row["image_id"]), float(row["category_id"])
    return case


def odd_areas(random: np.random.Generator) -> Case:
    """Boxes without width or height, and areas that are 0, negative or contradict the box."""
    case = plain(random)
    for row in case.truth["annotations"]:
        if random.random() < 0.4:
            row["area"] = [0.0, -5.0, 1e11, 1024.0, 9216.0, 1e10][random.integers(6)]
        if random.random() < 0.2:
            row["bbox"][2 + random.integers(2)] = 0.0
    for row in case.found:
        if random.random() < 0.2:
            row["bbox"][2 + random.integers(2)] = [0.0, -3.0, 32.0][random.integers(3)]
    return case


def odd_limits(random: np.random.Generator) -> Case:
    """`maxDets` without 100, not sorted, or of another length than three."""
    case = plain(random, ties=True)
    case.limits = [[1, 10, 300], [100, 1, 10], [3], [2, 5], [1, 2, 3, 4], [1, 10, 1000]][random.integers(6)]
    return case


def unknown(random: np.random.Generator) -> Case:
    """Detections and objects of images or categories that the truth does not list; passed as a document."""
    case = plain(random)
    for row in [*case.found, *case.truth["annotations"]]:
        if random.random() < 0.1:
            row[["image_id", "category_id"][random.integers(2)]] = 777
    case.indexed = True
    return case


def unknown_to_load(random: np.random.Generator) -> Case:
    """Rows for `loadRes` of images or categories that the truth does not list."""
    case = unknown(random)
    case.indexed = False
    return case


def without_crowds(random: np.random.Generator) -> Case:
    """Objects without `iscrowd`."""
    case = plain(random)
    for row in case.truth["annotations"]:
        if random.random() < 0.3:
            del row["iscrowd"]
    return case


def with_ignore(random: np.random.Generator) -> Case:
    """Objects with `ignore`, which pycocotools replaces by `iscrowd`."""
    case = plain(random)
    for row in case.truth["annotations"]:
        if random.random() < 0.3:
            row["ignore"] = 1
    return case


def not_finite(random: np.random.Generator) -> Case:
    """Some scores are NaN or infinite."""
    case = plain(random)
    for row in case.found:
        if random.random() < 0.1:
            row["score"] = [float("nan"), float("inf"), -float("inf")][random.integers(3)]
    return case


def nothing_found(random: np.random.Generator) -> Case:
    """No detections."""
    case = plain(random)
    case.found, case.indexed = [], True
    return case


def edited(random: np.random.Generator) -> Case:
    """Boxes and crowds that are changed in the document after it is loaded."""
    case = plain(random)
    seed = int(random.integers(1 << 30))

    def edit(document: dict[str, Any]) -> None:
        draw = np.random.default_rng(seed)
        for row in document["annotations"]:
            if draw.random() < 0.3:
                row["bbox"] = [value + 4.0 for value in row["bbox"]]
                row["iscrowd"] = 1 - row["iscrowd"]

    case.edit = edit
    return case


def masks(random: np.random.Generator, as_bytes: bool) -> Case:
    """Masks as compressed RLE, whose counts are bytes (as pycocotools encodes) or text (as JSON files have)."""
    from pycocotools import mask

    case = plain(random)
    for row in [*case.truth["annotations"], *case.found]:
        x, y, width, height = (int(value) for value in row["bbox"])
        image = np.zeros((256, 256), np.uint8, order="F")
        image[y : y + max(1, height), x : x + max(1, width)] = 1
        image[random.random(image.shape) < 0.1] = 0
        encoded = mask.encode(image)
        row["segmentation"] = {
            "size": [256, 256],
            "counts": encoded["counts"] if as_bytes else encoded["counts"].decode(),
        }
    for row in case.truth["annotations"]:
        row["area"] = float(mask.area(row["segmentation"]))
    for row in case.found:
        del row["bbox"]
    case.segm = True
    return case


KINDS: dict[str, Callable[[np.random.Generator], Case]] = {
    "what this package passes": as_passed,
    "plain": plain,
    "ties in score, equal boxes": lambda random: plain(random, ties=True),
    "annotation ids from 0": lambda random: annotation_ids(random, lambda number: number),
    "annotation ids that occur twice": lambda random: annotation_ids(random, lambda number: 1 + number // 2),
    "annotation ids beyond 53 bits": lambda random: annotation_ids(random, lambda number: 2**53 + number),
    "category ids with gaps": category_ids,
    "huge image ids": image_ids,
    "ids as 1.0": float_ids,
    "odd boxes and areas": odd_areas,
    "maxDets without 100": odd_limits,
    "unknown images, categories": unknown,
    "unknown to loadRes": unknown_to_load,
    "objects without iscrowd": without_crowds,
    "objects with ignore": with_ignore,
    "scores not finite": not_finite,
    "no detections": nothing_found,
    "no detections, to loadRes": lambda random: Case(plain(random).truth, []),
    "edited after loading": edited,
    "masks, RLE as bytes": lambda random: masks(random, as_bytes=True),
    "masks, RLE as text": lambda random: masks(random, as_bytes=False),
}
