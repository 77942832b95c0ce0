"""Assignment of boxes to anchors, and the losses.

There are two assignments. `iou` is EfficientDet's: an anchor learns the box with which it has an IoU of 0.5 or more,
and its target score is 1. `atss` (Zhang et al., arXiv:1912.02424) assigns every box, also small ones, to anchors near
the box's centre. Their target score is the IoU of the predicted box (quality focal loss, Li et al., arXiv:2006.04388).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou, complete_box_iou_loss, generalized_box_iou_loss

from detection.anchors import Anchors, decode, encode
from engine import distributed

# google/automl efficientdet/hparams_config.py and arXiv:1911.09070, section 5.1.
ALPHA, GAMMA, HUBER_DELTA, HUBER_WEIGHT, MATCH_IOU = 0.25, 1.5, 0.1, 50.0, 0.5
# arXiv:1912.02424, section 4.1; and the weight of the GIoU loss in the code of arXiv:1912.02424 and arXiv:2006.04388.
NEAREST_CELLS, IOU_WEIGHT = 9, 2.0


@torch.no_grad()
def assign_iou(anchors: Tensor, boxes: Tensor, threshold: float = MATCH_IOU) -> Tensor:
    """Assign to each anchor the box of highest IoU, if that is at least `threshold`.

    The anchor of highest IoU with a box always learns that box.

    Args:
        anchors: (A, 4) xyxy px.
        boxes: (N, 4) xyxy px, N > 0.
        threshold: lowest IoU.

    Returns:
        (A,) index of the box that each anchor learns, -1 for background.
    """
    iou = box_iou(boxes, anchors)
    best, box_index = iou.max(dim=0)
    box_index[best < threshold] = -1
    box_index[iou.argmax(dim=1)] = torch.arange(len(boxes), device=boxes.device)
    return box_index


@torch.no_grad()
def assign_atss(anchors: Tensor, boxes: Tensor, counts: Sequence[int], per_cell: int) -> Tensor:
    """Adaptive training sample selection: an IoU threshold for each box, computed from the anchors near its centre.

    The candidates of a box are all anchors of the nine cells of each level that are nearest to its centre. The
    threshold is the mean plus the standard deviation of the candidates' IoUs. Candidates that reach it and whose centre
    is in the box learn the box. The candidate of highest IoU always does. An anchor that several boxes select learns
    the box of highest IoU.

    Args:
        anchors: (A, 4) xyxy px, ordered by level, then by cell.
        boxes: (N, 4) xyxy px, N > 0.
        counts: number of anchors of each level.
        per_cell: number of anchors of a cell.

    Returns:
        (A,) index of the box that each anchor learns, -1 for background.
    """
    cell_centres = (anchors[::per_cell, :2] + anchors[::per_cell, 2:]) / 2
    distance = torch.cdist((boxes[:, :2] + boxes[:, 2:]) / 2, cell_centres)
    cells, first = [], 0
    for count in counts:
        level = distance[:, first : first + count // per_cell]
        cells.append(first + level.topk(min(NEAREST_CELLS, level.shape[1]), largest=False).indices)
        first += count // per_cell
    index = torch.cat(cells, dim=1)[..., None] * per_cell + torch.arange(per_cell, device=anchors.device)
    index = index.flatten(1)

    candidates = anchors[index]
    iou = _paired_iou(boxes[:, None], candidates)
    centres = (candidates[..., :2] + candidates[..., 2:]) / 2
    inside = ((centres > boxes[:, None, :2]) & (centres < boxes[:, None, 2:])).all(-1)
    selected = inside & (iou >= iou.mean(1, keepdim=True) + iou.std(1, keepdim=True))
    selected.scatter_(1, iou.argmax(1, keepdim=True), True)

    selected_iou = iou.new_full((len(boxes), len(anchors)), -1.0).scatter_(1, index, torch.where(selected, iou, -1.0))
    best, box_index = selected_iou.max(dim=0)
    return box_index.masked_fill(best < 0, -1)


def _paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of pairs of boxes, with broadcasting: (..., 4) and (..., 4) xyxy -> (...)."""
    intersection = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return intersection / (areas - intersection).clamp(min=1e-9)


