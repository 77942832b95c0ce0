"""The interface of every backbone and neck: a tuple of levels, and one feature map for each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from backbones.provenance import Provenance


@dataclass(frozen=True)
class Level:
    """One feature map of a pyramid.

    Attributes:
        channels: number of channels.
        stride: side of the square of input pixels that one cell of the map stands for.
    """

    channels: int
    stride: int


class Backbone(nn.Module):
    """A network that computes a pyramid of feature maps from images.

    `forward(images)` takes (B, C, H, W) floats of any size. With the three channels of RGB, they are normalised with
    `provenance.mean` and `provenance.std`. It returns one (B, channels, ceil(H / stride), ceil(W / stride)) map for
    each of `levels`, finest first.

    Attributes:
        name: the name it was created with.
        input_channels: C, the number of channels of the images.
        levels: channels and stride of each map, finest first.
        provenance: where its weights come from. By default random weights, with the normalisation that timm states for
            the network.
    """

    name: str
    input_channels: int = 3
    levels: tuple[Level, ...]
    _provenance: Provenance | None = None

    @property
    def provenance(self) -> Provenance:
        if self._provenance is None:
            from backbones.provenance import random_provenance  # imports timm

            self._provenance = random_provenance(self.name)
        return self._provenance

    @provenance.setter
    def provenance(self, provenance: Provenance) -> None:
        self._provenance = provenance

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> [(B, channels, ceil(H / stride), ceil(W / stride)) for each level]."""
        raise NotImplementedError

    @property
    def trunk(self) -> nn.Module:
        """The part that pretrained weights fill, which the protocol "frozen" freezes. By default the whole network."""
        return self

    def keep_levels(self, strides: Sequence[int]) -> None:
        """Remove layers that only levels at other strides need. By default nothing is removed."""

    def adaptation(self) -> str | None:
        """How the pyramid was added to a network that has none, for the record; None for all others."""
        return None


class Neck(nn.Module):
    """Fuses the maps of a pyramid into another pyramid, for images of any size.

    Attributes:
        levels: channels and stride of each output map, finest first.
    """

    levels: tuple[Level, ...]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[(B, C, ceil(H / stride), ceil(W / stride)) of the input levels] -> the same for `self.levels`."""
        raise NotImplementedError


@dataclass
class CachedFeatures:
    """A backbone's maps of a batch of images, stored so that training can skip the backbone.

    A model accepts them instead of the images and computes the rest of its forward pass from them.

    Attributes:
        maps: [(B, C, H', W') or (B, C)], the result of the model's `maps(images)`.
        size: (H, W) of the images, px.
    """

    maps: list[Tensor]
    size: tuple[int, int]

    @property
    def shape(self) -> torch.Size:
        """Shape of the images: (B, 3, H, W), as if they were RGB, since the number of channels is not stored."""
        return torch.Size((len(self), 3, *self.size))

    def __len__(self) -> int:
        return len(self.maps[0])

    def __getitem__(self, images: slice) -> CachedFeatures:
        """The maps of some of the images, as views."""
        return self._map(lambda x: x[images])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> CachedFeatures:
        """A copy on `device`."""
        return self._map(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> CachedFeatures:
        """A copy in page-locked memory."""
        return self._map(lambda x: x.pin_memory())

    def share_memory_(self) -> CachedFeatures:
        """The same maps, moved to memory that other processes can read."""
        return self._map(lambda x: x.share_memory_())

    def _map(self, change: Callable[[Tensor], Tensor]) -> CachedFeatures:
        return CachedFeatures([change(x) for x in self.maps], self.size)


def blank_images(model: nn.Module, height: int, width: int, count: int = 1, **options: Any) -> Tensor:
    """Zeros of the shape of the images that a model takes, (count, C, height, width).

    C is `input_channels` of the model or of its `backbone`, and 3 if neither states it. `options` are those of
    `torch.zeros`.
    """
    part = model if hasattr(model, "input_channels") else getattr(model, "backbone", None)
    return torch.zeros(count, getattr(part, "input_channels", 3), height, width, **options)


def select(levels: Sequence[Level], strides: Sequence[int]) -> list[int]:
    """Indices of the levels with the given strides. If several levels share a stride, the last one is selected.

    Raises ValueError if no level has one of the strides.
    """
    index = {level.stride: i for i, level in enumerate(levels)}
    missing = [stride for stride in strides if stride not in index]
    if missing:
        raise ValueError(f"no level at stride {missing}; the strides are {sorted(index)}")
    return [index[stride] for stride in strides]


def pyramid_strides(neck: nn.Module) -> list[int]:
    """Strides of a neck's output maps, finest first."""
    return [level.stride for level in neck.levels]  # type: ignore[union-attr]


def neck_inputs(backbone: nn.Module, neck: nn.Module) -> list[int]:
    """Indices of the backbone's levels that a neck takes: those at the strides of its maps that the backbone has."""
    coarsest = max(level.stride for level in backbone.levels)  # type: ignore[union-attr]
    return select(backbone.levels, [s for s in pyramid_strides(neck) if s <= coarsest])  # type: ignore[arg-type]


def trunk_of(backbone: nn.Module) -> nn.Module:
    """`Backbone.trunk`, or the network itself if it is not a Backbone, such as that of a classifier without a neck."""
    return backbone.trunk if isinstance(backbone, Backbone) else backbone


def adaptation_of(backbone: nn.Module) -> str | None:
    """`Backbone.adaptation`; None for a network that is no Backbone."""
    return backbone.adaptation() if isinstance(backbone, Backbone) else None
