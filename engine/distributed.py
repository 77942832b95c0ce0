"""The processes of a distributed training: which one this is, and what they exchange.

With a single process, which is the usual case, nothing is exchanged: every function returns its argument. The weights
after a training do not depend on the number of processes, up to rounding and the statistics of batch norm: they share
each batch, losses are divided by numbers of the whole batch, and DDP averages the gradients.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from backbones.errors import BadInput
from engine.launch import LOST, VARIABLE

# The processes wait for the first one, which measures, draws and computes features. A process that ends closes its
# connections, so that the others do not wait for this long.
TIMEOUT = timedelta(hours=2)
_alone = False  # see `alone`
_LOST = ("closed by peer", "reset by peer", "broken pipe", "gloo/transport", "remote process exited")


def is_launched() -> bool:
    """Whether `torchrun`, or `engine.launch`, has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ


def local_processes() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if is_launched() else 1


def machines() -> int:
    """Number of machines."""
    return world() // local_processes()


def rank() -> int:
    """Number of this process, from 0. Process 0 alone writes, prints, draws and measures."""
    return dist.get_rank() if _is_joined() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if _is_joined() else 1


def _is_joined() -> bool:
    return not _alone and dist.is_available() and dist.is_initialized()


@contextmanager
def alone() -> Iterator[None]:
    """In this context nothing is exchanged: this process computes as a single one would.

    For what processes do at different times, or not all of them.
    """
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """In this context the processes that were launched together exchange values. A single process joins nothing.

    If another process ends too early, raises BadInput under torchrun and srun. A process that `engine.launch` started
    ends without a message, because that process has one.
    """
    if not is_launched() or _is_joined():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield
    except RuntimeError as error:
        if not lost_connection(error):
            raise
        if VARIABLE in os.environ:
            sys.exit(LOST)
        raise BadInput("another process of this training has ended; its message names the cause") from error
    finally:
        dist.destroy_process_group()


def lost_connection(error: RuntimeError) -> bool:
    """Whether the error reports that another process closed its connections, in the words of gloo, NCCL or torch."""
    return isinstance(error, dist.DistError) or any(words in str(error).lower() for words in _LOST)


def total(count: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without a gradient."""
    if world() == 1:
        return count
    summed = count.detach().clone()
    dist.all_reduce(summed)
    return summed


def share(count: Tensor) -> Tensor | float:
    """The factor that turns a mean over `count` local values into this process's part of the mean over all of them.

    DDP averages the gradients of the processes. With this factor, the average is the gradient of the mean over all
    values, however many each process has. 1.0 for a single process.
    """
    if world() == 1:
        return 1.0
    return count * world() / total(count).clamp(min=1)


def whole_batch(part: Tensor) -> Tensor:
    """The tensors of all processes, joined along the first dimension, in the order of their ranks.

    The gradient flows to this process's part. It is multiplied by the number of processes, since DDP divides by it:
    a loss that every process computes for the whole batch has the gradient that a single process would compute.

    Args:
        part: the same shape in all processes.
    """
    return part if world() == 1 else _WholeBatch.apply(part)


class _WholeBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(world())]
        dist.all_gather(parts, part.contiguous())
        ctx.images = len(part)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        first = rank() * ctx.images
        return gradients[0][first : first + ctx.images] * world()


def any_of(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is set in any process."""
    if world() == 1:
        return flags
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    values = torch.tensor(flags, dtype=torch.uint8, device=device)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return tuple(bool(value) for value in values.tolist())


def from_first(value: Any) -> Any:
    """The value of process 0, in all processes: plain values or arrays."""
    if world() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def in_first(value: Any) -> list[Any]:
    """In process 0 the values of all processes, in the order of their ranks; elsewhere an empty list."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world() if rank() == 0 else []
    dist.gather_object(value, values if rank() == 0 else None, dst=0)
    return values


def from_all(value: Any) -> list[Any]:
    """The values of all processes, in the order of their ranks."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values
