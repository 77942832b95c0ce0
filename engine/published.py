"""Published scores, parameter counts and multiply-adds of common networks, with their sources.

The numbers are in `published.csv`, in percent, millions and billions, rounded as in their sources.
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
TOLERANCE = 0.02  # largest relative difference of a measured count from the published one, besides its rounding


@dataclass(frozen=True)
class Count:
    """A published count. `rounding` is half a unit of its last published digit."""

    value: float
    rounding: float

    @classmethod
    def of(cls, text: str) -> Count:
        """`"0.39B"` -> 390 million, with a rounding of 5 million."""
        digits, unit = text[:-1], UNITS[text[-1]]
        decimals = len(digits.partition(".")[2])
        return cls(float(digits) * unit, unit * 10**-decimals / 2)

    def disagrees(self, measured: float) -> bool:
        """Whether a measured count differs by more than 2% plus the rounding."""
        return abs(measured - self.value) > TOLERANCE * self.value + self.rounding


@dataclass(frozen=True)
class Published:
    """One row of a published table.

    Attributes:
        network: timm name, without the prefix `tf_` and the tag.
        tag: tag of the timm weights with these scores; None if timm does not have these weights or if no tag applies.
        neck: description of the layers between backbone and output; None for a plain classifier.
        dataset: "ImageNet", "COCO" or "ADE20K".
        split: name of the evaluated split.
        image_size: side of the square input in pixels.
        scores: fractions in 0..1, by metric.
        params, macs: number of parameters, and multiply-adds for one image of that size; None if not published.
        training: description of the training recipe.
        source: paper and table, or model zoo.
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
    """All rows of `published.csv`."""
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
    """The rows of a network. `backbone` is its timm name; the prefix `tf_` and a tag are ignored."""
    name = backbone.partition(".")[0].removeprefix("tf_")
    return tuple(row for row in table() if row.network == name)


def classifier_of(backbone: str) -> Published | None:
    """The network's first ImageNet row with published counts, else its first ImageNet row, else None."""
    rows = [row for row in published(backbone) if row.dataset == "ImageNet"]
    return next((row for row in rows if row.params is not None), rows[0] if rows else None)