class DetectionLoss(nn.Module):
    """Classification and box loss of a batch, both divided by the number of positive anchors + 1.

    In a distributed training it is the number in the whole batch. The 1 avoids a division by zero in a batch without
    boxes.

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
        self, logits: Tensor, deltas: Tensor, anchors: Anchors, size: tuple[int, int], boxes: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """The losses `class` and `box`, scalars. Their sum is minimised.

        Args:
            logits: (B, A, K).
            deltas: (B, A, 4), see `anchors.encode`.
            anchors: anchors of the feature pyramid.
            size: (height, width) of the input, px.
            boxes: (B, M, 4) xyxy px of the input; padding rows may have any values.
            labels: (B, M) class indices, -1 in padding rows.
        """
        logits, deltas = logits.float(), deltas.float()
        anchor_boxes = anchors(size, logits.device)
        images, positives, target_boxes, classes = [], [], [], []
        for image in range(len(logits)):
            valid = labels[image] >= 0
            if not bool(valid.any()):
                continue
            image_boxes = boxes[image, valid]
            if self.assignment == "iou":
                box_index = assign_iou(anchor_boxes, image_boxes)
            else:
                box_index = assign_atss(anchor_boxes, image_boxes, anchors.counts(size), anchors.per_cell)
            positive = (box_index >= 0).nonzero().squeeze(1)
            images.append(torch.full_like(positive, image))
            positives.append(positive)
            target_boxes.append(image_boxes[box_index[positive]])
            classes.append(labels[image, valid][box_index[positive]])
        target = torch.zeros_like(logits)
        count = self._normaliser(sum(len(found) for found in positives), logits.device)
        if not images:
            # The zero term keeps the box head in the graph, with zero gradient, if no image has a box.
            return {"class": self._class_loss(logits, target) / count, "box": 0 * deltas.sum()}

        image_index, anchor_index, target_box = torch.cat(images), torch.cat(positives), torch.cat(target_boxes)
        predicted, positive_anchors = deltas[image_index, anchor_index], anchor_boxes[anchor_index]
        score: float | Tensor = 1.0
        if self.assignment == "atss":
            score = _paired_iou(decode(predicted.detach(), positive_anchors), target_box)
        target[image_index, anchor_index, torch.cat(classes)] = score
        weights = None
        if self.class_weights is not None:
            weights = torch.ones_like(logits[..., :1])
            weights[image_index, anchor_index, 0] = self.class_weights[torch.cat(classes)]
        return {
            "class": self._class_loss(logits, target, weights) / count,
            "box": self._box_loss(predicted, target_box, positive_anchors).sum() / count,
        }

    @staticmethod
    def _normaliser(positives: int, device: torch.device) -> Tensor | int:
        """The number of positive anchors + 1. With several processes: of the whole batch, divided by their number."""
        if distributed.world() == 1:
            return positives + 1
        return (distributed.total(torch.tensor(float(positives), device=device)) + 1) / distributed.world()

    def _class_loss(self, logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """Sum of the focal loss over (B, A, K) logits and target scores in 0..1, with weights (B, A, 1) of anchors."""
        cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        if weights is not None:
            cross_entropy = cross_entropy * weights
        error = (target - logits.sigmoid()).abs()
        if self.assignment == "iou":
            balance = torch.where(target > 0, ALPHA, 1 - ALPHA)
            return (balance * error.pow(GAMMA) * cross_entropy).sum()
        return (error.square() * cross_entropy).sum()  # arXiv:2006.04388, equation 6, with exponent 2

    def _box_loss(self, deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
        """(P,) loss of P positive anchors: (P, 4) offsets, (P, 4) target boxes and (P, 4) anchors, xyxy px."""
        if self.box_loss == "huber":
            huber = F.huber_loss(deltas, encode(boxes, anchors), delta=HUBER_DELTA, reduction="none")
            return HUBER_WEIGHT * huber.mean(dim=1)
        iou_loss = generalized_box_iou_loss if self.box_loss == "giou" else complete_box_iou_loss
        return IOU_WEIGHT * iou_loss(decode(deltas, anchors), boxes)
