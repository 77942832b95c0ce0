"""Settings of the detection commands. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from backbones.errors import UserError
from backbones.scaling import scale_of
from data.options import BoxOptions
from engine import config as engine

NAME, METRIC = "detection", "AP"
# The twelve metrics in the order of pycocotools' `COCOeval.summarize`.
COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
AR_DETECTIONS = (1, 10, 100)  # detections per image and class of AR1, AR10 and AR100
METRICS = (*COCO_METRICS, "precision", "recall", "F1")
# From google/automl, efficientdet/tf2/postprocess.py and efficientdet/hparams_config.py.
MAX_CANDIDATES, MAX_DETECTIONS = 5000, 100
MIN_SCORE = 0.3  # lowest score of detections that are drawn and printed
PRESETS = Path(__file__).parent / "presets"


@dataclass
class BoxTrainData(engine.TrainData, BoxOptions):
    """Which images to read, and how."""


@dataclass
class BoxEvalData(engine.EvalData, BoxOptions):
    """Which images to read, and how."""


@dataclass
class TrainConfig(engine.TrainConfig):
    """Train a detector."""

    metrics: ClassVar[tuple[str, ...]] = METRICS

    neck: str = "bifpn"
    """Network that fuses the feature pyramid: bifpn, bifpn_softmax, bifpn_sum, fpn or panet."""
    phi: int | str = 0
    """Compound coefficient of neck, heads and input size, not of the backbone: 0 to 7, 7x, lite0 to lite4."""
    style: Literal["pytorch", "tensorflow"] = "pytorch"
    """Padding and biases of neck and heads, for any backbone; weights of a complete detector override it."""
    lr: float = 2e-3
    """Peak learning rate."""
    freeze_stride: int = 4
    """In fine-tuning, freeze the backbone's stem and its stages up to the feature map with this stride. In a plain
    transformer, 4, 8 and 16 freeze one, two and three thirds of the blocks. 0 freezes nothing."""
    assignment: Literal["atss", "iou"] = "atss"
    """Which anchors learn a box: by an IoU threshold that adapts to each box (atss), or by an IoU of 0.5 (iou)."""
    box_loss: Literal["giou", "ciou", "huber"] = "giou"
    """Loss of the box regression."""
    anchor_scale: float = 0.0
    """Side of the smallest square anchor of a level, as a multiple of the stride. 0 fits it to the training boxes."""
    jitter: tuple[float, float] = (0.8, 1.4)
    """Range of the random scale, relative to the scale at which the whole image fits the input."""
    vflip: bool = False
    """Also flip images vertically at random, for data without a fixed orientation."""
    nms: Literal["soft", "hard", "voting"] = "voting"
    """Non-maximum suppression of overlapping detections. voting is a milder soft suppression, after which each box
    becomes a weighted mean of the predicted boxes of its class around it."""
    max_detections: int = MAX_DETECTIONS
    """Largest number of detections in an image. The best ones are kept and scored. COCO's number is 100."""
    data: BoxTrainData = field(default_factory=BoxTrainData)

    @classmethod
    def upgrade(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Stored settings with the names of this version. A missing `style` depends on the backbone's name."""
        return super().upgrade({"style": style_by_name(values["backbone"]), **values})

    def check(self) -> None:
        """Raise UserError for invalid values."""
        super().check()
        scale_of(self.phi)
        check_max_detections(self.max_detections)


def check_max_detections(number: int | None) -> None:
    """Raise UserError for a number out of range."""
    if number is not None and not 1 <= number <= MAX_CANDIDATES:
        raise UserError(
            f"`max_detections={number}` must be from 1 to {MAX_CANDIDATES}, the number of candidates",
            settings=("max_detections",),
        )


def style_by_name(backbone: str) -> Literal["pytorch", "tensorflow"]:
    """The style of neck and heads in earlier versions, which had no setting for it."""
    return "tensorflow" if backbone.startswith("tf_") else "pytorch"


@dataclass
class EvalConfig(engine.EvalConfig):
    """Evaluate a detector with COCO's twelve metrics, and precision, recall and F1 at the best score threshold."""

    phi: int | str | None = None
    """Compound coefficient of a published detector. Needed only if its file fits several coefficients."""
    nms: Literal["soft", "hard", "voting"] | None = None
    """Non-maximum suppression of overlapping detections. By default as in the training."""
    max_detections: int | None = None
    """Largest number of detections in an image. By default as in the training."""
    data: BoxEvalData = field(default_factory=BoxEvalData)


@dataclass
class PredictConfig(engine.PredictConfig):
    """Detect objects in images."""

    phi: int | str | None = None
    """Compound coefficient of a published detector. Needed only if its file fits several coefficients."""
    nms: Literal["soft", "hard", "voting"] | None = None
    """Non-maximum suppression of overlapping detections. By default as in the training."""
    max_detections: int | None = None
    """Largest number of detections in an image. By default as in the training."""
    min_score: float = MIN_SCORE
    """Lowest score of detections that are drawn; the JSON file has all detections."""
