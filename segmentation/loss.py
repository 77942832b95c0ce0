"""Segmentation losses: weighted sums of cross entropy and losses of segmentation-models-pytorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.losses import DiceLoss, FocalLoss, LovaszLoss
from torch import Tensor, nn

from data.batch import IGNORE
from engine import distributed
from segmentation.config import parse_losses

# Largest number of pixels for Dice, Focal and Lovasz. They process each class separately, and Lovasz sorts all pixels
# for each class. On full-sized batches this costs more than the network. A regular grid of pixels is a good estimate.
MAX_PIXELS = 2**17

LOSSES: dict[str, Callable[[], nn.Module]] = {
    "dice": lambda: DiceLoss("multiclass", ignore_index=IGNORE),
    "focal": lambda: FocalLoss("multiclass", ignore_index=IGNORE),
    "lovasz": lambda: LovaszLoss("multiclass", ignore_index=IGNORE),
}


class SegmentationLoss(nn.Module):
    """Weighted losses over the pixels with a class. They are 0 if no pixel has a class.

    With a single class, all except focal are 0: its probability is always 1.

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
        self.regional = nn.ModuleDict({name: LOSSES[name]() for name in self.weights if name != "ce"})

    def forward(self, logits: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """The weighted losses by name, scalars. Training minimises their sum.

        Args:
            logits: (B, K, H, W).
            masks: (B, H, W) int64 class indices, or `IGNORE` for pixels without a class.
        """
        logits = logits.float()
        labelled = (masks != IGNORE).sum()
        if not bool(distributed.total(labelled)):
            # This zero depends on the logits, so that all parameters get zero gradients.
            return {name: 0 * logits.sum() for name in self.weights}
        terms = {}
        for name, weight in self.weights.items():
            if name == "ce":
                terms[name] = weight * self._cross_entropy(logits, masks, labelled)
            elif name == "focal" and self.class_weights is not None:
                terms[name] = weight * _weighted_focal(*_subsample(logits, masks), self.class_weights)
            elif name == "lovasz" and logits.shape[1] == 1:  # the class has probability 1; smp raises an error
                terms[name] = 0 * logits.sum()
            else:
                terms[name] = weight * self.regional[name](*_subsample(logits, masks))
        return terms

    def _cross_entropy(self, logits: Tensor, masks: Tensor, labelled: Tensor) -> Tensor:
        """The mean over the labelled or the hardest pixels of the batch, of all processes if there are several."""
        weights = self.class_weights
        options: dict[str, Any] = {"ignore_index": IGNORE, "label_smoothing": self.smoothing}
        if self.hard_pixels == 1 and distributed.world() == 1:
            return F.cross_entropy(logits, masks, weights, **options)
        if self.hard_pixels == 1:
            counted = labelled if weights is None else weights[masks[masks != IGNORE]].sum()
            part = distributed.share(counted)
            # The mean of no pixels would be NaN.
            return F.cross_entropy(logits, masks, weights, **options) * part if counted > 0 else 0 * logits.sum()
        cost = F.cross_entropy(logits, masks, weights, **options, reduction="none").flatten()
        cost, masks = distributed.whole_batch(cost), distributed.whole_batch(masks.flatten())
        hardest_count = max(1, round(self.hard_pixels * int(distributed.total(labelled))))
        # Ignored pixels have loss 0, so the largest losses belong to labelled pixels.
        hardest, pixels = cost.topk(hardest_count, sorted=False)
        return hardest.mean() if weights is None else hardest.sum() / weights[masks[pixels]].sum()


def _weighted_focal(logits: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    """The mean over classes of the focal loss of each class against all others, weighted by (K,) class weights."""
    focal = FocalLoss("binary", ignore_index=IGNORE)
    terms = [
        focal(logits[:, index], torch.where(masks == IGNORE, IGNORE, (masks == index).long()))
        for index in range(len(weights))
    ]
    return (torch.stack(terms) * weights).sum() / weights.sum()


def _subsample(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Every n-th row and column of the whole batch, with the smallest n for at most `MAX_PIXELS`.

    Everything if these have no class.
    """
    step = math.ceil(math.sqrt(max(1, masks.numel() * distributed.world() / MAX_PIXELS)))
    coarse_masks = distributed.whole_batch(masks[:, ::step, ::step])
    if step > 1 and not bool((coarse_masks != IGNORE).any()):
        return distributed.whole_batch(logits), distributed.whole_batch(masks)
    return distributed.whole_batch(logits[:, :, ::step, ::step]), coarse_masks
