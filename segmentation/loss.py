"""What segmentation minimises: cross entropy, and the losses of segmentation-models-pytorch, in any mix."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from segmentation_models_pytorch.losses import DiceLoss, FocalLoss, LovaszLoss
from torch import Tensor, nn

from data.batch import IGNORE
from segmentation.config import parse_losses

# Pixels that Dice, Focal and Lovasz look at: they treat each class by itself, Lovasz even sorts all pixels for each of
# them, which on full-sized batches costs more than the network. A regular grid of pixels estimates them well.
MOST_PIXELS = 2**17

LOSSES: dict[str, Callable[[], nn.Module]] = {
    "dice": lambda: DiceLoss("multiclass", ignore_index=IGNORE),
    "focal": lambda: FocalLoss("multiclass", ignore_index=IGNORE),
    "lovasz": lambda: LovaszLoss("multiclass", ignore_index=IGNORE),
}


class SegmentationLoss(nn.Module):
    """A weighted sum of losses over the pixels that belong to a class; 0 where there are none.

    Args:
        losses: names, each perhaps with `=WEIGHT`: ce, dice, focal, lovasz.
        smoothing: of the labels in cross entropy.
        hard_pixels: share of the pixels, those with the largest loss, that cross entropy is the mean of: online hard
            example mining (Shrivastava et al., arXiv:1604.03540).

    Raises UserError for an unknown name.
    """

    def __init__(self, losses: Sequence[str] = ("ce",), smoothing: float = 0.0, hard_pixels: float = 1.0) -> None:
        super().__init__()
        self.weights = parse_losses(losses)
        self.smoothing = smoothing
        self.hard_pixels = hard_pixels
        self.regional = nn.ModuleDict({name: LOSSES[name]() for name in self.weights if name != "ce"})

    def forward(self, logits: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Scalars to be summed, one for each loss.

        Args:
            logits: (B, K, H, W).
            masks: (B, H, W) int64 class indices, `IGNORE` elsewhere.
        """
        logits = logits.float()
        if not bool((masks != IGNORE).any()):
            # The empty sum keeps the network in the graph, with zero gradients.
            return {name: 0 * logits.sum() for name in self.weights}
        terms = {}
        for name, weight in self.weights.items():
            if name == "ce":
                terms[name] = weight * self._cross_entropy(logits, masks)
            else:
                terms[name] = weight * self.regional[name](*_thinned(logits, masks))
        return terms

    def _cross_entropy(self, logits: Tensor, masks: Tensor) -> Tensor:
        if self.hard_pixels == 1:
            return F.cross_entropy(logits, masks, ignore_index=IGNORE, label_smoothing=self.smoothing)
        cost = F.cross_entropy(
            logits, masks, ignore_index=IGNORE, label_smoothing=self.smoothing, reduction="none"
        ).flatten()
        labelled = int((masks != IGNORE).sum())
        # Ignored pixels cost nothing, so that the largest are all labelled.
        return cost.topk(max(1, round(self.hard_pixels * labelled)), sorted=False).values.mean()


def _thinned(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Every n-th row and column, as few skipped as leave no more than `MOST_PIXELS`; all where that leaves no class."""
    step = math.ceil(math.sqrt(max(1, masks.numel() / MOST_PIXELS)))
    thin = masks[:, ::step, ::step]
    if step == 1 or not bool((thin != IGNORE).any()):
        return logits, masks
    return logits[:, :, ::step, ::step], thin
