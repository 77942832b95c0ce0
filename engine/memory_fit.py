"""Finds the largest micro-batch that fits in memory, for `accumulate="auto"`, before a training starts.

Candidates are the divisors of the number of images that a device has of each batch. On a GPU the training step is tried
with one candidate after the other. A CPU has no error for too little memory: the system ends the process instead. There
the memory of a few images is measured, and that of the candidates computed from it.

Every attempt trains a copy of the task on the first batch. Weights, statistics and random generators do not change.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from data.batch import Batch, collate
from engine import distributed
from engine.execution import execution_for
from engine.memory import available_memory, growth_of, release_freed_memory
from engine.optimization import create_optimizer
from engine.system_errors import nothing_fits, out_of_memory

if TYPE_CHECKING:
    from data.loader import Loader
    from engine.task import Task

# Parts of the free memory that a training step may use. The rest is for what grows later: fragmentation and evaluation
# on a GPU; on a CPU also loader processes, and the error of the computed memory.
GPU_PART, CPU_PART = 0.9, 0.8
# Numbers of images whose memory is measured on a CPU. The first one also grows by what a process needs once. Detection
# with Lite0 at 256 px needs 216, 292, 547 and 1,097 MB for 1, 2, 4 and 8 images; computed from 2 and 4, 8 need 1,057.
MEASURED = (1, 2, 4)


def images_that_fit(task: Task, loader: Loader, device: torch.device) -> int:
    """The largest number of images that a training step can process at once on this device, and on all others.

    It divides the number of images that each device has of a batch.

    Args:
        task: new, with frozen parts; it is not changed.
        loader: of the training batches.
        device: of this process.

    Raises BadInput if not even one image fits, UserError on a CPU if this system does not report memory.
    """
    draws = next(iter(loader.batch_sampler))  # type: ignore[arg-type]
    batch = task.with_most_labels(collate([loader.source[draw] for draw in draws]), loader.source)
    sizes = divisors(len(batch))
    with distributed.alone(), isolate_rng(include_cuda=device.type == "cuda"):
        if device.type == "cpu":
            found = _computed(lambda images: _try_step(task, batch[:images], device), sizes)
        else:
            found = _largest(lambda images: _fits_gpu(task, batch[:images], device), sizes)
    found = min(distributed.from_all(found))
    if not found:
        raise nothing_fits()
    return found


def divisors(images: int) -> list[int]:
    """All divisors of a number, the largest first."""
    return [size for size in range(images, 0, -1) if images % size == 0]


def _largest(fits: Callable[[int], bool], sizes: list[int]) -> int:
    """The first of the sizes that fits, or 0."""
    return next((size for size in sizes if fits(size)), 0)


def _computed(step: Callable[[int], None], sizes: list[int]) -> int:
    """The largest size whose step needs no more than its part of the free memory, by the growth with more images.

    0 if an error, such as that of a limit of the process, shows that one image does not fit. Without an error at least
    1: the computed memory is no reason to refuse a training.
    """
    release_freed_memory()
    free = CPU_PART * available_memory() / distributed.local_processes()
    needed: dict[int, int] = {}
    for images in MEASURED:
        if images > sizes[0] or (needed and 2 * max(needed.values()) > free):
            break
        growth = _growth(step, images)
        if growth is None:
            return max((size for size in sizes if size <= max(needed, default=0)), default=0)
        needed[images] = growth
    if len(needed) == 1:
        return 1
    before, most = list(needed)[-2:]
    each = max(0.0, (needed[most] - needed[before]) / (most - before))
    return max(size for size in sizes if size == 1 or needed[most] + (size - most) * each <= free)


def _growth(step: Callable[[int], None], images: int) -> int | None:
    """Bytes of main memory that a training step needs; None if it runs out of memory."""
    try:
        return growth_of(lambda: step(images))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    return None


def _fits_gpu(task: Task, batch: Batch, device: torch.device) -> bool:
    """Whether a training step fits in the free memory of a device that raises an error if it does not."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_allocated(device)
    try:
        _try_step(task, batch, device)
        fits = True
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        fits = False
    # Outside the except clause, where the traceback would keep the tensors of the failed attempt alive.
    gc.collect()
    if device.type == "cuda":
        used = torch.cuda.max_memory_allocated(device) + _added_bytes(task)
        torch.cuda.empty_cache()
        return fits and used <= GPU_PART * free
    return fits


def _added_bytes(task: Task) -> int:
    """Memory of a training that the attempt lacks: averaged weights, and DDP's buffers of gradients."""
    size = sum(p.numel() * p.element_size() for p in task.model.parameters())
    return size * (bool(task.config.ema_decay) + distributed.is_launched())


def _try_step(task: Task, batch: Batch, device: torch.device) -> None:
    """Train a copy of the task on two micro-batches, so that the second one finds gradients and optimiser states."""
    trial = copy.deepcopy(task).to(device)
    trial.train()
    optimizer = create_optimizer(task.config.optimizer, trial.parameter_groups())
    batch = batch.to(device)
    with execution_for(device.type, task.config.precision, "train").arithmetic(device.type):
        for _ in range(2):
            images, mixed = trial.mixed(trial.normalised(batch), batch)
            loss = torch.stack(list(trial.losses_at_once(images, mixed).values())).sum()
            loss.backward()
            nn.utils.clip_grad_norm_(trial.parameters(), task.config.clip or torch.inf)
            optimizer.step()
