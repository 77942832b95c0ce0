"""The detector: backbone, neck, and two heads over anchors. The module does not depend on data sets or training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from backbones import create_backbone
from backbones.base import Backbone, Neck, neck_inputs, pyramid_strides, select
from backbones.errors import BadInput
from backbones.factory import set_weights
from backbones.memory_efficient import ACTIVATIONS
from backbones.necks import create_neck
from backbones.scaling import Scale, scale_of
from backbones.weight_facts import weight_facts
from backbones.weight_files import read_state
from detection import effdet
from detection.anchors import Anchors
from detection.config import MAX_DETECTIONS
from detection.head import PRIOR, Head
from detection.loss import DetectionLoss
from detection.postprocess import Detections, Suppression, candidates, suppress

Style = Literal["pytorch", "tensorflow"]


class Detector(nn.Module):
    """Predicts class scores and a box for every anchor of an image.

    Args:
        backbone: computes feature maps at least for the strides of the neck up to 32.
        neck: fuses the maps of these strides into one map for each stride of `anchors`, and possibly others.
        class_head: computes (B, A, K) logits from the neck's maps.
        box_head: computes (B, A, 4) offsets from the neck's maps, see `anchors.encode`.
        anchors: anchors for the strides of the neck's maps.
        nms: non-maximum suppression: "soft", "hard" or "voting", see `suppress`.
        style: padding and biases of neck and heads, see `create_detector`.
        max_detections: largest number of detections in an image.

    Attributes:
        neck_is_trained: whether neck and heads have the weights of a training.
    """

    neck_is_trained = False

    def __init__(
        self,
        backbone: Backbone,
        neck: nn.Module,
        class_head: nn.Module,
        box_head: nn.Module,
        anchors: Anchors,
        nms: Suppression = "soft",
        style: Style = "pytorch",
        max_detections: int = MAX_DETECTIONS,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.class_head = class_head
        self.box_head = box_head
        self.anchors = anchors
        self.nms = nms
        self.style = style
        self.max_detections = max_detections
        self._selected = neck_inputs(backbone, neck)
        strides = pyramid_strides(neck)
        self._outputs = [strides.index(stride) for stride in anchors.strides]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) normalised floats, any H and W -> logits (B, A, K), deltas (B, A, 4)."""
        return self.outputs(self.neck(self.maps(images)))

    def outputs(self, pyramid: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The neck's maps -> logits (B, A, K), deltas (B, A, 4). The maps without anchors are not used."""
        maps = [pyramid[i] for i in self._outputs]
        return self.class_head(maps), self.box_head(maps)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The maps of the backbone that the neck uses; cached features are returned as they are."""
        maps = self.backbone(images)
        return [maps[i] for i in self._selected]

    def loss(
        self,
        images: Tensor,
        boxes: Tensor,
        labels: Tensor,
        criterion: DetectionLoss | None = None,
    ) -> dict[str, Tensor]:
        """The losses as scalars by name. Their sum is minimised.

        Args:
            images: (B, C, H, W) normalised floats.
            boxes: (B, M, 4) xyxy px of the input; padding rows may have any values.
            labels: (B, M) class indices, -1 in padding rows.
            criterion: the loss; that of the published recipe by default.
        """
        criterion = criterion or DetectionLoss()
        logits, deltas = self(images)
        return criterion(logits, deltas, self.anchors, _size(images), boxes, labels)

    def predict(self, images: Tensor, sizes: Tensor | None = None) -> Detections:
        """Final detections in pixels of the input, best first, see `Detections`.

        Args:
            images: (B, C, H, W) normalised floats.
            sizes: (B, 2), (height, width) in px of each image without its padding; (H, W) by default. Boxes are clipped
                to it.
        """
        logits, deltas = self(images)
        return self.detections(logits, deltas, _size(images), sizes)

    def detections(
        self, logits: Tensor, deltas: Tensor, size: tuple[int, int], sizes: Tensor | None = None
    ) -> Detections:
        """`predict` from the network's outputs, for an input of `size` (height, width), px."""
        found = candidates(logits, deltas, self.anchors(size, logits.device), size if sizes is None else sizes)
        return suppress(found, self.nms, self.max_detections)


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def create_detector(
    backbone: str | Backbone,
    num_classes: int,
    phi: int | str = 0,
    neck: str | Neck = "bifpn",
    pretrained: bool | str | Path = False,
    anchor_scale: float | None = None,
    nms: Suppression = "soft",
    style: Style = "pytorch",
    classes: Sequence[str] | None = None,
    max_detections: int = MAX_DETECTIONS,
    channels: int = 3,
    stochastic_depth: float | None = None,
) -> Detector:
    """An EfficientDet of compound coefficient `phi` with any backbone.

    Args:
        backbone: a name of `list_backbones()`, or a module.
        num_classes: number of classes, K.
        phi: determines neck, heads and anchors: 0..7, "7x", "lite0".."lite4". It does not change the backbone.
        neck: a name of `backbones.necks.NECKS`. With "bifpn", `phi` determines the fusion. Or a module for this
            backbone whose maps include those of strides 8 to 128; it may be shared with other networks.
        pretrained: True for published weights of the backbone; or a file with weights of the backbone, or of a complete
            detector in effdet's format or ours; or the folder of a run. If the classes differ, the class layer is not
            loaded, and a warning is logged.
        anchor_scale: side of the smallest square anchor of a level, in strides; by default as published for `phi`.
        nms: non-maximum suppression: "soft", "hard" or "voting", see `suppress`.
        style: padding of the neck's pooling, and biases before batch norm in neck and heads. "pytorch" pads
            symmetrically and has no such biases. "tensorflow" pads as TensorFlow does and has them, as the weights of
            google/automl need. It does not depend on the backbone. Weights of a complete detector override it.
        classes: names of the classes. The class layer of a run is then matched by name, otherwise by the number of
            classes.
        max_detections: largest number of detections in an image, 100 in COCO.
        channels: number of channels of the images, see `create_backbone`.
        stochastic_depth: drop rate of the last residual branch of a backbone that is a name, see `create_backbone`.

    Raises UserError for unknown names, and BadInput if weights are missing or do not fit.
    """
    scale = scale_of(phi)
    state = None if isinstance(pretrained, bool) else read_state(pretrained)
    is_complete = state is not None and effdet.is_detector(state)
    if isinstance(backbone, str):
        source = False if is_complete else pretrained
        backbone = create_backbone(backbone, source, channels=channels, stochastic_depth=stochastic_depth)
        backbone.keep_levels((8, 16, 32))
    elif state is not None and not is_complete:
        set_weights(backbone, backbone.name, pretrained)
    if is_complete and state is not None:
        style = effdet.style_of(state)
    tensorflow = style == "tensorflow"
    activation = ACTIVATIONS[scale.activation]
    fusion = neck if isinstance(neck, Neck) else new_neck(neck, backbone, scale, tensorflow)
    anchors = Anchors(level_strides(scale), anchor_scale or scale.anchor_scale)
    width = fusion.levels[0].channels

    def head(outputs: int, prior: float | None = None) -> Head:
        return Head(
            width, outputs, anchors.per_cell, scale.num_levels, scale.head_repeats, activation, tensorflow, prior
        )

    detector = Detector(backbone, fusion, head(num_classes, PRIOR), head(4), anchors, nms, style, max_detections)
    if is_complete and state is not None:
        settings = {"backbone": backbone.name, "phi": str(phi), "neck": str(neck)}
        _load(detector, state, str(pretrained), settings, classes)
    return detector


def level_strides(scale: Scale) -> list[int]:
    """Strides of a detector's levels, finest first."""
    return [8 * 2**i for i in range(scale.num_levels)]


def new_neck(name: str, backbone: Backbone, scale: Scale, tensorflow: bool = False) -> Neck:
    """A neck over strides 8 to 32 with the sizes of `scale`."""
    levels = [backbone.levels[i] for i in select(backbone.levels, (8, 16, 32))]
    options: dict = {"channels": scale.width, "num_levels": scale.num_levels}
    if name.startswith("bifpn"):
        options |= {
            "repeats": scale.neck_repeats,
            "activation": ACTIVATIONS[scale.activation],
            "same_padding": tensorflow,
            "bias": tensorflow,
        }
    if name == "bifpn":
        options["fusion"] = scale.fusion
    return create_neck(name, levels, **options)


def _load(
    detector: Detector, state: Mapping[str, Tensor], path: str, own: Mapping[str, str], classes: Sequence[str] | None
) -> None:
    """Load a complete detector and record its provenance. `own`: the settings of the detector.

    Raises BadInput if it does not fit, with the settings of the file that differ, as far as they are known.
    """
    facts = weight_facts(path)
    run = facts.run or {}
    is_published = any("class_net." in key for key in state)
    try:
        is_whole = effdet.load(detector, state, path, run.get("classes"), classes)
        detector.neck_is_trained = True
    except BadInput as error:
        stored = run.get("config") or (_published_settings(state, facts.file.name) if is_published else {})
        wrong = {name: str(stored[name]) for name in own if name in stored and str(stored[name]) != own[name]}
        if not wrong:
            raise
        raise BadInput(
            f"{path} is a detector with {', '.join(f'{name} {value}' for name, value in wrong.items())}: pass "
            f"{' and '.join(f'`{name}={value!r}`' for name, value in wrong.items())}, or other weights.",
            settings=tuple(wrong),
        ) from error
    recipe = "effdet" if is_published else "run checkpoint" if run else "state dict of a detector"
    from backbones.weights import provenance_of_file  # imports timm

    provenance = provenance_of_file(detector.backbone.name, path, recipe)
    if is_published:
        mean, std = effdet.normalisation(own["phi"], facts.file.name)
        provenance = replace(provenance, mean=mean, std=std)
    detector.backbone.provenance = replace(provenance, continues=is_whole and bool(run))


def run_anchor_scale(pretrained: bool | str, size: tuple[int, int]) -> float | None:
    """The anchor scale of the detection run in the file `pretrained`, if its images had this (height, width)."""
    run = (weight_facts(pretrained).run if isinstance(pretrained, str) else None) or {}
    if run.get("task") != "detection" or tuple(run["preprocessing"]["size"]) != size:
        return None
    return run["extra"]["anchor_scale"]


def _published_settings(state: Mapping[str, Tensor], file: str) -> dict[str, str]:
    """Settings of a detector in effdet's format; none where they cannot be told apart."""
    try:
        backbone, phi, _ = effdet.describe(state, file)
    except BadInput:
        return {}
    return {"backbone": backbone, "phi": phi, "neck": "bifpn"}
