"""What a class map gets wrong: along boundaries, by region and by confidence. Sums over a data set, in constant memory.

Boundary IoU (Cheng et al., arXiv:2103.16562) is the IoU of the pixels of a class that are within d px of another class
or of the end of the image, in truth and prediction. d is 2 % of the image's diagonal, rounded, at least 1. A distance
is the larger of the two coordinate differences, as in the authors' code, which erodes with 3 x 3 px d times. Pixels are
summed over all images before the division, as for IoU.

Regions are connected pixels of one class, also diagonally. A true region is found if at least half of its pixels are
predicted as its class, missed if less than a tenth are, else partly found. A predicted region is extra if less than a
tenth of its pixels have that true class. Regions smaller than 0.01 % of the image are left out.

Pixels without a true class count as predicted correctly in the search for boundaries, and do not count otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from data.batch import IGNORE
from engine.calibration import Reliability
from engine.class_scores import class_scores, mean_over

DILATION = 0.02  # of the diagonal: arXiv:2103.16562, section 5.1
FOUND, MISSED = 0.5, 0.1  # shares of a region; as the two IoUs of TIDE (arXiv:2008.08115)
MIN_AREA = 1e-4  # of the image
REGIONS = ("true", "found", "partly_found", "missed", "predicted", "extra")


class SegmentationErrors:
    """Sums of errors over all images.

    Args:
        classes: K names by index.
        scored: (K,) bool. Classes that are not scored have no values of their own.

    Attributes:
        boundary: (3, K) int64, boundary pixels of each class: in truth and prediction, in the truth, in the prediction.
        regions: (K, 6) int64, numbers of regions by the names in `REGIONS`.
        reliability: of all pixels with a true class.
    """

    def __init__(self, classes: Sequence[str], scored: np.ndarray) -> None:
        self.classes, self.scored = tuple(classes), scored
        self.boundary = np.zeros((3, len(classes)), np.int64)
        self.regions = np.zeros((len(classes), len(REGIONS)), np.int64)
        self.reliability = Reliability.of(np.zeros(0), np.zeros(0, bool))

    def update(self, labels: np.ndarray, truth: np.ndarray, confidence: np.ndarray) -> None:
        """Add an image.

        Args:
            labels: (H, W) uint8 predicted class.
            truth: (H, W) true class, or IGNORE.
            confidence: (H, W) probability of the predicted class, in 0..1.
        """
        labels, truth = labels.astype(np.uint8), truth.astype(np.uint8)
        counted = truth != IGNORE
        self.reliability += Reliability.of(confidence[counted], (labels == truth)[counted])
        filled = np.where(counted, truth, labels)
        self.boundary += boundary_counts(labels, filled, counted, len(self.classes))
        for index in np.flatnonzero(np.bincount(np.r_[labels[counted], truth[counted]], minlength=len(self.classes))):
            if self.scored[index]:
                self.regions[index] += region_counts(labels == index, truth == index, counted)

    def state(self) -> tuple[np.ndarray, np.ndarray, Reliability]:
        """All sums."""
        return self.boundary, self.regions, self.reliability

    def merge(self, states: Sequence[tuple[np.ndarray, np.ndarray, Reliability]]) -> None:
        """Add these sums."""
        for boundary, regions, reliability in states:
            self.boundary += boundary
            self.regions += regions
            self.reliability += reliability

    def boundary_iou(self) -> np.ndarray:
        """(K,) boundary IoU of each class, in 0..1; NaN for classes without boundaries and those not scored."""
        right, truth, predicted = self.boundary
        return np.where(self.scored, class_scores(right, truth, predicted)["IoU"], np.nan)

    def document(self) -> dict[str, Any]:
        """The content of `errors.json`: `boundary_mIoU`, `regions` of all classes, and both for each class.

        `boundary_mIoU` is the mean over the classes with boundaries in truth or prediction, like `mIoU`.
        """
        values = self.boundary_iou()
        totals = self.regions.sum(0).tolist()
        return {
            "dilation": DILATION,
            "boundary_mIoU": float(mean_over(values, ~np.isnan(values))),
            "found_from": FOUND,
            "missed_below": MISSED,
            "regions": dict(zip(REGIONS, totals, strict=True)),
            "per_class": {
                name: {"boundary_IoU": float(values[i])} | dict(zip(REGIONS, self.regions[i].tolist(), strict=True))
                for i, name in enumerate(self.classes)
                if self.scored[i]
            },
        }


def boundary_counts(labels: np.ndarray, truth: np.ndarray, counted: np.ndarray, classes: int) -> np.ndarray:
    """(3, K) counted boundary pixels of each class: in truth and prediction, in the truth, in the prediction.

    Args:
        labels, truth: (H, W) uint8 class indices.
        counted: (H, W) bool.
        classes: number of classes K.
    """
    in_truth, in_prediction = boundary(truth) & counted, boundary(labels) & counted
    both = labels[in_truth & in_prediction & (labels == truth)]
    return np.stack(
        [np.bincount(values, minlength=classes) for values in (both, truth[in_truth], labels[in_prediction])]
    )


def boundary(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool, pixels within d px of another class or of the end of the image, see the module's text.

    For all classes at once: within d px there is only one class if the least and the largest index there are equal.
    """
    height, width = labels.shape
    distance = max(1, round(DILATION * float(np.hypot(height, width))))
    window = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    result = cv2.erode(labels, window) != cv2.dilate(labels, window)
    for edge in (result[:distance], result[-distance:], result[:, :distance], result[:, -distance:]):
        edge[:] = True
    return result


def region_counts(labels: np.ndarray, truth: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(6,) numbers of regions of one class in one image, by the names in `REGIONS`.

    Args:
        labels, truth, counted: (H, W) bool: pixels predicted as the class, pixels of the class, pixels that count.
    """
    smallest = MIN_AREA * labels.size
    of_truth = _shares(truth, labels, counted, smallest)
    of_prediction = _shares(labels, truth, counted, smallest)
    found, missed = np.count_nonzero(of_truth >= FOUND), np.count_nonzero(of_truth < MISSED)
    true = len(of_truth)
    extra = np.count_nonzero(of_prediction < MISSED)
    return np.array([true, found, true - found - missed, missed, len(of_prediction), extra])


def _shares(regions: np.ndarray, other: np.ndarray, counted: np.ndarray, smallest: float) -> np.ndarray:
    """The share of the counted pixels of each region that are in `other` too, for regions of at least `smallest` px."""
    left, top, width, height = cv2.boundingRect(regions.view(np.uint8))
    if not width:
        return np.zeros(0)
    box = slice(top, top + height), slice(left, left + width)
    count, index = cv2.connectedComponents(np.ascontiguousarray(regions[box]).view(np.uint8), connectivity=8)
    pixels = np.bincount(index[counted[box]], minlength=count)[1:]
    right = np.bincount(index[(other & counted)[box]], minlength=count)[1:]
    large = (pixels >= smallest) & (pixels > 0)
    return right[large] / pixels[large]


def main_values(errors: Mapping[str, Any]) -> dict[str, float]:
    """The main values of `SegmentationErrors.document` by heading, fractions in 0..1; NaN where undefined."""
    regions = errors["regions"]
    shares = {
        "regions found": (regions["found"], regions["true"]),
        "partly found": (regions["partly_found"], regions["true"]),
        "missed": (regions["missed"], regions["true"]),
        "extra": (regions["extra"], regions["predicted"]),
    }
    values = {name: part / whole if whole else float("nan") for name, (part, whole) in shares.items()}
    return {"boundary IoU": errors["boundary_mIoU"]} | values
