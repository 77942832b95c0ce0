"""Weights of plain transformers: files of other libraries and for other image sizes, and the layers of the pyramid."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import Tensor, nn

from backbones.base import trunk_of
from backbones.compat import converted_by_timm
from backbones.errors import BadInput
from backbones.plain import PlainBackbone
from backbones.weight_formats import is_class_layer, locate

logger = logging.getLogger(__name__)


def locate_transformer(
    network: nn.Module, state: dict[str, Tensor], whole: Mapping[str, Tensor], names: dict[str, str], origin: str
) -> tuple[str, dict[str, Tensor], dict[str, str]]:
    """`weight_formats.locate` for a plain transformer, in every file that timm can read.

    These are files of the authors of DINOv2, DINOv3, CLIP, SAM and others. Position embeddings for another number of
    patches are resampled, with a warning in the log.

    Args:
        network: a PlainBackbone, or a classifier of timm.
        state: the tensors of the file.
        whole: state dict of the whole network in timm.
        names: keys of the network's state dict -> keys in published files.
        origin: the file, for messages.
    """
    trunk = trunk_of(network)
    try:
        file_format, part, found = locate(state, whole, names, origin)
    except BadInput:
        converted = converted_by_timm(trunk, state)
        if converted is None or not set(names.values()) & converted.keys():
            raise
        return "converted by timm", converted, names
    own = network.state_dict()
    expected = {name: own[key] for key, name in found.items() if not is_class_layer(name)}
    if all(name in part and part[name].shape == value.shape for name, value in expected.items()):
        return file_format, part, found
    converted = converted_by_timm(trunk, part)
    if converted is None:
        return file_format, part, found
    resampled = [name for name in expected if name in part and name in converted]
    resampled = [name for name in resampled if part[name].shape != converted[name].shape]
    if resampled:
        logger.warning(
            "%s: %d tensors resampled for the image size of the network, such as %s from %s to %s",
            origin, len(resampled), resampled[0], tuple(part[resampled[0]].shape), tuple(expected[resampled[0]].shape),
        )  # fmt: skip
    return file_format, converted, found


def load_pyramid(backbone: PlainBackbone, state: Mapping[str, Tensor], origin: str) -> None:
    """Load the pyramid's layers from a run, if it has them. Published weights have none.

    Logs a warning if some start from random values.
    """
    own = backbone.pyramid.state_dict()
    loaded = {
        key: state[name]
        for key in own
        for name in (f"model.backbone.pyramid.{key}", f"backbone.pyramid.{key}", f"pyramid.{key}")
        if name in state and state[name].shape == own[key].shape
    }
    if len(loaded) < len(own):
        logger.warning(
            "%s: %d of %d tensors of the feature pyramid are not in the weights and start from random values",
            origin, len(own) - len(loaded), len(own),
        )  # fmt: skip
    backbone.pyramid.load_state_dict(own | loaded)
