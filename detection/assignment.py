"""Assignment of boxes to anchors: which box each anchor learns, for a whole batch.

Neither function waits for the values of its input: all shapes follow from the shapes of the arguments, so that a GPU is
never idle. The result for an image does not depend on the other images of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detection.boxes import paired_iou

MATCH_IOU = 0.5  # google/automl efficientdet/hparams_config.py and arXiv:1911.09070, section 5.1
NEAREST_CELLS = 9  # arXiv:1912.02424, section 4.1
# Largest number of IoUs that `assign_iou` computes at once. On a CPU they fit in its cache; a GPU needs large steps.
PAIRS, PAIRS_ELSEWHERE = 2**20, 2**25


@torch.no_grad()
def assign_iou(anchors: Tensor, boxes: Tensor, valid: Tensor, threshold: float = MATCH_IOU) -> Tensor:
    """Assign to each anchor the box of highest IoU, if that is at least `threshold`.

    The anchor of highest IoU with a box always learns that box. If this holds for several boxes, it learns the last.

    Args:
        anchors: (A, 4) xyxy px.
        boxes: (B, M, 4) xyxy px.
        valid: (B, M) bool, False for rows of padding.
        threshold: lowest IoU.

    Returns:
        (B, A) index of the box that each anchor learns, -1 for background.
    """
    shape = len(boxes), len(anchors)
    best, box_index = boxes.new_zeros(shape), valid.new_full(shape, -1, dtype=torch.int64)
    nearest = valid.new_zeros(valid.shape, dtype=torch.int64)
    pairs = PAIRS if boxes.device.type == "cpu" else PAIRS_ELSEWHERE
    step = max(1, pairs // max(1, best.numel()))
    anchors = anchors.T.contiguous().T  # columns in contiguous memory
    for first in range(0, boxes.shape[1], step):
        part = slice(first, first + step)
        iou = paired_iou(boxes[:, part, None], anchors).masked_fill(~valid[:, part, None], -1)
        nearest[:, part] = iou.argmax(dim=2)
        highest, index = iou.max(dim=1)
        box_index = torch.where((highest > best) & (highest >= threshold), index + first, box_index)
        best = torch.maximum(best, highest)
    numbers = torch.arange(boxes.shape[1], device=boxes.device).where(valid, -1)
    of_nearest = torch.full_like(box_index, -1).scatter_reduce(1, nearest, numbers, "amax")
    return torch.where(of_nearest >= 0, of_nearest, box_index)


@torch.no_grad()
def assign_atss(anchors: Tensor, boxes: Tensor, valid: Tensor, counts: Sequence[int], per_cell: int) -> Tensor:
    """Adaptive training sample selection: an IoU threshold for each box, computed from the anchors near its centre.

    The candidates of a box are all anchors of the nine cells of each level that are nearest to its centre. The
    threshold is the mean plus the standard deviation of the candidates' IoUs. Candidates that reach it and whose centre
    is in the box learn the box. The candidate of highest IoU always does. An anchor that several boxes select learns
    the box of highest IoU.

    Args:
        anchors: (A, 4) xyxy px, ordered by level, then by cell.
        boxes: (B, M, 4) xyxy px.
        valid: (B, M) bool, False for rows of padding.
        counts: number of anchors of each level.
        per_cell: number of anchors of a cell.

    Returns:
        (B, A) index of the box that each anchor learns, -1 for background.
    """
    index = _candidates(anchors, boxes, counts, per_cell)
    candidates = anchors[index]
    iou = paired_iou(boxes[:, :, None], candidates)
    centres = (candidates[..., :2] + candidates[..., 2:]) / 2
    inside = ((centres > boxes[:, :, None, :2]) & (centres < boxes[:, :, None, 2:])).all(-1)
    selected = inside & (iou >= iou.mean(2, keepdim=True) + iou.std(2, keepdim=True))
    selected = selected.scatter(2, iou.argmax(2, keepdim=True), True) & valid[..., None]

    # The box of highest IoU of each anchor; of equal ones the first.
    iou, index = iou.where(selected, -1.0).flatten(1), index.flatten(1)
    best = iou.new_full((len(boxes), len(anchors)), -1.0).scatter_reduce(1, index, iou, "amax")
    count = boxes.shape[1]
    numbers = torch.arange(count, device=boxes.device)[:, None].where(selected, count).flatten(1)
    numbers = numbers.where(iou == best.gather(1, index), count)
    box_index = index.new_full(best.shape, count).scatter_reduce(1, index, numbers, "amin")
    return box_index.masked_fill(box_index == count, -1)


def _candidates(anchors: Tensor, boxes: Tensor, counts: Sequence[int], per_cell: int) -> Tensor:
    """(B, M, candidates) indices of the anchors of the nearest cells of each level."""
    cell_centres = (anchors[::per_cell, :2] + anchors[::per_cell, 2:]) / 2
    # Not torch.cdist: its rounding, and so the order of equally distant cells, can depend on the size of the batch.
    x, y = ((boxes[..., [0, 1]] + boxes[..., [2, 3]]) / 2)[..., None, :].sub(cell_centres).unbind(-1)
    distance = x.square() + y.square()
    cells, first = [], 0
    for count in counts:
        level = distance[..., first : first + count // per_cell]
        cells.append(first + level.topk(min(NEAREST_CELLS, level.shape[-1]), largest=False).indices)
        first += count // per_cell
    index = torch.cat(cells, dim=-1)[..., None] * per_cell + torch.arange(per_cell, device=anchors.device)
    return index.flatten(2)
