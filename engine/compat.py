"""Private or undocumented parts of torch and Lightning that engine uses.

tests/engine/test_compat.py checks each of them. If one changes, the failure message names the code to look at.
"""

from __future__ import annotations

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

__all__ = ["BatchNorm", "TorchCheckpointIO", "copy_all_", "lerp_all_"]


def lerp_all_(tensors: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """Interpolate each tensor in place: `tensor.lerp_(end, weight)` for each pair, in one kernel for all of them.

    torch's optimisers use the same kernels.
    """
    torch._foreach_lerp_(tensors, ends, weight)


def copy_all_(tensors: list[Tensor], sources: list[Tensor]) -> None:
    """Copy tensors in place: `tensor.copy_(source)` for each pair, in one kernel for all of them."""
    torch._foreach_copy_(tensors, sources)
