"""Backbones whose last stage keeps the resolution of the one before: output stride 16, as DeepLab wants it.

The last stride becomes a dilation (arXiv:1606.00915, section 3.1). Weights are the same, for every kernel stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from torch import nn

from backbones.adapter import TimmBackbone, build_backbone
from backbones.base import Backbone, Level
from backbones.efficientnet import EfficientNet
from backbones.errors import UserError
from backbones.weights import load_weights

COARSEST, STRIDE = 32, 16  # of the last map before and after


def create_dilated(name: str, pretrained: bool | str | Path = False, strides: Sequence[int] = (4,)) -> Backbone:
    """The network `name` with the maps of `strides` (finer than 16) and its last one, at stride 16 in place of 32.

    Raises UserError for a network that cannot be dilated, and what `create_backbone` raises.
    """
    backbone = build_backbone(name, (*strides, COARSEST))
    last = backbone.levels[-1]
    if isinstance(backbone, EfficientNet):
        _dilate(backbone)
    elif isinstance(backbone, TimmBackbone):
        backbone.network = _dilated_by_timm(backbone)
    else:
        raise UserError(f"'{name}' cannot be dilated to stride {STRIDE}: no way is known for its kind")
    backbone.levels = (*backbone.levels[:-1], Level(last.channels, STRIDE))
    backbone.provenance = load_weights(backbone, name, pretrained)
    return backbone


def _dilate(network: EfficientNet) -> None:
    """Undo the last stride; what follows it reads every second pixel, which is what it saw before.

    As timm's `EfficientNetBuilder` does for `output_stride=16`: the block that had the stride is not dilated itself.
    """
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)]
    last = max(index for index, conv in enumerate(convs) if conv.stride != (1, 1))
    convs[last].stride = (1, 1)
    for conv in convs[last + 1 :]:
        conv.dilation = (2, 2)
        conv.padding = tuple(2 * (side // 2) for side in conv.kernel_size)


def _dilated_by_timm(backbone: TimmBackbone) -> nn.Module:
    """Timm's own dilated form of the network, with the same maps."""
    wanted: Any = backbone.network.feature_info
    try:
        network = timm.create_model(
            backbone.name, features_only=True, output_stride=STRIDE, out_indices=tuple(wanted.out_indices)
        )
    except (TypeError, AssertionError, RuntimeError, ValueError, NotImplementedError) as error:
        raise _cannot(backbone.name) from error
    info: Any = network.feature_info
    if info.reduction()[-1] != STRIDE:
        raise _cannot(backbone.name)
    return network


def _cannot(name: str) -> UserError:
    return UserError(
        f"'{name}' cannot be dilated to stride {STRIDE}, which this decoder needs: timm has no such form of it. Take a "
        "ResNet, an EfficientNet or a ConvNeXt, or another decoder."
    )
