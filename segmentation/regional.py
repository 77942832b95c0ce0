"""Losses that treat each class as a region: Dice, focal and Lovasz-Softmax, all classes at once.

They equal those of segmentation-models-pytorch, which process one class after the other and make a GPU wait for the
number of labelled pixels of each.

All take (P, K) logits of P pixels and K classes, and (P,) masks: int64 class indices or `IGNORE`. All are 0 without a
labelled pixel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from data.batch import IGNORE

EPS = 1e-7  # as in segmentation-models-pytorch; it decides nothing, because absent classes have no loss
GAMMA = 2.0  # arXiv:1708.02002, section 3.2


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean over all classes of 1 - Dice coefficient, with 0 for classes without a pixel (arXiv:1606.04797)."""
    labelled, truth = _one_hot(masks, logits.shape[1])
    probability = logits.softmax(1) * labelled
    size = truth.sum(0)
    score = 2 * (probability * truth).sum(0) / (probability.sum(0) + size).clamp(min=EPS)
    return ((1 - score) * (size > 0)).mean()


def focal_loss(logits: Tensor, masks: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over classes, weighted by (K,) `weights`, of the focal loss of each class against all others.

    The loss of a class is a mean over the labelled pixels (arXiv:1708.02002).
    """
    labelled, truth = _one_hot(masks, logits.shape[1])
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    loss = (1 - (-entropy).exp()).pow(GAMMA) * entropy * labelled
    of_classes = loss.sum(0) / labelled.sum().clamp(min=1)
    return of_classes.mean() if weights is None else (of_classes * weights).sum() / weights.sum()


def lovasz_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean over the classes that occur of the Lovasz extension of 1 - IoU (Lovasz-Softmax, arXiv:1705.08790)."""
    labelled, truth = _one_hot(masks, logits.shape[1])
    probability = logits.softmax(1)
    if logits.device.type == "cpu":  # of many classes few occur in a batch; elsewhere, counting them would wait
        occurring = (truth.sum(0) > 0).nonzero()[:, 0]
        truth, probability = truth[:, occurring], probability[:, occurring]
    # Pixels without a class are sorted to the end, where they change nothing, and have error 0.
    errors = (truth - probability).abs().where(labelled, -1.0).T.contiguous()
    errors, order = errors.sort(dim=1, descending=True)
    truth = truth.T.gather(1, order)
    size = truth.sum(1, keepdim=True)
    # Algorithm 1 of the paper: 1 - IoU if the first pixels, up to each one, are wrong.
    loss = 1 - (size - truth.cumsum(1)) / (size + (1 - truth).cumsum(1)).clamp(min=1)
    slope = torch.cat([loss[:, :1], loss[:, 1:] - loss[:, :-1]], dim=1)
    occurs = size[:, 0] > 0
    of_classes = (errors.clamp(min=0) * slope).sum(1)
    return (of_classes * occurs).sum() / occurs.sum().clamp(min=1)


def _one_hot(masks: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Which pixels have a class, (P, 1) bool; and 1.0 at the class of each pixel, (P, K), which is 0 without a class.

    Not F.one_hot, which waits for the largest index on some devices.
    """
    return (masks != IGNORE)[:, None], (masks[:, None] == torch.arange(classes, device=masks.device)).float()
