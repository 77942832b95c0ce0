"""Settings of the detection commands. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backbones.scaling import scale_of
from engine import config as engine

NAME, METRIC = "detection", "AP"
PRESETS = Path(__file__).parent / "presets"


@dataclass
class TrainConfig(engine.TrainConfig):
    """Train a detector."""

    neck: str = "bifpn"
    """What fuses the pyramid: bifpn, bifpn_softmax, bifpn_sum, fpn or panet."""
    phi: int | str = 0
    """Compound coefficient of neck, heads and input size: 0 to 7, 7x, lite0 to lite4. The backbone stays as named."""
    style: Literal["pytorch", "tensorflow"] = "pytorch"
    """Padding and biases of neck and heads, whatever the backbone; weights of a whole detector bring their own."""
    lr: float = 2e-3
    """Peak learning rate."""
    freeze_stride: int = 4
    """In fine-tuning, stem and stages up to the map of this stride stay as pretrained; 0 trains all of them."""
    assignment: Literal["atss", "iou"] = "atss"
    """Which anchors learn a box: those that overlap it well for where they lie (atss), or by half (iou)."""
    box_loss: Literal["giou", "ciou", "huber"] = "giou"
    """Loss of the boxes."""
    anchor_scale: float = 0.0
    """Side of a level's smallest anchor in strides; 0 fits it to the training boxes."""
    jitter: tuple[float, float] = (0.8, 1.4)
    """Range of the random scale, relative to the image fitting the input."""
    vflip: bool = False
    """Also flip images upside down, where up and down mean nothing."""
    nms: Literal["soft", "hard"] = "soft"
    """How overlapping detections are suppressed."""

    @classmethod
    def upgrade(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Runs stored before `style` existed had it by the backbone's name."""
        return super().upgrade({"style": style_by_name(values["backbone"]), **values})

    def check(self) -> None:
        """Raise UserError for values that no run could use."""
        super().check()
        scale_of(self.phi)


def style_by_name(backbone: str) -> Literal["pytorch", "tensorflow"]:
    """The style that versions before the setting gave neck and heads."""
    return "tensorflow" if backbone.startswith("tf_") else "pytorch"


@dataclass
class EvalConfig(engine.EvalConfig):
    """Score a detector on COCO's twelve numbers."""

    phi: int | str | None = None
    """For a published checkpoint whose file does not tell its coefficient."""
    nms: Literal["soft", "hard"] | None = None
    """How overlapping detections are suppressed; by default as trained."""


@dataclass
class PredictConfig(engine.PredictConfig):
    """Detect objects in images."""

    phi: int | str | None = None
    """For a published checkpoint whose file does not tell its coefficient."""
    nms: Literal["soft", "hard"] | None = None
    """How overlapping detections are suppressed; by default as trained."""
    min_score: float = 0.3
    """Lowest score that is drawn; the JSON holds all."""
