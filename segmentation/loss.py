"""Segmentation losses: weighted sums of cross entropy, Dice, focal and Lovasz-Softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.batch import IGNORE
from engine import distributed
from segmentation.config import parse_losses
from segmentation.regional import dice_loss, focal_loss, lovasz_loss

# Largest number of pixels for Dice, focal and Lovasz. They need several tensors of the size of the logits, and Lovasz
# sorts all pixels for each class. On full-sized batches this costs more than the network. A regular grid of pixels is a
# good estimate.
MAX_PIXELS = 2**17


class SegmentationLoss(nn.Module):
    """Weighted losses over the pixels with a class. They are 0 if no pixel has a class.

    With a single class, all except focal are 0: its probability is always 1. Nothing here waits for a value that a GPU
    computes.

    Args:
        losses: any of ce, dice, focal and lovasz, each with an optional `=WEIGHT`.
        smoothing: label smoothing of the cross entropy, in 0..1.
        hard_pixels: fraction of the pixels, those with the largest loss, that the cross entropy averages. This is
            online hard example mining (Shrivastava et al., arXiv:1604.03540).

    Attributes:
        class_weights: (K,) weights of the classes in ce and focal, or None. ce is then a weighted mean over pixels. In
            focal, which is a mean over classes of a loss of each class against all others, the mean is weighted.

    Raises UserError for an unknown loss or a bad weight.
    """

    class_weights: Tensor | None

    def __init__(self, losses: Sequence[str] = ("ce",), smoothing: float = 0.0, hard_pixels: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("class_weights", None, persistent=False)
        self.weights = parse_losses(losses)
        self.smoothing = smoothing
        self.hard_pixels = hard_pixels

    def forward(self, logits: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """The weighted losses by name, scalars. Training minimises their sum.

        Args:
            logits: (B, K, H, W).
            masks: (B, H, W) class indices, of any integer type, or `IGNORE` for pixels without a class.
        """
        logits, masks = logits.float(), masks.long()
        terms = {}
        if "ce" in self.weights:
            terms["ce"] = self._cross_entropy(logits, masks)
        if len(self.weights) > len(terms):
            pixels, classes = _subsample(logits, masks)
        if "dice" in self.weights:
            terms["dice"] = dice_loss(pixels, classes)
        if "focal" in self.weights:
            terms["focal"] = focal_loss(pixels, classes, self.class_weights)
        if "lovasz" in self.weights:
            terms["lovasz"] = lovasz_loss(pixels, classes)
        return {name: weight * terms[name] for name, weight in self.weights.items()}

    def _cross_entropy(self, logits: Tensor, masks: Tensor) -> Tensor:
        """The mean over the labelled or the hardest pixels of the batch, of all processes if there are several."""
        labelled, weights = masks != IGNORE, self.class_weights
        cost = F.cross_entropy(
            logits,
            masks,
            weights,
            ignore_index=IGNORE,
            label_smoothing=self.smoothing,
            reduction="sum" if self.hard_pixels == 1 else "none",
        )
        counted = self._weights(masks)
        if self.hard_pixels == 1:
            counted = distributed.total(counted.sum())
            return cost * distributed.world() / counted.where(counted > 0, 1.0)
        cost, counted, labelled = (distributed.whole_batch(x.flatten()) for x in (cost, counted, labelled.float()))
        # The number of the hardest pixels is a value on the device. `most` is its upper bound, if all are labelled.
        # Ignored pixels have loss 0, so the largest losses belong to labelled pixels.
        most = max(1, round(self.hard_pixels * len(cost)))
        hardest, pixels = cost.topk(most)
        count = (self.hard_pixels * labelled.sum()).round().clamp(min=1)
        chosen = torch.arange(most, device=cost.device) < count
        counted = (counted[pixels] * chosen).sum()
        return (hardest * chosen).sum() / counted.where(counted > 0, 1.0)

    def counts(self, masks: Tensor) -> dict[str, Tensor]:
        """What a batch adds to the numbers that the losses ce and focal are divided by, scalars.

        In a batch of more than `MAX_PIXELS` pixels, focal counts some of them, and this count is an estimate. The same
        holds for ce with `hard_pixels`.
        """
        return {"ce": self._weights(masks).sum(), "focal": (masks != IGNORE).float().sum()}

    def _weights(self, masks: Tensor) -> Tensor:
        """(B, H, W) weight of each pixel in the cross entropy, 0 without a class."""
        labelled, weights = masks != IGNORE, self.class_weights
        return labelled.float() if weights is None else weights[masks.long().where(labelled, 0)] * labelled


def _subsample(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """(P, K) logits and (P,) masks of every n-th row and column of the whole batch, n the smallest for `MAX_PIXELS`.

    The first row and column are 0, unless no pixel of this grid has a class; then those of the grid with most.
    """
    step = math.ceil(math.sqrt(max(1, masks.numel() * distributed.world() / MAX_PIXELS)))
    if step > 1:
        row, column = _offset(masks, step)
        rows, columns = (torch.arange(0, side, step, device=masks.device) for side in masks.shape[1:])
        # The last row of a grid with an offset can lie outside. It is replaced by the last row inside.
        rows, columns = (rows + row).clamp(max=masks.shape[1] - 1), (columns + column).clamp(max=masks.shape[2] - 1)
        logits, masks = logits[:, :, rows[:, None], columns], masks[:, rows[:, None], columns]
    logits, masks = distributed.whole_batch(logits), distributed.whole_batch(masks)
    return logits.movedim(1, -1).flatten(0, -2), masks.flatten()


def _offset(masks: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """First row and column, in 0..step - 1, of the grid of `_subsample`."""
    height, width = (math.ceil(side / step) * step for side in masks.shape[1:])
    labelled = F.pad((masks != IGNORE).float(), (0, width - masks.shape[2], 0, height - masks.shape[1]))
    cells = labelled.view(len(masks), height // step, step, width // step, step)
    counts = distributed.total(cells.sum((0, 1, 3)).flatten())
    chosen = counts.argmax().where(counts[0] == 0, 0)
    return chosen // step, chosen % step
