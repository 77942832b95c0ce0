"""Detects results that were cut before they were written: at a lowest score, or at a number of detections per image.

AP counts all detections, down to the lowest scores, so cuts alone change it. Tools cut differently: Ultralytics writes
detections from a score of 0.001 and at most 300 per image, effdet from 0.001 and at most 100, Detectron2, MMDetection
and torchvision's Faster R-CNN from 0.05 and at most 100.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detection.config import MAX_DETECTIONS

USUAL_FLOOR = 0.05  # highest score threshold that tools use when they write results for AP
NEGLIGIBLE = 0.01  # share of detections below another name's lowest score that is not reported
# A limit shows as many images with exactly the same, largest number of detections: more than `PEAK` times as many as
# have nearly that number. Fewer images suffice if tools use this number as a limit.
PEAK, NEARLY = 2, 0.9
FEWEST_IMAGES, FEWEST_SHARE, FEWEST_DETECTIONS = 5, 0.1, 10
USUAL_LIMITS, FEWEST_AT_USUAL = (50, 100, 200, 300, 500, 900, 1000), 2


@dataclass(frozen=True)
class Cut:
    """What the detections of a file show about cuts.

    Attributes:
        scores: (N,) ascending.
        lowest: lowest score; None without detections.
        most: largest number of detections in an image.
        limit: the limit of detections per image that they show; None if they show none.
        at_limit: number of images with exactly that many.
    """

    scores: np.ndarray
    lowest: float | None
    most: int
    limit: int | None
    at_limit: int

    @classmethod
    def of(cls, scores: np.ndarray, image: np.ndarray, images: int) -> Cut:
        """The cuts of N detections.

        Args:
            scores: (N,) scores.
            image: (N,) index of the image of each detection.
            images: number of images.
        """
        if not len(scores):
            return cls(scores, None, 0, None, 0)
        counts = np.bincount(image, minlength=images)
        most = int(counts.max())
        frequency = np.bincount(counts)
        at_most = int(frequency[-1])
        with_detections = int((counts > 0).sum())
        nearly = int(frequency[int(np.ceil(NEARLY * most)) : -1].sum())
        enough = FEWEST_AT_USUAL if most in USUAL_LIMITS else max(FEWEST_IMAGES, FEWEST_SHARE * with_detections)
        is_limit = most >= FEWEST_DETECTIONS and at_most >= enough and at_most > PEAK * nearly
        return cls(np.sort(scores), float(scores.min()), most, most if is_limit else None, at_most)


def cut_warnings(cuts: Mapping[str, Sequence[Cut]]) -> list[str]:
    """Sentences about the cuts of each name that make a comparison unfair or lower AP."""
    return [*_floor_warnings(cuts), *_limit_warnings(cuts)]


def _floor_warnings(cuts: Mapping[str, Sequence[Cut]]) -> list[str]:
    floors = {
        name: max(cut.lowest for cut in own if cut.lowest is not None)
        for name, own in cuts.items()
        if any(cut.lowest is not None for cut in own)
    }
    high = {name: floor for name, floor in floors.items() if floor > USUAL_FLOOR * 1.02}  # scores are rounded
    warnings = [
        f"{name} has no detection with a score below {floor:.2g}. Its results were probably cut there before they were "
        f"written, which lowers AP: write them with a score threshold of at most {USUAL_FLOOR}"
        for name, floor in high.items()
    ]
    name = max(floors, key=lambda name: floors[name], default="")
    below = {other: sum(int((cut.scores < floors[name]).sum()) for cut in cuts[other]) for other in floors}
    totals = {other: sum(len(cut.scores) for cut in cuts[other]) for other in floors}
    if any(count > NEGLIGIBLE * totals[other] for other, count in below.items()):
        others = ", ".join(f"{other} has {count} of {totals[other]}" for other, count in below.items() if other != name)
        warnings.append(
            f"{name} has no detection with a score below {floors[name]:.2g}, but {others}. This alone changes AP: "
            "write all results with the same score threshold"
        )
    return warnings


def _limit_warnings(cuts: Mapping[str, Sequence[Cut]]) -> list[str]:
    limits = {
        name: min((cut.limit for cut in own if cut.limit is not None), default=None) for name, own in cuts.items()
    }
    images = {name: max(cut.at_limit for cut in own) for name, own in cuts.items()}
    warnings = [
        f"{name} has exactly {limit} detections in {images[name]} images and nowhere more: its results were cut at "
        f"this number before they were written, which lowers AP. COCO scores up to {MAX_DETECTIONS} per image and class"
        for name, limit in limits.items()
        if limit is not None and limit < MAX_DETECTIONS
    ]
    if len(set(limits.values())) > 1:
        listed = ", ".join(
            f"{name} {'shows none' if limit is None else f'{limit} (in {images[name]} images)'}"
            for name, limit in limits.items()
        )
        warnings.append(
            f"The limits of detections per image differ: {listed}. This alone changes AP: write all results with the "
            "same limit"
        )
    return warnings
