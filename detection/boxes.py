"""Overlap of pairs of boxes, and losses of predicted boxes.

Boxes are (x1, y1, x2, y2) in px. The losses equal those of torchvision, which make a GPU wait: there, the number of
overlapping pairs decides the size of a tensor.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPS = 1e-7  # as in torchvision; it matters for boxes without an area only


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of pairs of boxes, with broadcasting: (..., 4) and (..., 4) -> (...)."""
    intersection, union = _areas(a, b)
    return intersection / union.clamp(min=1e-9)


def giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - generalised IoU (arXiv:1902.09630), in 0..2: (..., 4) and (..., 4) -> (...)."""
    intersection, union = _areas(predicted, target)
    width, height = _hull(predicted, target)
    hull = width * height
    return 1 - intersection / (union + EPS) + (hull - union) / (hull + EPS)


def ciou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - complete IoU (arXiv:1911.08287), which also counts distance and shape: (..., 4) and (..., 4) -> (...)."""
    intersection, union = _areas(predicted, target)
    iou = intersection / (union + EPS)
    width, height = _hull(predicted, target)
    diagonal = width.square() + height.square() + EPS
    x, y = ((predicted[..., :2] + predicted[..., 2:] - target[..., :2] - target[..., 2:]) / 2).unbind(-1)
    angles = [torch.atan(w / h) for w, h in ((box[..., 2:] - box[..., :2]).unbind(-1) for box in (target, predicted))]
    shape = 4 / math.pi**2 * (angles[0] - angles[1]).square()
    with torch.no_grad():
        weight = shape / (1 - iou + shape + EPS)
    return 1 - iou + (x.square() + y.square()) / diagonal + weight * shape


def _areas(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of the intersection and of the union of pairs of boxes, px²: (...) and (...)."""
    (left, top, right, bottom), (left_b, top_b, right_b, bottom_b) = a.unbind(-1), b.unbind(-1)
    width = torch.minimum(right, right_b).sub(torch.maximum(left, left_b)).clamp(min=0)
    height = torch.minimum(bottom, bottom_b).sub(torch.maximum(top, top_b)).clamp(min=0)
    intersection = width * height
    areas = (right - left) * (bottom - top) + (right_b - left_b) * (bottom_b - top_b)
    return intersection, areas - intersection


def _hull(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height in px of the smallest box around each pair of boxes: (...) and (...)."""
    width, height = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).unbind(-1)
    return width, height
