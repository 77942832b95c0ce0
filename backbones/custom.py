"""Networks of the user's own, named `module:function`, with the same interface as all other backbones."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

import torch
from torch import Tensor, nn

from backbones.base import Backbone, Level, blank_images, select
from backbones.compat import architecture_of_extractor, returns_channels_last, unflattened
from backbones.errors import UserError
from backbones.extractors import extractor_levels, fitted, is_extractor, padded, size_multiple

CONTRACT = (
    "the function must return an nn.Module with `levels`, a tuple of Level(channels, stride). Its forward must take "
    "images (B, 3, H, W) and return a list with one map (B, channels, ceil(H / stride), ceil(W / stride)) per level, "
    "or a network of timm that was created with `features_only=True`"
)
CHANNELS = "in_chans"  # keyword of the function for images that have not three channels, as in timm
TEST_SIZE = 97, 130  # height and width of the test image, px: no multiple of a stride


class CustomBackbone(Backbone):
    """The network that `module:function()` returns, reduced to the maps at `strides`.

    For images of another number of channels than 3, it is `module:function(in_chans=N)`.

    A network that timm created with `features_only=True` needs no `levels`: timm states them, and its maps are padded
    and resized as those of `TimmBackbone`.

    Raises UserError if the module, the function, its keyword or a map is absent, and if the network does not fulfil
    `CONTRACT`.
    """

    def __init__(self, name: str, strides: Sequence[int] = (4, 8, 16, 32), input_channels: int = 3) -> None:
        super().__init__()
        self.name, self.input_channels = name, input_channels
        self.network = _create(name, {} if input_channels == 3 else {CHANNELS: input_channels})
        self._is_extractor = is_extractor(self.network)
        levels = extractor_levels(self.network) if self._is_extractor else getattr(self.network, "levels", None)
        if not isinstance(levels, (tuple, list)) or not all(isinstance(level, Level) for level in levels):
            raise UserError(f"'{name}' has the `levels` {levels!r}; {CONTRACT}")
        try:
            self._indices = select(levels, sorted(strides))
        except ValueError as error:
            raise UserError(f"'{name}' cannot serve as a backbone here: {error}") from error
        self.levels = tuple(levels[i] for i in self._indices)
        if self._is_extractor:
            self._size_multiple = size_multiple(self.network, name, max(strides), input_channels)
            self._channels_last = returns_channels_last(self.network)
        self._check_maps()

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> [(B, channels, ceil(H / stride), ceil(W / stride)) for each level]."""
        if not self._is_extractor:
            maps = self.network(images)
            return [maps[i] for i in self._indices]
        maps = self.network(padded(images, self._size_multiple))
        return [
            fitted(maps[i], level, images, self._size_multiple, self._channels_last)
            for i, level in zip(self._indices, self.levels, strict=True)
        ]

    def later_layers(self) -> set[str]:
        """Keys that files of a whole timm network have for its layers after the last map; empty for other networks."""
        name = architecture_of_extractor(self.network) if self._is_extractor else None
        if name is None:
            return set()
        import timm

        own = {unflattened(key).split(".")[0] for key in self.network.state_dict()}
        with torch.device("meta"):
            whole = timm.create_model(name).state_dict()
        return {key for key in whole if key.split(".")[0] not in own}

    @torch.no_grad()
    def _check_maps(self) -> None:
        """Compare the shapes of one small image's maps with `levels`."""
        training = self.network.training
        device = next((p.device for p in self.network.parameters()), None)
        self.network.eval()
        height, width = TEST_SIZE
        try:
            maps = self(blank_images(self, height, width, device=device))
        except Exception as error:  # the network is the user's: it can raise anything
            raise UserError(f"'{self.name}' fails on an image of {height}x{width} pixels: {error!r}") from error
        self.network.train(training)
        for x, level in zip(maps, self.levels, strict=True):
            expected = (1, level.channels, *(-(-side // level.stride) for side in TEST_SIZE))
            if tuple(x.shape) != expected:
                raise UserError(
                    f"'{self.name}' returns a map of shape {tuple(x.shape)} at stride {level.stride} for an image of "
                    f"{height}x{width} pixels, but its `levels` require {expected}; {CONTRACT}"
                )


def _create(name: str, options: Mapping[str, int]) -> nn.Module:
    """Import the module and call the function. Raises UserError if this fails or returns no module."""
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(import_module(module_name), function_name)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"backbone '{name}': the module '{module_name}' cannot be imported ({error}). Python searches the current "
            "folder first, then PYTHONPATH and the installed packages."
        ) from error
    except AttributeError as error:
        raise UserError(f"backbone '{name}': the module '{module_name}' has no '{function_name}'") from error
    if options and not _accepts(function, options):
        raise UserError(
            f"backbone '{name}': the images have {options[CHANNELS]} channels, but '{function_name}' has no keyword "
            f"`{CHANNELS}` for their number"
        )
    network = function(**options)
    if not isinstance(network, nn.Module):
        raise UserError(f"'{name}' returns a {type(network).__name__}; {CONTRACT}")
    return network


def _accepts(function: Callable[..., object], options: Mapping[str, int]) -> bool:
    """Whether the function can be called with these keywords alone. If its signature is not known, it may."""
    with contextlib.suppress(ValueError):
        try:
            inspect.signature(function).bind(**options)
        except TypeError:
            return False
    return True
