"""All that engine uses of torch and Lightning beyond their documented interfaces.

What to look at when one of them changes, tests/engine/test_compat.py says.
"""

from __future__ import annotations

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

__all__ = ["BatchNorm", "TorchCheckpointIO", "copy_all_", "lerp_all_"]


def lerp_all_(tensors: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """Move each tensor in place by the share `weight` of its way to `ends`, in one kernel for all of them.

    Equals `tensor.lerp_(end, weight)` for each; torch's optimisers use the same kernels.
    """
    torch._foreach_lerp_(tensors, ends, weight)


def copy_all_(tensors: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each of `sources` into the tensor at its place: `tensor.copy_(source)` for each, in one kernel."""
    torch._foreach_copy_(tensors, sources)
