"""Random draws of networks, such as stochastic depth, where a batch is processed in parts.

The parts belong to the processes of a distributed training, or are micro-batches of one process. The draws equal those
of the whole batch at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from backbones.mbconv import StochasticDepth
from engine import distributed

if TYPE_CHECKING:
    from timm.layers import DropPath


@dataclass
class Part:
    """The images that a network processes now, of those that this process has of a batch.

    Attributes:
        first: number of the first one.
        of: how many images the process has of the batch; 0 if the network processes all of them at once.
    """

    first: int = 0
    of: int = 0


def draw_for_whole_batch(model: nn.Module) -> Part:
    """Have layers draw the numbers of the whole batch and use those of the images that they process.

    Before each part of a batch the generator must have the same seed. Without this, the first image of each part would
    get the same draws, and the result would depend on the number of parts. The layers are stochastic depth, of this
    package and of timm, and dropout. They are changed in place.

    Returns the part that the layers use, for micro-batches to set.
    """
    from timm.layers import DropPath  # importing timm takes a second, which prediction does not need

    part = Part()
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.forward = partial(_drop_branch, module, part)  # type: ignore[method-assign]
        elif isinstance(module, DropPath):
            module.forward = partial(_drop_path, module, part)  # type: ignore[method-assign]
        elif isinstance(module, nn.Dropout) and module.p:
            module.forward = partial(_drop, module, part)  # type: ignore[method-assign]
    return part


def _kept(x: Tensor, shape: tuple[int, ...], probability: float, part: Part) -> Tensor:
    """Ones with this probability, else zeros, for the images of x: (B, *shape) like x."""
    own = part.of or len(x)
    first = distributed.rank() * own + part.first
    # A single process draws the numbers in the order of the memory of x.
    is_channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if is_channels_last else torch.contiguous_format
    size = (own * distributed.world(), *shape)
    whole = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=order)
    return whole.bernoulli_(probability)[first : first + len(x)]


def _drop_branch(module: StochasticDepth, part: Part, x: Tensor) -> Tensor:
    if not module.training or module.rate == 0:
        return x
    keep = 1 - module.rate
    return x.mul_(_kept(x, (1,) * (x.ndim - 1), keep, part).div_(keep))


def _drop_path(module: DropPath, part: Part, x: Tensor) -> Tensor:
    rate = module.drop_prob or 0.0
    if not module.training or rate == 0:
        return x
    kept = _kept(x, (1,) * (x.ndim - 1), 1 - rate, part)
    return x * (kept.div_(1 - rate) if module.scale_by_keep and rate < 1 else kept)


def _drop(module: nn.Dropout, part: Part, x: Tensor) -> Tensor:
    if not module.training:
        return x
    return x * _kept(x, tuple(x.shape[1:]), 1 - module.p, part).div_(1 - module.p)
