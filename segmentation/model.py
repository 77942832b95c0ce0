"""The segmenter: backbone, decoder, last layer. A plain module that knows nothing of data or training."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from backbones import create_backbone
from backbones.base import Backbone, CachedFeatures, select
from backbones.dilation import create_dilated
from backbones.errors import BadInput, UserError
from backbones.scaling import scale_of
from backbones.weights import load_weights, read_state
from segmentation.decoders import PyramidDecoder, SmpDecoder, Spec, last_layer, spec_of

logger = logging.getLogger(__name__)


class Segmenter(nn.Module):
    """A class for every pixel of an image.

    Args:
        backbone: gives at least the strides of `spec`.
        decoder: `decoder(size, maps)` -> features, for the maps of images of that height and width.
        head: features -> logits.
        spec: what the decoder wants and gives.
    """

    def __init__(self, backbone: Backbone, decoder: nn.Module, head: nn.Conv2d, spec: Spec) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.head = head
        self.spec = spec
        self._taken = select(backbone.levels, _available(backbone, spec))

    def forward(self, images: Tensor | CachedFeatures) -> Tensor:
        """(B, 3, H, W) normalised floats, any H and W -> logits (B, K, H, W)."""
        logits, (height, width) = self.coarse(images), images.shape[-2:]
        if self.spec.stride > 1:
            size = [side * self.spec.stride for side in logits.shape[-2:]]
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=self.spec.corners)
        return logits[..., :height, :width]

    def coarse(self, images: Tensor | CachedFeatures) -> Tensor:
        """(B, 3, H, W) normalised floats -> logits before they are enlarged, (B, K, h, w).

        They cover the padded input: h is ceil(H / multiple) * multiple / stride, for multiples of the stride.
        """
        height, width = (side + self._missing(side) for side in images.shape[-2:])
        return self.head(self.decoder((height, width), self.maps(images)))

    def maps(self, images: Tensor | CachedFeatures) -> list[Tensor]:
        """The backbone's maps that the decoder takes, of the padded input."""
        if isinstance(images, CachedFeatures):
            return images.maps
        height, width = images.shape[-2:]
        maps = self.backbone(F.pad(images, (0, self._missing(width), 0, self._missing(height))))
        return [maps[i] for i in self._taken]

    def _missing(self, side: int) -> int:
        """Pixels from a side of the input to one that the decoder can take."""
        return -side % self.spec.multiple


def create_segmenter(
    backbone: str | Backbone,
    num_classes: int,
    decoder: str = "bifpn",
    phi: int | str = 0,
    pretrained: bool | str | Path = False,
) -> Segmenter:
    """A segmentation network: EfficientDet's, or one with a decoder of segmentation-models-pytorch.

    Args:
        backbone: a name of `list_backbones()`, or a module.
        num_classes: K.
        decoder: a name of `segmentation.decoders.DECODERS`.
        phi: sets width, layers, fusion and activation of EfficientDet's decoder: 0..7, "7x", "lite0".."lite4". Never
            changes the backbone, nor another decoder.
        pretrained: True for the backbone's published weights; a path for a file of them, or for a whole segmenter's
            in smp's or our own format. The class layer is dropped, and logged, where class counts differ.

    Raises UserError for unknown names and for a backbone that cannot serve the decoder, BadInput where weights are
    absent or do not fit.
    """
    spec, scale = spec_of(decoder), scale_of(phi)
    if isinstance(backbone, str):
        backbone = _backbone(backbone, spec, pretrained)
    elif not isinstance(pretrained, bool):
        backbone.provenance = load_weights(backbone, backbone.name, pretrained)
    levels = [backbone.levels[i] for i in select(backbone.levels, _available(backbone, spec))]
    network = PyramidDecoder(levels, scale) if spec.build is None else SmpDecoder(spec, levels)
    segmenter = Segmenter(backbone, network, last_layer(spec, network.channels, num_classes), spec)
    if not isinstance(pretrained, bool):
        _load(segmenter, read_state(pretrained), str(pretrained))
    return segmenter


def _backbone(name: str, spec: Spec, pretrained: bool | str | Path) -> Backbone:
    if spec.dilated:
        return create_dilated(name, pretrained, spec.strides[:-1])
    try:
        return create_backbone(name, pretrained, spec.strides)
    except BadInput:
        raise
    except UserError:
        if spec.strides[0] != 2:
            raise
        return create_backbone(name, pretrained, spec.strides[1:])  # ConvNeXt, Swin and others begin at stride 4


def _available(backbone: Backbone, spec: Spec) -> tuple[int, ...]:
    """The strides that the decoder takes from this backbone."""
    return tuple(s for s in spec.strides if s != 2 or any(level.stride == 2 for level in backbone.levels))


def _load(segmenter: Segmenter, state: Mapping[str, Tensor], file: str) -> None:
    """Fill decoder and last layer, where the file has them; the backbone has its weights already. Raises BadInput."""
    given = {new: value for key, value in state.items() if (new := _name(key)) is not None}
    if not any(key.startswith("decoder.") for key in given):
        return  # a backbone alone, or another task's run
    own = segmenter.state_dict()
    for key in ("head.weight", "head.bias"):
        if key in given and given[key].shape != own[key].shape and given[key].shape[1:] == own[key].shape[1:]:
            logger.warning("%s: '%s' dropped, since the number of classes differs", file, key)
            given[key] = own[key]
    wanted = {key for key in own if not key.startswith("backbone.")}
    wrong = sorted(
        key for key in wanted | given.keys()
        if (key not in own or key not in given or own[key].shape != given[key].shape)
        and not key.endswith("num_batches_tracked")
    )  # fmt: skip
    if wrong and any(key.startswith("model.backbone.") for key in state):
        logger.warning("%s: a run with another decoder; only its backbone is used", file)
        return
    if wrong:
        raise BadInput(
            f"{file} holds another decoder than the one asked for: {len(wrong)} of its tensors are missing, unknown or "
            f"of another shape, such as {', '.join(wrong[:2])}. Name the decoder with --decoder."
        )
    segmenter.load_state_dict(own | given)


def _name(key: str) -> str | None:
    """Our name of a tensor of decoder or last layer in smp's files and our own; None for any other."""
    key = key.removeprefix("model.")
    if key.startswith(("decoder.neck.", "decoder.head.", "decoder.network.", "head.")):
        return key
    for theirs, ours in (("segmentation_head.0.", "head."), ("decoder.", "decoder.network.")):
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return None
