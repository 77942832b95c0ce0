"""Backbones with output stride 16, which DeepLab uses: the last stage has the resolution of the stage before it.

A dilation replaces the last stride (arXiv:1606.00915, section 3.1). Kernels keep their shape, so that the weights of
the original network load.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from backbones.adapter import TimmBackbone, build_backbone, timm_channels
from backbones.architecture import is_efficientnet
from backbones.base import Backbone, Level
from backbones.compat import feature_indices
from backbones.efficientnet import EfficientNet
from backbones.errors import UserError
from backbones.factory import create_backbone, set_weights
from backbones.names import split_tag

COARSEST, STRIDE = 32, 16  # stride of the last map, before and after


def create_dilated(
    name: str,
    pretrained: bool | str | Path = False,
    strides: Sequence[int] = (4,),
    channels: int = 3,
    stochastic_depth: float | None = None,
) -> Backbone:
    """Create the backbone `name` with maps at `strides` and its last map at stride 16 instead of 32.

    All `strides` must be finer than 16.

    Arguments and errors are those of `create_backbone`. Also raises UserError for a network that cannot be dilated.
    """
    if _is_plain(split_tag(name)[0]):  # has a map at stride 16
        return create_backbone(name, pretrained, (*strides, STRIDE), channels, stochastic_depth)
    backbone = build_backbone(name, (*strides, COARSEST), channels, stochastic_depth)
    last = backbone.levels[-1]
    if isinstance(backbone, EfficientNet):
        _dilate(backbone)
    elif isinstance(backbone, TimmBackbone):
        backbone.network = _dilated_by_timm(backbone, stochastic_depth)
    else:
        raise UserError(
            f"'{name}' cannot be dilated to stride {STRIDE}: "
            "this is implemented for EfficientNet and networks of timm only"
        )
    backbone.levels = (*backbone.levels[:-1], Level(last.channels, STRIDE))
    set_weights(backbone, name, pretrained)
    return backbone


def _is_plain(architecture: str) -> bool:
    if is_efficientnet(architecture):
        return False
    from backbones.plain import is_plain  # imports timm

    return is_plain(architecture)


def _dilate(network: EfficientNet) -> None:
    """Set the last stride to 1 and dilate the convolutions after it, in place.

    Every convolution then reads the same pixels as before. Follows timm's `EfficientNetBuilder` with
    `output_stride=16`: the convolution that had the stride is not dilated itself.
    """
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)]
    last = max(index for index, conv in enumerate(convs) if conv.stride != (1, 1))
    convs[last].stride = (1, 1)
    for conv in convs[last + 1 :]:
        conv.dilation = (2, 2)
        conv.padding = tuple(2 * (side // 2) for side in conv.kernel_size)


def _dilated_by_timm(backbone: TimmBackbone, stochastic_depth: float | None) -> nn.Module:
    """The dilated version of the network in timm, with the same maps. Raises UserError if timm has none."""
    options: dict[str, Any] = {"drop_path_rate": stochastic_depth} if stochastic_depth else {}
    options |= {"out_indices": feature_indices(backbone.network), **timm_channels(backbone.input_channels)}
    try:
        import timm

        network = timm.create_model(backbone.name, features_only=True, output_stride=STRIDE, **options)
    except (TypeError, AssertionError, RuntimeError, ValueError, NotImplementedError) as error:
        raise _no_dilated_version(backbone.name) from error
    info: Any = network.feature_info
    if info.reduction()[-1] != STRIDE:
        raise _no_dilated_version(backbone.name)
    return network


def _no_dilated_version(name: str) -> UserError:
    return UserError(
        f"'{name}' cannot be dilated to stride {STRIDE}, which this decoder needs: timm has no dilated version of it. "
        "Choose a ResNet, an EfficientNet or a ConvNeXt, or another decoder."
    )
