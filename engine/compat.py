"""Private or undocumented parts of torch and Lightning that engine uses.

tests/engine/test_compat.py checks each of them. If one changes, the failure message names the code to look at.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["BatchNorm", "copy_all_", "lerp_all_", "stop_without_lightning", "without_compilation"]


def lerp_all_(tensors: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """Interpolate each tensor in place: `tensor.lerp_(end, weight)` for each pair, in one kernel for all of them.

    torch's optimisers use the same kernels.
    """
    torch._foreach_lerp_(tensors, ends, weight)


def copy_all_(tensors: list[Tensor], sources: list[Tensor]) -> None:
    """Copy tensors in place: `tensor.copy_(source)` for each pair, in one kernel for all of them."""
    torch._foreach_copy_(tensors, sources)


def without_compilation() -> AbstractContextManager[None]:
    """A context in which compiled models run uncompiled, so that they call hooks.

    Importing `torch._dynamo` takes a second. Before anything has imported it, no model is compiled.
    """
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def stop_without_lightning(trainer: Trainer, handler: Callable[[int, Any], None]) -> None:
    """Replace Lightning's handling of SIGTERM by a handler, in a training that has started.

    Lightning's handler exchanges a tensor with the other processes, adds an exchange to every step, and reacts to the
    signals of the first process only. Replaces the method `_broadcast_sigterm_tensor` of its training loop.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        signal.signal(signal.SIGTERM, handler)
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
