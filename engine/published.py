"""What has been published of the networks that people compare: scores, parameters, multiply-adds, and where it stands.

The figures are in `published.csv`, in percent, millions and billions as their sources round them.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("published.csv")
SOURCES = {
    "efficientnet2": "EfficientNet, arXiv:1905.11946v5, table 2",
    "efficientdet1": "EfficientDet, arXiv:1911.09070, tables 1 and 2",
    "efficientdet4": "EfficientDet, arXiv:1911.09070, table 4",
    "noisystudent": "Noisy Student, arXiv:1911.04252, table 2",
    "mobilenetv2": "MobileNetV2, arXiv:1801.04381, table 4",
    "torchvision": "torchvision, model weights",
    "timm": "timm, results-imagenet.csv",
    "mmsegmentation": "open-mmlab/mmsegmentation, model zoo, single scale",
}
METRICS = ("top1", "top5", "AP", "mIoU")
UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}
TOLERANCE = 0.02  # share by which a count may differ from the published one, besides that one's rounding


@dataclass(frozen=True)
class Count:
    """A published count; `rounding` is half a unit of its last digit."""

    value: float
    rounding: float

    @classmethod
    def of(cls, text: str) -> Count:
        """`"0.39B"` -> 390 million, give or take 5 million."""
        digits, unit = text[:-1], UNITS[text[-1]]
        decimals = len(digits.partition(".")[2])
        return cls(float(digits) * unit, unit * 10**-decimals / 2)

    def disagrees(self, measured: float) -> bool:
        """Whether a measured count is farther away than 2% and the rounding."""
        return abs(measured - self.value) > TOLERANCE * self.value + self.rounding


@dataclass(frozen=True)
class Published:
    """One line of a published table.

    Attributes:
        network: a timm name without `tf_` and tag.
        tag: which of timm's weights it describes; None where these are not among timm's, or whatever weights there are.
        neck: what stands between backbone and output, in words; None for a plain classifier.
        dataset: "ImageNet", "COCO" or "ADE20K".
        split: that was scored.
        image_size: side of the square input in px.
        scores: by metric, fractions in 0..1.
        params, macs: parameters, and multiply-adds of one image of that size; None where not given.
        training: recipe, in words.
        source: where it stands.
    """

    network: str
    tag: str | None
    neck: str | None
    dataset: str
    split: str
    image_size: int
    scores: dict[str, float]
    params: Count | None
    macs: Count | None
    training: str
    source: str


@cache
def table() -> tuple[Published, ...]:
    """All rows."""
    with FILE.open(newline="") as file:
        return tuple(
            Published(
                network=row["network"],
                tag=row["tag"] or None,
                neck=row["neck"] or None,
                dataset=row["dataset"],
                split=row["split"],
                image_size=int(row["image_size"]),
                scores={metric: round(float(row[metric]) / 100, 6) for metric in METRICS if row[metric]},
                params=Count.of(row["params"]) if row["params"] else None,
                macs=Count.of(row["macs"]) if row["macs"] else None,
                training=row["training"],
                source=SOURCES[row["source"]],
            )
            for row in csv.DictReader(file)
        )


def published(backbone: str) -> tuple[Published, ...]:
    """The rows of a network by its timm name, whatever prefix and tag; none where nothing is known."""
    name = backbone.partition(".")[0].removeprefix("tf_")
    return tuple(row for row in table() if row.network == name)


def classifier_of(backbone: str) -> Published | None:
    """The ImageNet row of the network whose counts are published, the first where there are several."""
    rows = [row for row in published(backbone) if row.dataset == "ImageNet"]
    return next((row for row in rows if row.params is not None), rows[0] if rows else None)
