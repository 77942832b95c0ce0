"""The detector: backbone, neck, and two heads over anchors. A plain module that knows nothing of data or training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from backbones import create_backbone
from backbones.base import Backbone, CachedFeatures, select
from backbones.memory_efficient import ACTIVATIONS
from backbones.necks import create_neck
from backbones.scaling import scale_of
from backbones.weights import read_state
from detection import effdet
from detection.anchors import Anchors
from detection.head import PRIOR, Head
from detection.loss import DetectionLoss
from detection.postprocess import Detections, Suppression, candidates, suppress

logger = logging.getLogger(__name__)

Style = Literal["pytorch", "tensorflow"]

COARSEST_STRIDE = 32  # of the backbone; necks make the levels beyond


class Detector(nn.Module):
    """Boxes and classes for every anchor of an image.

    Args:
        backbone: gives at least the strides of `anchors` up to 32.
        neck: maps of those strides in, one map for each of the anchors' strides out.
        class_head: (B, A, K) logits from the neck's maps.
        box_head: (B, A, 4) offsets from the neck's maps, see `anchors.encode`.
        anchors: over the neck's strides.
        nms: "soft" or "hard".
        style: of padding and biases in neck and heads, see `create_detector`.
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: nn.Module,
        class_head: nn.Module,
        box_head: nn.Module,
        anchors: Anchors,
        nms: Suppression = "soft",
        style: Style = "pytorch",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.class_head = class_head
        self.box_head = box_head
        self.anchors = anchors
        self.nms = nms
        self.style = style
        self._taken = select(backbone.levels, [stride for stride in anchors.strides if stride <= COARSEST_STRIDE])

    def forward(self, images: Tensor | CachedFeatures) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) normalised floats, any H and W -> logits (B, A, K), deltas (B, A, 4)."""
        maps = self.neck(self.maps(images))
        return self.class_head(maps), self.box_head(maps)

    def maps(self, images: Tensor | CachedFeatures) -> list[Tensor]:
        """The backbone's maps that the neck takes."""
        if isinstance(images, CachedFeatures):
            return images.maps
        maps = self.backbone(images)
        return [maps[i] for i in self._taken]

    def loss(
        self,
        images: Tensor | CachedFeatures,
        boxes: Tensor,
        labels: Tensor,
        criterion: DetectionLoss | None = None,
    ) -> dict[str, Tensor]:
        """Terms to be summed and minimised.

        Args:
            images: (B, 3, H, W) normalised floats.
            boxes: (B, M, 4) xyxy px of the input, rows past an image's last box arbitrary.
            labels: (B, M) class indices, -1 in rows without a box.
            criterion: what is computed; the published recipe's by default.
        """
        criterion = criterion or DetectionLoss()
        logits, deltas = self(images)
        return criterion(logits, deltas, self.anchors, _size(images), boxes, labels)

    def predict(self, images: Tensor | CachedFeatures, sizes: Tensor | None = None) -> Detections:
        """Final detections, best first: (B, 3, H, W) normalised floats -> see `Detections`.

        `sizes` is (B, 2), the (height, width) of the part of each input that is image; the whole of it by default.
        Boxes are clipped there.
        """
        logits, deltas = self(images)
        size = _size(images)
        anchors = self.anchors(size, logits.device)
        return suppress(candidates(logits, deltas, anchors, size if sizes is None else sizes), self.nms)


def _size(images: Tensor | CachedFeatures) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def create_detector(
    backbone: str | Backbone,
    num_classes: int,
    phi: int | str = 0,
    neck: str = "bifpn",
    pretrained: bool | str | Path = False,
    anchor_scale: float | None = None,
    nms: Suppression = "soft",
    style: Style = "pytorch",
) -> Detector:
    """An EfficientDet of coefficient `phi` on any backbone.

    Args:
        backbone: a name of `list_backbones()`, or a module.
        num_classes: K.
        phi: sets neck, heads and anchors: 0..7, "7x", "lite0".."lite4". Never changes the backbone.
        neck: a name of `backbones.necks.NECKS`; BiFPN's fusion is the coefficient's unless the name says it.
        pretrained: True for the backbone's published weights; a path for a file of them, or for a whole detector's
            in effdet's or our own format. The class layer is dropped, and logged, where class counts differ.
        anchor_scale: side of a level's smallest square anchor in strides; the coefficient's by default.
        nms: "soft" or "hard".
        style: padding of the neck's poolings, and biases before batch norm in neck and heads: "pytorch" pads both sides
            and has no such biases; "tensorflow" pads as TensorFlow does and has them, as google/automl's weights need.
            The backbone's name does not change it; a file of a whole detector decides it.

    Raises UserError for unknown names and BadInput where weights are absent or do not fit.
    """
    scale = scale_of(phi)
    state = None if isinstance(pretrained, bool) else read_state(pretrained)
    whole = state is not None and effdet.is_detector(state)
    if isinstance(backbone, str):
        backbone = create_backbone(backbone, False if whole else pretrained)
    if whole and state is not None:
        style = effdet.style_of(state)
    tensorflow = style == "tensorflow"
    taken = [backbone.levels[i] for i in select(backbone.levels, (8, 16, 32))]
    activation = ACTIVATIONS[scale.activation]
    options: dict = {"channels": scale.width, "num_levels": scale.num_levels}
    if neck.startswith("bifpn"):
        options |= {
            "repeats": scale.neck_repeats,
            "activation": activation,
            "same_padding": tensorflow,
            "bias": tensorflow,
        }
    if neck == "bifpn":
        options["fusion"] = scale.fusion
    fused = create_neck(neck, taken, **options)
    anchors = Anchors([level.stride for level in fused.levels], anchor_scale or scale.anchor_scale)

    def head(outputs: int, prior: float | None = None) -> Head:
        return Head(
            scale.width, outputs, anchors.per_cell, scale.num_levels, scale.head_repeats, activation, tensorflow, prior
        )

    detector = Detector(backbone, fused, head(num_classes, PRIOR), head(4), anchors, nms, style)
    if whole and state is not None:
        effdet.load(detector, state, str(pretrained))
    return detector
