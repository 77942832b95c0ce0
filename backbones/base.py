"""What every backbone and neck promises: named levels, and one feature map for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from backbones.provenance import Provenance


@dataclass(frozen=True)
class Level:
    """One feature map: its channels, and how many input pixels one of its cells spans along each side."""

    channels: int
    stride: int


class Backbone(nn.Module):
    """A network that turns images into a pyramid.

    `forward(images)` takes (B, 3, H, W) floats, normalised with `provenance.mean` and `.std`, of any size, and returns
    one (B, channels, ceil(H / stride), ceil(W / stride)) map for each of `levels`, finest first.
    """

    name: str
    levels: tuple[Level, ...]
    provenance: Provenance

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, channels, ceil(H / stride), ceil(W / stride)) for each level]."""
        raise NotImplementedError


@dataclass
class CachedFeatures:
    """Maps that a network's backbone gave for images, in the place of these: the network goes on from them.

    maps: [(B, C, H', W') or (B, C)], what the network's `maps(images)` returned.
    size: (H, W) of the images.
    """

    maps: list[Tensor]
    size: tuple[int, int]

    @property
    def shape(self) -> torch.Size:
        """Of the images."""
        return torch.Size((len(self), 3, *self.size))

    def __len__(self) -> int:
        return len(self.maps[0])

    def __getitem__(self, images: slice) -> CachedFeatures:
        """Those of some of the images, as views."""
        return self._map(lambda x: x[images])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> CachedFeatures:
        """The same on `device`."""
        return self._map(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> CachedFeatures:
        """The same in page-locked memory."""
        return self._map(lambda x: x.pin_memory())

    def share_memory_(self) -> CachedFeatures:
        """The same in memory that other processes can read."""
        return self._map(lambda x: x.share_memory_())

    def _map(self, change: Callable[[Tensor], Tensor]) -> CachedFeatures:
        return CachedFeatures([change(x) for x in self.maps], self.size)


def early_parameters(backbone: Backbone, stride: int) -> list[nn.Parameter]:
    """The parameters that the map at `stride` depends on: stem and first stages, found by following a gradient.

    Raises ValueError where the backbone has no level at that stride.
    """
    index = select(backbone.levels, [stride])[0]
    training = backbone.training
    backbone.eval()
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    device = parameters[0].device if parameters else "cpu"
    with torch.enable_grad():
        early = backbone(torch.zeros(1, 3, 128, 128, device=device))[index].sum()
    gradients = torch.autograd.grad(early, parameters, allow_unused=True)
    backbone.train(training)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


class Neck(nn.Module):
    """Fuses the maps of a pyramid: a list in, a list out, for any input size.

    `levels` are the maps that come out, finest first.
    """

    levels: tuple[Level, ...]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[(B, C, ceil(H / stride), ceil(W / stride)) of the input levels] -> the same for `self.levels`."""
        raise NotImplementedError


def select(levels: Sequence[Level], strides: Sequence[int]) -> list[int]:
    """Indices of the levels with the given strides. Levels are picked by stride, never by position.

    Raises ValueError where a stride is missing.
    """
    index = {level.stride: i for i, level in enumerate(levels)}
    missing = [stride for stride in strides if stride not in index]
    if missing:
        raise ValueError(f"no level at stride {missing}; there are levels at {sorted(index)}")
    return [index[stride] for stride in strides]
