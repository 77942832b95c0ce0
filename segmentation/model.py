"""The segmentation network: backbone, decoder and last layer. A plain module, independent of data and training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from backbones import create_backbone
from backbones.base import Backbone, Neck, select
from backbones.class_layers import fit_class_layer
from backbones.dilation import create_dilated
from backbones.errors import BadInput, UserError
from backbones.factory import set_weights
from backbones.scaling import scale_of
from backbones.weight_facts import weight_facts
from backbones.weight_files import read_state
from segmentation.decoders import PyramidDecoder, SmpDecoder, Spec, last_layer, spec_of

logger = logging.getLogger(__name__)

LAST_LAYER = ("head.weight", "head.bias")


class Segmenter(nn.Module):
    """Predicts the class of every pixel of an image.

    Args:
        backbone: has levels with the strides `spec.strides`; 2 is optional.
        decoder: `decoder(size, maps)` computes features from the feature maps of images with (height, width) `size`.
        head: convolution from features to logits.
        spec: inputs and outputs of the decoder.

    Attributes:
        decoder_is_trained: whether the decoder has the weights of a training.
    """

    decoder_is_trained = False

    def __init__(self, backbone: Backbone, decoder: nn.Module, head: nn.Conv2d, spec: Spec) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.head = head
        self.spec = spec
        self._map_indices = select(backbone.levels, _available(backbone, spec))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) float, of any size -> logits (B, K, H, W)."""
        return self.upsampled(self.coarse(images), (images.shape[-2], images.shape[-1]))

    def outputs(self, pyramid: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """The maps of the neck of EfficientDet's decoder -> logits (B, K, H, W) of images with (height, width) `size`.

        The maps are those of the padded images.
        """
        return self.upsampled(self.coarse_outputs(pyramid), size)

    def coarse_outputs(self, pyramid: Sequence[Tensor]) -> Tensor:
        """The same maps -> logits (B, K, h, w) before upsampling."""
        assert isinstance(self.decoder, PyramidDecoder)
        return self.head(self.decoder.outputs(pyramid))

    def upsampled(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """`coarse` logits (B, K, h, w) -> logits (B, K, *size)."""
        height, width = size
        if self.spec.stride > 1:
            padded = [side * self.spec.stride for side in logits.shape[-2:]]
            logits = F.interpolate(logits, size=padded, mode="bilinear", align_corners=self.spec.corners)
        return logits[..., :height, :width]

    def coarse(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) float -> logits (B, K, h, w) before upsampling.

        They cover the padded input: h = ceil(H / multiple) * multiple / stride, with the decoder's multiple and stride.
        """
        height, width = (side + self._padding(side) for side in images.shape[-2:])
        return self.head(self.decoder((height, width), self.maps(images)))

    def maps(self, images: Tensor) -> list[Tensor]:
        """The decoder's inputs: feature maps of the padded images, from the backbone or from the cache."""
        height, width = images.shape[-2:]
        maps = self.backbone(F.pad(images, (0, self._padding(width), 0, self._padding(height))))
        return [maps[i] for i in self._map_indices]

    def _padding(self, side: int) -> int:
        """Number of pixels to add to `side` for the decoder."""
        return -side % self.spec.multiple


def create_segmenter(
    backbone: str | Backbone,
    num_classes: int,
    decoder: str = "bifpn",
    phi: int | str = 0,
    pretrained: bool | str | Path = False,
    classes: Sequence[str] | None = None,
    channels: int = 3,
    stochastic_depth: float | None = None,
    neck: Neck | None = None,
) -> Segmenter:
    """Create a segmentation network with EfficientDet's decoder or one of segmentation-models-pytorch (smp).

    Args:
        backbone: a name from `list_backbones()`, or a module.
        num_classes: number of classes K.
        decoder: a name from `segmentation.decoders.DECODERS`.
        phi: compound coefficient, 0..7, "7x" or "lite0".."lite4". It sets width, depth, fusion and activation of the
            decoder "bifpn". It changes neither the backbone nor other decoders.
        pretrained: True for the backbone's published weights; a path for a weight file of the backbone, or of a whole
            segmentation network in smp's format or our own, or for the folder of a run. If the classes differ, the last
            layer of the file is dropped and a warning is logged.
        classes: names of the classes. The last layer of a run is then matched by name, otherwise by the number of
            classes.
        channels: number of channels of the images, see `create_backbone`.
        stochastic_depth: drop rate of the last residual branch of a backbone that is a name, see `create_backbone`.
        neck: of the decoder "bifpn", for this backbone, whose finest map has stride 4. It may be shared with other
            networks. By default a new one.

    Raises UserError for unknown names and for a backbone that does not fit the decoder, BadInput for weights that are
    missing or do not fit.
    """
    spec, scale = spec_of(decoder), scale_of(phi)
    if isinstance(backbone, str):
        backbone = _backbone(backbone, spec, pretrained, channels, stochastic_depth)
    elif not isinstance(pretrained, bool):
        set_weights(backbone, backbone.name, pretrained)
    levels = [backbone.levels[i] for i in select(backbone.levels, _available(backbone, spec))]
    network = PyramidDecoder(levels, scale, neck) if spec.build is None else SmpDecoder(spec, levels)
    segmenter = Segmenter(backbone, network, last_layer(spec, network.channels, num_classes), spec)
    if not isinstance(pretrained, bool):
        settings = {"decoder": decoder, "phi": str(phi)}
        is_whole = _load(segmenter, read_state(pretrained), str(pretrained), settings, classes)
        backbone.provenance = replace(backbone.provenance, continues=is_whole and backbone.provenance.run is not None)
    return segmenter


def _backbone(
    name: str, spec: Spec, pretrained: bool | str | Path, channels: int, stochastic_depth: float | None
) -> Backbone:
    if spec.dilated:
        return create_dilated(name, pretrained, spec.strides[:-1], channels, stochastic_depth)
    try:
        return create_backbone(name, pretrained, spec.strides, channels, stochastic_depth)
    except BadInput:
        raise
    except UserError:
        if spec.strides[0] != 2:
            raise
        # ConvNeXt, Swin and others start at stride 4.
        return create_backbone(name, pretrained, spec.strides[1:], channels, stochastic_depth)


def _available(backbone: Backbone, spec: Spec) -> tuple[int, ...]:
    """The strides of the decoder's inputs that this backbone has."""
    return tuple(s for s in spec.strides if s != 2 or any(level.stride == 2 for level in backbone.levels))


def _load(
    segmenter: Segmenter, state: Mapping[str, Tensor], file: str, own: Mapping[str, str], classes: Sequence[str] | None
) -> bool:
    """Load decoder and last layer, if the file has them. The backbone has its weights already.

    `own` are the settings of the decoder. Returns whether all of the file's weights are used. Raises BadInput if the
    file has another decoder.
    """
    loaded = {new: value for key, value in state.items() if (new := _name(key)) is not None}
    if not any(key.startswith("decoder.") for key in loaded):
        return False  # a file of a backbone, or a run of another task
    current, run = segmenter.state_dict(), weight_facts(file).run
    wanted = {key for key in current if not key.startswith("backbone.")} - set(LAST_LAYER)
    wrong = sorted(
        key for key in wanted | loaded.keys() - set(LAST_LAYER)
        if (key not in current or key not in loaded or current[key].shape != loaded[key].shape)
        and not key.endswith("num_batches_tracked")
    )  # fmt: skip
    if wrong and any(key.startswith("model.backbone.") for key in state):
        stored = (run or {}).get("config", {})
        settings = [f"--{name} {stored[name]}" for name in own if str(stored.get(name, own[name])) != own[name]]
        advice = f". To use all of its weights, pass {' '.join(settings)}" if settings else ""
        logger.warning("%s is a run with another decoder: only its backbone is used%s", file, advice)
        return False
    if wrong:
        raise BadInput(
            f"{file} contains another decoder: {len(wrong)} tensors are missing, unknown or of another shape, such as "
            f"{', '.join(wrong[:2])}. Choose the file's decoder with `decoder`.",
            settings=("decoder",),
        )
    is_whole = fit_class_layer(loaded, current, LAST_LAYER, (run or {}).get("classes"), classes, file)
    segmenter.load_state_dict(current | loaded)
    segmenter.decoder_is_trained = True
    return is_whole


def _name(key: str) -> str | None:
    """Our name for a tensor of the decoder or last layer in smp's files or our own. None for any other tensor."""
    key = key.removeprefix("model.")
    if key.startswith(("decoder.neck.", "decoder.head.", "decoder.network.", "head.")):
        return key
    for theirs, ours in (("segmentation_head.0.", "head."), ("decoder.", "decoder.network.")):
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return None
