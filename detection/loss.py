"""Which anchor learns which box, and what it costs to be wrong.

Two assignments. `iou` is EfficientDet's: an anchor learns the box it overlaps by half or more. `aligned` follows the
network (TOOD, Feng et al., arXiv:2108.07755): a box is learned by the anchors that already predict it best, and the
class target is how well they do, so that a score says how good a box is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou, complete_box_iou_loss, generalized_box_iou_loss

from detection.anchors import decode, encode

# google/automl efficientdet/hparams_config.py and arXiv:1911.09070, section 5.1.
ALPHA, GAMMA, HUBER_DELTA, HUBER_WEIGHT, MATCH_IOU = 0.25, 1.5, 0.1, 50.0, 0.5
# arXiv:2108.07755, section 3.2 and its supplement: metric score^1 x IoU^6, best 13 anchors, focusing exponent 2, and
# the weight 2 of the GIoU loss.
TOP_ANCHORS, SCORE_POWER, IOU_POWER, QUALITY_GAMMA, IOU_WEIGHT = 13, 1.0, 6.0, 2.0, 2.0


class Assignment(NamedTuple):
    """What each anchor of one image learns.

    matched: (A,) index of its box, -1 for background.
    quality: (A,) target score of that box's class in 0..1, 0 for background.
    """

    matched: Tensor
    quality: Tensor


@torch.no_grad()
def assign_iou(anchors: Tensor, boxes: Tensor, threshold: float = MATCH_IOU) -> Assignment:
    """Each anchor to the box it overlaps most, if by `threshold` or more; and each box to its best anchor in any case.

    Args:
        anchors: (A, 4) xyxy px.
        boxes: (N, 4) xyxy px, N > 0.
        threshold: least IoU.
    """
    iou = box_iou(boxes, anchors)
    best, matched = iou.max(dim=0)
    matched[best < threshold] = -1
    matched[iou.argmax(dim=1)] = torch.arange(len(boxes), device=boxes.device)
    return Assignment(matched, (matched >= 0).to(iou.dtype))


@torch.no_grad()
def assign_aligned(anchors: Tensor, boxes: Tensor, labels: Tensor, scores: Tensor, predicted: Tensor) -> Assignment:
    """Each box to the anchors centred in it that predict it best, by score x IoU^6.

    An anchor that several boxes want goes to the one it overlaps most. The quality of a box's best anchor is its IoU,
    that of the others falls in proportion to the metric.

    Args:
        anchors: (A, 4) xyxy px.
        boxes: (N, 4) xyxy px, N > 0.
        labels: (N,) class indices.
        scores: (A, K) predicted, in 0..1.
        predicted: (A, 4) predicted boxes, xyxy px.
    """
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    inside = ((centre > boxes[:, None, :2]) & (centre < boxes[:, None, 2:])).all(-1)
    iou = box_iou(boxes, predicted) * inside
    metric = scores[:, labels].T.pow(SCORE_POWER) * iou.pow(IOU_POWER)
    best, index = metric.topk(min(TOP_ANCHORS, metric.shape[1]), dim=1)
    metric = torch.zeros_like(metric).scatter_(1, index, best)

    overlap, matched = torch.where(metric > 0, iou, -1.0).max(dim=0)
    owned = F.one_hot(matched, len(boxes)).T.bool() & (overlap >= 0)
    metric, iou = metric * owned, iou * owned
    scale = iou.amax(1, keepdim=True) / metric.amax(1, keepdim=True).clamp(min=1e-12)
    return Assignment(matched.masked_fill(overlap < 0, -1), (metric * scale).sum(0))


class DetectionLoss(nn.Module):
    """Classification and box loss of a batch.

    Args:
        assignment: "iou": focal loss on hard targets, every positive counts alike, normalised by positives + 1.
            "aligned": focal loss on the quality (arXiv:2006.04388, equation 6), which also weighs the boxes,
            normalised by the sum of qualities + 1. The + 1 keeps an image without boxes finite.
        box_loss: "huber" on encoded offsets, as published; "giou" or "ciou" on decoded boxes.
    """

    def __init__(self, assignment: str = "iou", box_loss: str = "huber") -> None:
        super().__init__()
        self.assignment = assignment
        self.box_loss = box_loss

    def forward(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, boxes: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """`class` and `box`, scalars to be summed.

        Args:
            logits: (B, A, K).
            deltas: (B, A, 4), see `anchors.encode`.
            anchors: (A, 4) xyxy px.
            boxes: (B, M, 4) xyxy px; rows without a box arbitrary.
            labels: (B, M) class indices, -1 in rows without a box.
        """
        logits, deltas = logits.float(), deltas.float()
        target = torch.zeros_like(logits)
        found, wanted, at, weight = [], [], [], []
        for image in range(len(logits)):
            valid = labels[image] >= 0
            if not bool(valid.any()):
                continue
            own, classes = boxes[image, valid], labels[image, valid]
            matched, quality = self._assign(anchors, own, classes, logits[image], deltas[image])
            positive = (matched >= 0).nonzero().squeeze(1)
            of = matched[positive]
            target[image, positive, classes[of]] = quality[positive]
            found.append(deltas[image, positive])
            wanted.append(own[of])
            at.append(anchors[positive])
            weight.append(quality[positive])
        total = torch.cat(weight).sum() + 1 if weight else logits.new_ones(())
        box = logits.new_zeros(())
        if weight:
            box = (self._box(torch.cat(found), torch.cat(wanted), torch.cat(at)) * torch.cat(weight)).sum()
        # The empty sum keeps the box head in the graph, with zero gradient, for a batch without a single box.
        return {"class": self._class(logits, target) / total, "box": (box + 0 * deltas.sum()) / total}

    def _assign(self, anchors: Tensor, boxes: Tensor, labels: Tensor, logits: Tensor, deltas: Tensor) -> Assignment:
        if self.assignment == "iou":
            return assign_iou(anchors, boxes)
        logits, deltas = logits.detach(), deltas.detach()
        return assign_aligned(anchors, boxes, labels, logits.sigmoid(), decode(deltas, anchors))

    def _class(self, logits: Tensor, target: Tensor) -> Tensor:
        cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        miss = (target - logits.sigmoid()).abs()
        if self.assignment == "iou":
            balance = torch.where(target > 0, ALPHA, 1 - ALPHA)
            return (balance * miss.pow(GAMMA) * cost).sum()
        return (miss.pow(QUALITY_GAMMA) * cost).sum()

    def _box(self, deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
        if self.box_loss == "huber":
            cost = F.huber_loss(deltas, encode(boxes, anchors), delta=HUBER_DELTA, reduction="none")
            return HUBER_WEIGHT * cost.mean(dim=1)
        of_iou = generalized_box_iou_loss if self.box_loss == "giou" else complete_box_iou_loss
        return IOU_WEIGHT * of_iou(decode(deltas, anchors), boxes)
