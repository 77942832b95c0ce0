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
HIGH_FLOOR = 0.1  # few detections may have scores just above the threshold
NEGLIGIBLE = 0.01  # share of detections below another name's lowest score that is not reported
# A limit shows as many images with exactly the same, largest number of detections: more than `PEAK` times as many as
# have nearly that number. Fewer images suffice if tools use this number as a limit.
PEAK, NEARLY = 2, 0.9
MOSTLY = 0.5  # share of images at the limit from which it explains the lowest score
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
        at_limit: number of images with exactly `most` detections.
        with_detections: number of images with any.
    """

    scores: np.ndarray
    lowest: float | None
    most: int
    limit: int | None
    at_limit: int
    with_detections: int

    @classmethod
    def of(cls, scores: np.ndarray, image: np.ndarray, images: int) -> Cut:
        """The cuts of N detections.

        Args:
            scores: (N,) scores.
            image: (N,) index of the image of each detection.
            images: number of images.
        """
        if not len(scores):
            return cls(scores, None, 0, None, 0, 0)
        counts = np.bincount(image, minlength=images)
        most = int(counts.max())
        frequency = np.bincount(counts)
        at_most = int(frequency[-1])
        with_detections = int((counts > 0).sum())
        nearly = int(frequency[int(np.ceil(NEARLY * most)) : -1].sum())
        enough = FEWEST_AT_USUAL if most in USUAL_LIMITS else max(FEWEST_IMAGES, FEWEST_SHARE * with_detections)
        is_limit = most >= FEWEST_DETECTIONS and at_most >= enough and at_most > PEAK * nearly
        limit = most if is_limit else None
        return cls(np.sort(scores), float(scores.min()), most, limit, at_most, with_detections)

    @property
    def floor(self) -> float | None:
        """The lowest score if a threshold may be its cause; None if the limit cut most images at higher scores."""
        by_limit = self.limit is not None and self.at_limit >= MOSTLY * self.with_detections
        return None if by_limit else self.lowest

    def below(self, score: float) -> int:
        """Number of detections with a lower score."""
        return int(np.searchsorted(self.scores, score))


def cut_warnings(cuts: Mapping[str, Sequence[Cut]]) -> list[str]:
    """Sentences about the cuts of each name that make a comparison unfair or lower AP."""
    return [*_floor_warnings(cuts), *_limit_warnings(cuts)]


def _floor_warnings(cuts: Mapping[str, Sequence[Cut]]) -> list[str]:
    warnings = []
    totals = {name: sum(len(cut.scores) for cut in own) for name, own in cuts.items()}
    for name, own in cuts.items():
        floor = max((cut.floor for cut in own if cut.floor is not None), default=0.0)
        counts = {other: sum(cut.below(floor) for cut in theirs) for other, theirs in cuts.items() if other != name}
        below = [
            f"{other} has {count} of {totals[other]}"
            for other, count in counts.items()
            if count > NEGLIGIBLE * totals[other]
        ]
        is_high = floor > HIGH_FLOOR
        if is_high or below:
            but = f", but {', '.join(below)}" if below else ""
            warnings.append(
                f"{name} has no detection with a score below {floor:.2g}{but}. "
                + (
                    "It was probably cut there before it was written, which lowers AP: write detections with a score "
                    f"threshold of at most {USUAL_FLOOR}"
                    if is_high
                    else "This alone changes AP: write all results with the same score threshold"
                )
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
