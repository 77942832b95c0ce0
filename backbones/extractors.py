"""Feature extractors of timm: their levels, and maps of the sizes that `Backbone` requires."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Level
from backbones.errors import UserError


def is_extractor(network: nn.Module) -> bool:
    """Whether timm made the network with `features_only=True`."""
    info = getattr(network, "feature_info", None)
    return hasattr(info, "reduction") and hasattr(info, "channels")


def extractor_levels(network: nn.Module) -> tuple[Level, ...]:
    """The levels of the maps that an extractor returns, in its order."""
    info: Any = network.feature_info
    return tuple(Level(channels, stride) for channels, stride in zip(info.channels(), info.reduction(), strict=True))


def padded(images: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W) with zeros at the bottom and right, so that H and W are multiples of `multiple`."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple))


def fitted(x: Tensor, level: Level, images: Tensor, multiple: int, channels_last: bool) -> Tensor:
    """An extractor's map with the size (B, C, ceil(H / stride), ceil(W / stride)) that `level` requires.

    Args:
        x: the map of `padded(images, multiple)`: (B, C, h, w), or (B, h, w, C) if `channels_last`. Maps of networks
            without padding are a few cells too small, and are resized bilinearly.
        level: channels and stride of the map.
        images: (B, C, H, W), before padding.
        multiple: see `size_multiple`.
        channels_last: whether the channels are the last dimension of the map.
    """
    rows, columns = (-(-side // level.stride) for side in images.shape[-2:])
    x = x.permute(0, 3, 1, 2) if channels_last else x
    x = x[:, :, :rows, :columns] if multiple > 1 else x
    return x if x.shape[-2:] == (rows, columns) else F.interpolate(x, (rows, columns), mode="bilinear")


def size_multiple(network: nn.Module, name: str, stride: int, channels: int) -> int:
    """1 if the extractor accepts images of `channels` of any size, `stride` if image sides must be multiples of it.

    Tries both, on the device of the network, in evaluation mode. Raises UserError if neither works.
    """
    training, device = network.training, next(network.parameters()).device
    for multiple in (1, stride):
        height, width = (side + -side % multiple for side in (333, 500))
        try:
            with torch.no_grad():
                network.eval()(torch.zeros(1, channels, height, width, device=device))
            network.train(training)
            return multiple
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = error
    raise fixed_size(name, height, width, f"{type(reason).__name__}: {str(reason)[:100]}")


def fixed_size(name: str, height: int, width: int, reason: str) -> UserError:
    """The error for a network that fails on an image of another size than its own. The caller raises it."""
    return UserError(
        f"'{name}' cannot serve as a backbone: it does not accept images of any size, which every task needs. An image "
        f"of {height}x{width} pixels failed: {reason}."
    )
