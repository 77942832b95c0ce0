"""Random draws of networks, such as stochastic depth, in a distributed training. They equal those of one process."""

from __future__ import annotations

from functools import partial

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from backbones.mbconv import StochasticDepth
from engine import distributed


def draw_for_whole_batch(model: nn.Module) -> None:
    """Have each process draw the numbers of the whole batch and use those of its own images.

    All processes have the same seed. Without this, the first image of each process would get the same draws, and the
    result would depend on the number of processes. The layers are stochastic depth, of this package and of timm, and
    dropout. They are changed in place.
    """
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.forward = partial(_drop_branch, module)  # type: ignore[method-assign]
        elif isinstance(module, DropPath):
            module.forward = partial(_drop_path, module)  # type: ignore[method-assign]
        elif isinstance(module, nn.Dropout) and module.p:
            module.forward = partial(_drop, module)  # type: ignore[method-assign]


def _kept(x: Tensor, shape: tuple[int, ...], probability: float) -> Tensor:
    """Ones with this probability, else zeros, for the images of this process: (B, *shape) like x."""
    images = len(x)
    first = distributed.rank() * images
    # A single process draws the numbers in the order of the memory of x.
    is_channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if is_channels_last else torch.contiguous_format
    size = (images * distributed.world(), *shape)
    whole = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=order)
    return whole.bernoulli_(probability)[first : first + images]


def _drop_branch(module: StochasticDepth, x: Tensor) -> Tensor:
    if not module.training or module.rate == 0:
        return x
    keep = 1 - module.rate
    return x.mul_(_kept(x, (1,) * (x.ndim - 1), keep).div_(keep))


def _drop_path(module: DropPath, x: Tensor) -> Tensor:
    rate = module.drop_prob or 0.0
    if not module.training or rate == 0:
        return x
    kept = _kept(x, (1,) * (x.ndim - 1), 1 - rate)
    return x * (kept.div_(1 - rate) if module.scale_by_keep and rate < 1 else kept)


def _drop(module: nn.Dropout, x: Tensor) -> Tensor:
    if not module.training:
        return x
    return x * _kept(x, tuple(x.shape[1:]), 1 - module.p).div_(1 - module.p)
