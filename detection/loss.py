"""The losses of a detector.

There are two recipes. `iou` is EfficientDet's: an anchor learns the box with which it has an IoU of 0.5 or more, and
its target score is 1 (focal loss, arXiv:1708.02002). `atss` (Zhang et al., arXiv:1912.02424) assigns every box, also
small ones, to anchors near the box's centre. Their target score is the IoU of the predicted box (quality focal loss, Li
et al., arXiv:2006.04388).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.anchors import Anchors, decode, encode
from detection.assignment import assign_atss, assign_iou
from detection.boxes import ciou_loss, giou_loss, paired_iou
from engine import distributed

# google/automl efficientdet/hparams_config.py and arXiv:1911.09070, section 5.1.
ALPHA, GAMMA, HUBER_DELTA, HUBER_WEIGHT = 0.25, 1.5, 0.1, 50.0
QUALITY_GAMMA = 2.0  # arXiv:2006.04388, section 4
IOU_WEIGHT = 2.0  # weight of the GIoU loss in the code of arXiv:1912.02424 and arXiv:2006.04388
ELEMENTS = 2**24  # logits whose focal loss is computed at once: 64 MB for each of four temporary tensors


class DetectionLoss(nn.Module):
    """Classification and box loss of a batch, both divided by the number of positive anchors + 1.

    In a distributed training it is the number in the whole batch. The 1 avoids a division by zero in a batch without
    boxes. Nothing here waits for a value that a GPU computes.

    Args:
        assignment: "iou" with focal loss, whose targets are 0 and 1; or "atss" with quality focal loss, whose targets
            are the IoUs of the predicted boxes.
        box_loss: "huber" on encoded offsets, as published; "giou" or "ciou" on decoded boxes.

    Attributes:
        class_weights: (K,) weights of the classes, or None. The classification loss of an anchor that learns an object
            is multiplied by the weight of the object's class, as in class-balanced focal loss (arXiv:1901.05555).
            Background has weight 1.
    """

    class_weights: Tensor | None

    def __init__(self, assignment: str = "iou", box_loss: str = "huber") -> None:
        super().__init__()
        self.assignment = assignment
        self.box_loss = box_loss
        self.register_buffer("class_weights", None, persistent=False)

    def forward(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Anchors,
        size: tuple[int, int],
        boxes: Tensor,
        labels: Tensor,
        complete: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The losses `class` and `box`, scalars. Their sum is minimised.

        Args:
            logits: (B, A, K).
            deltas: (B, A, 4), see `anchors.encode`.
            anchors: anchors of the feature pyramid.
            size: (height, width) of the input, px.
            boxes: (B, M, 4) xyxy px of the input; padding rows may have any values.
            labels: (B, M) class indices, -1 in padding rows.
            complete: (B, K or more) bool, whether every object of a class has a box; None if always. Where it is False,
                anchors without an object of the class have no loss for it.
        """
        complete = None if complete is None else complete[:, : logits.shape[2]]
        anchor_boxes = anchors(size, logits.device)
        # One more row of padding, so that there is a row in a batch without boxes.
        boxes, labels = F.pad(boxes, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)
        box_index = self._assign(anchors, size, boxes, labels)
        count = self._normaliser((box_index >= 0).sum())

        # N anchors: those that learn a box, and possibly others. `learns` tells them apart.
        image, anchor = _learning(box_index)
        learns, box_index = box_index[image, anchor] >= 0, box_index[image, anchor].clamp(min=0)
        own, classes = anchor_boxes[anchor], labels[image, box_index].clamp(min=0)
        # Background predicts and learns the anchor itself, so its loss and its gradient are 0.
        target = torch.where(learns[:, None], boxes[image, box_index], own)
        predicted = torch.where(learns[:, None], deltas[image, anchor].float(), 0.0)

        scores = learns.float()
        if self.assignment == "atss":
            scores = scores * paired_iou(decode(predicted.detach(), own), target)
        weights = None
        if self.class_weights is not None:
            weights = torch.ones_like(logits[..., 0], dtype=torch.float32)
            weights[image, anchor] = self.class_weights[classes].where(learns, 1.0)
        place = (image * logits.shape[1] + anchor) * logits.shape[2] + classes
        gamma, alpha = (GAMMA, ALPHA) if self.assignment == "iou" else (QUALITY_GAMMA, None)
        return {
            "class": focal_loss(logits, place, scores, weights, gamma, alpha, complete, learns) / count,
            "box": (self._box_loss(predicted, target, own) * learns).sum() / count,
        }

    def positives(self, anchors: Anchors, size: tuple[int, int], boxes: Tensor, labels: Tensor) -> Tensor:
        """The number of positive anchors in a batch, a scalar. The arguments are those of `forward`."""
        boxes, labels = F.pad(boxes, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)
        return (self._assign(anchors, size, boxes, labels) >= 0).sum().float()

    def _assign(self, anchors: Anchors, size: tuple[int, int], boxes: Tensor, labels: Tensor) -> Tensor:
        """(B, A) index of the box that each anchor learns, or -1. There must be a row of boxes."""
        anchor_boxes = anchors(size, boxes.device)
        if self.assignment == "iou":
            return assign_iou(anchor_boxes, boxes, labels >= 0)
        return assign_atss(anchor_boxes, boxes, labels >= 0, anchors.counts(size), anchors.per_cell)

    @staticmethod
    def _normaliser(positives: Tensor) -> Tensor:
        """The number of positive anchors + 1. With several processes: of the whole batch, divided by their number."""
        return (distributed.total(positives.float()) + 1) / distributed.world()

    def _box_loss(self, deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
        """(N,) loss of (N, 4) offsets, for (N, 4) target boxes and (N, 4) anchors, xyxy px."""
        if self.box_loss == "huber":
            huber = F.huber_loss(deltas, encode(boxes, anchors), delta=HUBER_DELTA, reduction="none")
            return HUBER_WEIGHT * huber.mean(dim=-1)
        iou_loss = giou_loss if self.box_loss == "giou" else ciou_loss
        return IOU_WEIGHT * iou_loss(decode(deltas, anchors), boxes)


def _learning(box_index: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) indices of images and (N,) of anchors, at least of all that learn a box: (B, A) index of the box or -1.

    On a CPU of these only. Elsewhere of all anchors, because the device would have to tell how many learn a box.
    """
    if box_index.device.type == "cpu":
        image, anchor = (box_index >= 0).nonzero(as_tuple=True)
        return image, anchor
    places = torch.arange(box_index.numel(), device=box_index.device)
    return places // box_index.shape[1], places % box_index.shape[1]


def focal_loss(
    logits: Tensor,
    place: Tensor,
    scores: Tensor,
    weights: Tensor | None = None,
    gamma: float = GAMMA,
    alpha: float | None = ALPHA,
    complete: Tensor | None = None,
    learns: Tensor | None = None,
) -> Tensor:
    """Sum of the focal loss of all anchors and classes: |t - p|^gamma times the cross entropy of p and its target t.

    For 80 classes the logits are the largest tensor of a training step. That is why the gradient is computed together
    with the loss, in parts: besides the logits, one tensor of their size and type is kept, where automatic
    differentiation keeps seven.

    Args:
        logits: (B, A, K), p before the sigmoid.
        place: (N,) indices of targets in the flattened logits, all different.
        scores: (N,) these targets in 0..1, constants. All other targets are 0.
        weights: (B, A) factors on the loss of an anchor, or None for 1.
        gamma: exponent, at least 1.
        alpha: factor on the terms with t > 0; those with t = 0 have 1 - alpha. None for 1 and 1.
        complete: (B, K) bool, whether targets of 0 are known to be right, by image and class; None if all are. Those
            that are not have no loss.
        learns: (N,) bool, whether the target at `place` is that of an object, whose loss always counts. None if all
            are.
    """
    return _FocalLoss.apply(logits, place, scores, weights, gamma, alpha, complete, learns)


class _FocalLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        place: Tensor,
        scores: Tensor,
        weights: Tensor | None,
        gamma: float,
        alpha: float | None,
        complete: Tensor | None,
        learns: Tensor | None,
    ) -> Tensor:
        # In float32, also for logits of half precision, as torch's own losses.
        kind = torch.promote_types(logits.dtype, torch.float32)
        of_background = 1.0 if alpha is None else 1 - alpha
        gradient, terms = torch.empty_like(logits, memory_format=torch.contiguous_format), []
        step = max(1, ELEMENTS // max(1, logits[:1].numel()))
        for first in range(0, len(logits), step):
            part = slice(first, first + step)
            factor = of_background if weights is None else of_background * weights[part, :, None]
            if complete is not None:
                factor = factor * complete[part, None]
            loss, slope = _background(logits[part].to(kind), gamma)
            terms.append(loss.mul_(factor).sum())
            gradient[part] = slope.mul_(factor)

        x = logits.flatten()[place].to(kind)
        balance = torch.ones_like(x) if alpha is None else torch.where(scores > 0, alpha, of_background)
        factors = torch.ones_like(x) if weights is None else weights.flatten()[place // logits.shape[2]]
        added = of_background * _background(x, gamma)[0]  # in the sums above
        if complete is not None:
            known = complete[place // logits[0].numel(), place % logits.shape[2]]
            added = added * known
            balance = balance if learns is None else balance * (known | learns)
        loss, slope = _object(x, scores, gamma)
        terms.append((factors * (balance * loss - added)).sum())
        gradient.view(-1)[place] = (factors * balance * slope).to(gradient.dtype)
        ctx.save_for_backward(gradient)
        return torch.stack(terms).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (outer[0] * gradient).to(gradient.dtype), *[None] * 7


def _background(x: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Focal loss with target 0, p^gamma softplus(x) with p = sigmoid(x), and its derivative."""
    p, entropy = x.sigmoid(), F.softplus(x)
    power = p.pow(gamma)
    slope = (1 - p).mul_(entropy).mul_(gamma).add_(p).mul_(power)
    return entropy.mul_(power), slope


def _object(x: Tensor, target: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Focal loss with any target, and its derivative."""
    p = x.sigmoid()
    entropy, error = F.softplus(x) - target * x, p - target
    power = error.abs().pow(gamma)
    slope = gamma * error.abs().pow(gamma - 1) * error.sign() * p * (1 - p) * entropy + power * error
    return power * entropy, slope
