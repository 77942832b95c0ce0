"""Which anchor learns which box, and what it costs to be wrong.

Two assignments. `iou` is EfficientDet's: an anchor learns the box it overlaps by half or more, and is to be certain of
it. `atss` (Zhang et al., arXiv:1912.02424) gives every box, however small, a fair number of anchors near its centre,
and asks each for a score as high as the box it predicts is good (quality focal loss, Li et al., arXiv:2006.04388).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou, complete_box_iou_loss, generalized_box_iou_loss

from detection.anchors import Anchors, decode, encode

# google/automl efficientdet/hparams_config.py and arXiv:1911.09070, section 5.1.
ALPHA, GAMMA, HUBER_DELTA, HUBER_WEIGHT, MATCH_IOU = 0.25, 1.5, 0.1, 50.0, 0.5
# arXiv:1912.02424, section 4.1; arXiv:2006.04388, equation 6; and the weight of the GIoU loss in both papers' code.
NEAREST_CELLS, IOU_WEIGHT = 9, 2.0


@torch.no_grad()
def assign_iou(anchors: Tensor, boxes: Tensor, threshold: float = MATCH_IOU) -> Tensor:
    """Each anchor to the box it overlaps most, if by `threshold` or more; and each box to its best anchor in any case.

    Args:
        anchors: (A, 4) xyxy px.
        boxes: (N, 4) xyxy px, N > 0.
        threshold: least IoU.

    Returns:
        (A,) index of the box that each anchor learns, -1 for background.
    """
    iou = box_iou(boxes, anchors)
    best, matched = iou.max(dim=0)
    matched[best < threshold] = -1
    matched[iou.argmax(dim=1)] = torch.arange(len(boxes), device=boxes.device)
    return matched


@torch.no_grad()
def assign_atss(anchors: Tensor, boxes: Tensor, counts: Sequence[int], per_cell: int) -> Tensor:
    """Adaptive training sample selection: a threshold for each box, from the overlaps it has near its centre.

    Candidates are all anchors of the nine cells of each level nearest to the box's centre. Those centred in the box
    whose IoU reaches the candidates' mean plus standard deviation learn it; one that several boxes claim goes to the
    box it overlaps most. A box without any such anchor gets its best candidate.

    Args:
        anchors: (A, 4) xyxy px, levels one after the other, those of a cell together.
        boxes: (N, 4) xyxy px, N > 0.
        counts: anchors of each level.
        per_cell: anchors of each cell.

    Returns:
        (A,) index of the box that each anchor learns, -1 for background.
    """
    centres = (anchors[::per_cell, :2] + anchors[::per_cell, 2:]) / 2
    distance = torch.cdist((boxes[:, :2] + boxes[:, 2:]) / 2, centres)
    cells, first = [], 0
    for count in counts:
        level = distance[:, first : first + count // per_cell]
        cells.append(first + level.topk(min(NEAREST_CELLS, level.shape[1]), largest=False).indices)
        first += count // per_cell
    index = torch.cat(cells, dim=1)[..., None] * per_cell + torch.arange(per_cell, device=anchors.device)
    index = index.flatten(1)

    candidates = anchors[index]
    iou = _paired_iou(boxes[:, None], candidates)
    centre = (candidates[..., :2] + candidates[..., 2:]) / 2
    inside = ((centre > boxes[:, None, :2]) & (centre < boxes[:, None, 2:])).all(-1)
    chosen = inside & (iou >= iou.mean(1, keepdim=True) + iou.std(1, keepdim=True))
    chosen.scatter_(1, iou.argmax(1, keepdim=True), True)

    claims = iou.new_full((len(boxes), len(anchors)), -1.0).scatter_(1, index, torch.where(chosen, iou, -1.0))
    overlap, matched = claims.max(dim=0)
    return matched.masked_fill(overlap < 0, -1)


def _paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes that broadcast against each other: (..., 4) and (..., 4) xyxy -> (...)."""
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return shared / (areas - shared).clamp(min=1e-9)


class DetectionLoss(nn.Module):
    """Classification and box loss of a batch, both divided by the number of positives + 1.

    The + 1 keeps a batch without boxes finite.

    Args:
        assignment: "iou", with focal loss on certain targets, or "atss", with focal loss on the predicted box's IoU.
        box_loss: "huber" on encoded offsets, as published; "giou" or "ciou" on decoded boxes.
    """

    def __init__(self, assignment: str = "iou", box_loss: str = "huber") -> None:
        super().__init__()
        self.assignment = assignment
        self.box_loss = box_loss

    def forward(
        self, logits: Tensor, deltas: Tensor, anchors: Anchors, size: tuple[int, int], boxes: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """`class` and `box`, scalars to be summed.

        Args:
            logits: (B, A, K).
            deltas: (B, A, 4), see `anchors.encode`.
            anchors: of the pyramid.
            size: (height, width) of the input, px.
            boxes: (B, M, 4) xyxy px; rows without a box arbitrary.
            labels: (B, M) class indices, -1 in rows without a box.
        """
        logits, deltas = logits.float(), deltas.float()
        at = anchors(size, logits.device)
        images, positives, wanted, classes = [], [], [], []
        for image in range(len(logits)):
            valid = labels[image] >= 0
            if not bool(valid.any()):
                continue
            own = boxes[image, valid]
            if self.assignment == "iou":
                matched = assign_iou(at, own)
            else:
                matched = assign_atss(at, own, anchors.counts(size), anchors.per_cell)
            positive = (matched >= 0).nonzero().squeeze(1)
            images.append(torch.full_like(positive, image))
            positives.append(positive)
            wanted.append(own[matched[positive]])
            classes.append(labels[image, valid][matched[positive]])
        target = torch.zeros_like(logits)
        if not images:
            # The empty sum keeps the box head in the graph, with zero gradient, where no image has a box.
            return {"class": self._class(logits, target), "box": 0 * deltas.sum()}

        row, anchor, box = torch.cat(images), torch.cat(positives), torch.cat(wanted)
        found = deltas[row, anchor]
        quality = 1.0 if self.assignment == "iou" else _paired_iou(decode(found.detach(), at[anchor]), box)
        target[row, anchor, torch.cat(classes)] = quality
        count = len(anchor) + 1
        return {
            "class": self._class(logits, target) / count,
            "box": self._box(found, box, at[anchor]).sum() / count,
        }

    def _class(self, logits: Tensor, target: Tensor) -> Tensor:
        cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        miss = (target - logits.sigmoid()).abs()
        if self.assignment == "iou":
            balance = torch.where(target > 0, ALPHA, 1 - ALPHA)
            return (balance * miss.pow(GAMMA) * cost).sum()
        return (miss.square() * cost).sum()

    def _box(self, deltas: Tensor, boxes: Tensor, anchors: Tensor) -> Tensor:
        if self.box_loss == "huber":
            cost = F.huber_loss(deltas, encode(boxes, anchors), delta=HUBER_DELTA, reduction="none")
            return HUBER_WEIGHT * cost.mean(dim=1)
        of_iou = generalized_box_iou_loss if self.box_loss == "giou" else complete_box_iou_loss
        return IOU_WEIGHT * of_iou(decode(deltas, anchors), boxes)
