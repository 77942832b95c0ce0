"""Backbones by name, with their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backbones.adapter import backbone_names, build_backbone
from backbones.base import Backbone
from backbones.names import split_tag


def create_backbone(
    name: str,
    pretrained: bool | str | Path = False,
    strides: Sequence[int] = (4, 8, 16, 32),
    channels: int = 3,
    stochastic_depth: float | None = None,
) -> Backbone:
    """Create the backbone `name` with one feature map at each of `strides`.

    Args:
        name: a name of `list_backbones()`, or `NAME.TAG` to select among its published weights. EfficientNet B0-B8, L2
            and Lite0-4 are implemented in this package, other networks in timm. `module:function` is a network of your
            own, see `backbones.custom`. `amoebanet_b_nCELLS_fFILTERS` is an AmoebaNet of any size, see
            `backbones.amoebanet`.
        pretrained: False for random weights, True for published weights, or the path of a weight file.
        strides: strides of the maps, in any order; the maps are returned finest first.
        channels: number of channels of the images. The first convolution of weights for RGB is repeated over the
            channels and scaled, as in timm.
        stochastic_depth: drop rate of the last residual branch in training, rising from 0 at the first; None for the
            network's own rate.

    Raises UserError for an unknown name or tag, for a network without maps at `strides`, and for `stochastic_depth` on
    a network without residual branches. Raises BadInput if weights are absent or do not fit the network: random weights
    never replace them silently.
    """
    backbone = build_backbone(name, strides, channels, stochastic_depth)
    set_weights(backbone, name, pretrained)
    return backbone


def set_weights(backbone: Backbone, name: str, pretrained: bool | str | Path) -> None:
    """Load weights into the backbone `name` and record their provenance, see `backbones.weights.load_weights`.

    That module imports timm, which takes a second. A backbone with random weights needs neither.
    """
    if pretrained is False and split_tag(name)[1] is None:
        return
    from backbones.weights import load_weights

    backbone.provenance = load_weights(backbone, name, pretrained)


def list_backbones(pattern: str = "*") -> list[str]:
    """Names of backbones that match the shell pattern `pattern`, sorted. Builds no network."""
    return backbone_names(pattern)
