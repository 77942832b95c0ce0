"""Computes the gradient of a batch in micro-batches, where the whole batch does not fit in memory.

A batch stays the same batch: images are mixed before it is divided, random draws are those of the whole batch, and each
loss is divided by the number of the whole batch, such as its positive anchors. Two things see micro-batches: batch norm
in training mode, and losses that are no sums over images (Dice, Lovasz and the hardest pixels), which are averaged.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from data.batch import Batch


def backward_all_but_last(task: Any, images: Any, batch: Batch, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the losses of a batch in parts of `task.micro_batch` images, and the gradients of all but the last part.

    In a distributed training, DDP exchanges gradients in the backward pass after this one, that of the last part.

    Args:
        task: an `engine.task.Task` in training, with a trainer and the gradients of the step before.
        images: (B, C, H, W) normalised, or cached features.
        batch: of these images.
        seed: of the network's random draws.

    Returns:
        The loss of the last part, whose backward pass adds the rest of the gradient; and the losses of the batch by
        name, without gradients.
    """
    for optimizer in task.trainer.optimizers:
        optimizer.zero_grad()
    starts = range(0, len(batch), task.micro_batch)
    parts = [batch[start : start + task.micro_batch] for start in starts]
    share = torch.tensor([len(part) / len(batch) for part in parts], device=batch.labels.device)
    factors, sums = task.loss_factors(parts), dict[str, Tensor]()
    for number, (start, part) in enumerate(zip(starts, parts, strict=True)):
        torch.manual_seed(seed)
        task.part.first, task.part.of = start, len(batch)
        losses = {
            name: value * factors.get(name, share)[number]
            for name, value in task.losses_at_once(images[start : start + len(part)], part).items()
        }
        for name, value in losses.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach()
        loss = torch.stack(list(losses.values())).sum()
        if number + 1 < len(parts):
            backward(task, loss)
    return loss, sums


def backward(task: Any, loss: Tensor) -> None:
    """Add the gradients of a loss to those of the parameters, without exchanging them with other processes."""
    with torch.autocast(loss.device.type, enabled=False):
        torch.clear_autocast_cache()  # it holds copies of weights whose gradients belong to this loss
        task.trainer.strategy.backward(loss, None)


def shares(counts: Tensor, added: float = 0.0) -> Tensor:
    """(P,) factors of losses that are divided by a number of the whole batch, from (P,) numbers of its parts.

    `added` is what the loss adds to its number. If all numbers are 0, so are the losses, and the factors.
    """
    whole = counts.sum() + added
    return (counts + added) / whole.where(whole > 0, 1.0)
