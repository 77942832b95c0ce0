"""Networks of one's own, by the name `module:function`, behind the same contract as all others."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import torch
from torch import Tensor, nn

from backbones.base import Backbone, Level, select
from backbones.errors import UserError

CONTRACT = (
    "it has to return an nn.Module with `levels`, a tuple of Level(channels, stride), whose forward takes (B, 3, H, W) "
    "and returns a list with a (B, channels, ceil(H / stride), ceil(W / stride)) map for each of them"
)
PROBE = 97, 130  # height and width, neither a multiple of a stride


def is_custom(name: str) -> bool:
    """Whether a backbone's name is `module:function`."""
    return ":" in name


class CustomBackbone(Backbone):
    """What `module:function` returns, with the maps that are asked for.

    Raises UserError where the module, the function or a map is absent, and where the network is not as `CONTRACT` says.
    """

    def __init__(self, name: str, strides: Sequence[int] = (4, 8, 16, 32)) -> None:
        super().__init__()
        self.name = name
        self.network = _call(name)
        levels = getattr(self.network, "levels", None)
        if not isinstance(levels, (tuple, list)) or not all(isinstance(level, Level) for level in levels):
            raise UserError(f"{name}: its `levels` are {levels!r}; {CONTRACT}")
        try:
            self._taken = select(levels, sorted(strides))
        except ValueError as error:
            raise UserError(f"'{name}' cannot serve as a backbone here: {error}") from error
        self.levels = tuple(levels[i] for i in self._taken)
        self._check()

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, channels, ceil(H / stride), ceil(W / stride)) for each level]."""
        maps = self.network(images)
        return [maps[i] for i in self._taken]

    @torch.no_grad()
    def _check(self) -> None:
        """Compare the maps of one small image with `levels`."""
        training = self.network.training
        device = next((p.device for p in self.network.parameters()), None)
        self.network.eval()
        try:
            maps = self(torch.zeros(1, 3, *PROBE, device=device))
        except Exception as error:  # the network is the user's: it can raise anything
            raise UserError(f"{self.name} fails on an image of {PROBE[0]}x{PROBE[1]} pixels: {error!r}") from error
        self.network.train(training)
        for x, level in zip(maps, self.levels, strict=True):
            expected = (1, level.channels, *(-(-side // level.stride) for side in PROBE))
            if tuple(x.shape) != expected:
                raise UserError(
                    f"{self.name}: its map at stride {level.stride} is {tuple(x.shape)} for an image of {PROBE[0]}x"
                    f"{PROBE[1]} pixels, where {expected} is due; {CONTRACT}"
                )


def _call(name: str) -> nn.Module:
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(import_module(module_name), function_name)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"backbone '{name}': {module_name or 'nothing'} cannot be imported ({error}). It is looked for as Python "
            "looks for modules, in the current folder first."
        ) from error
    except AttributeError as error:
        raise UserError(f"backbone '{name}': {module_name} has no '{function_name}'") from error
    network = function()
    if not isinstance(network, nn.Module):
        raise UserError(f"{name} returns a {type(network).__name__}; {CONTRACT}")
    return network
