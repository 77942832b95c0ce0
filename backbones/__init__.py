"""Networks and necks: pure modules that know nothing of tasks. Importing this package does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backbones.base import Backbone, Level
    from backbones.inference import prepare_for_inference
    from backbones.necks import create_neck

__all__ = ["Backbone", "Level", "create_backbone", "create_neck", "list_backbones", "prepare_for_inference"]

_EXPORTS = {
    "Backbone": "backbones.base",
    "Level": "backbones.base",
    "create_neck": "backbones.necks",
    "prepare_for_inference": "backbones.inference",
}


def create_backbone(
    name: str, pretrained: bool | str | Path = False, strides: Sequence[int] = (4, 8, 16, 32)
) -> Backbone:
    """The network `name`, or `NAME.TAG` to select among its published weights, with one map for each of `strides`.

    Args:
        name: a name of `list_backbones()`. The EfficientNets B0-B8, L2 and Lite0-4 are this package's, others timm's.
            Or `module:function` for one of your own, see `backbones.own`; or an AmoebaNet of any size, see
            `backbones.amoebanet`.
        pretrained: False for random weights, True for published ones, or the path of a weight file.
        strides: strides of the maps.

    Raises UserError for an unknown name or tag or a network without such maps, BadInput where the weights are absent
    or do not fit; weights never fall back to random ones.
    """
    from backbones.adapter import build_backbone
    from backbones.weights import load_weights

    backbone = build_backbone(name, strides)
    backbone.provenance = load_weights(backbone, name, pretrained)
    return backbone


def list_backbones(pattern: str = "*") -> list[str]:
    """Names that match the shell pattern `pattern`, sorted. No network is built."""
    from backbones.adapter import backbone_names

    return backbone_names(pattern)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'backbones' has no attribute '{name}'")
    return getattr(import_module(_EXPORTS[name]), name)
