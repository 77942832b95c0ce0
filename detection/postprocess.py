"""From raw predictions to final boxes: candidates, then soft or hard non-maximum suppression, a batch at a time."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

from detection.anchors import decode

# google/automl efficientdet/tf2/postprocess.py and hparams_config.py.
MAX_CANDIDATES, MAX_DETECTIONS, SCORE_THRESHOLD, SIGMA = 5000, 100, 0.001, 0.5
HARD_IOU = 0.5

Suppression = Literal["soft", "hard"]


class Detections(NamedTuple):
    """Final boxes of a batch, best first; rows past an image's last detection have score 0 and label -1.

    boxes: (B, D, 4) xyxy px; scores: (B, D) in 0..1; labels: (B, D) class indices.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def candidates(
    logits: Tensor, deltas: Tensor, anchors: Tensor, size: tuple[int, int] | Tensor, count: int = MAX_CANDIDATES
) -> Detections:
    """The `count` best (anchor, class) pairs of each image, decoded and clipped to the image.

    Args:
        logits: (B, A, K).
        deltas: (B, A, 4), see `anchors.encode`.
        anchors: (A, 4) xyxy px.
        size: (height, width) of the part of the input that is image, or (B, 2) of each image's.
        count: how many to keep; all, if there are fewer.
    """
    batch, total, classes = logits.shape
    # The best pairs lie at the anchors whose best classes are best: sorting these first leaves little of a large array.
    likely = logits.amax(2).topk(min(count, total), dim=1, sorted=False).indices
    row = torch.arange(batch, device=logits.device)[:, None]
    flat = logits[row, likely].flatten(1)
    top, index = flat.topk(min(count, flat.shape[1]), dim=1)
    anchor = likely.gather(1, index // classes)
    boxes = decode(deltas[row, anchor].float(), anchors[anchor])
    height, width = torch.as_tensor(size, device=boxes.device).expand(batch, 2).unbind(1)
    limit = torch.stack([width, height, width, height], dim=1)[:, None]
    return Detections(boxes.clamp(min=0).minimum(limit.to(boxes.dtype)), top.float().sigmoid(), index % classes)


def soft_nms(
    found: Detections,
    max_detections: int = MAX_DETECTIONS,
    sigma: float = SIGMA,
    score_threshold: float = SCORE_THRESHOLD,
) -> Detections:
    """Gaussian soft-NMS (Bodla et al., arXiv:1704.04503) within each class, for all images of the batch at once.

    Picks the best remaining candidate `max_detections` times; after each, candidates of its class lose score by
    exp(-IoU^2 / sigma). Ends early when nothing above `score_threshold` is left anywhere.
    """
    boxes, labels = found.boxes, found.labels
    scores = found.scores.clone()
    batch = torch.arange(len(boxes), device=boxes.device)
    # Coordinates by row, so that every step below reads contiguous memory.
    x1, y1, x2, y2 = boxes.unbind(-1)
    x1, y1, x2, y2 = x1.contiguous(), y1.contiguous(), x2.contiguous(), y2.contiguous()
    area = (x2 - x1) * (y2 - y1)
    picked, picked_scores = [], []
    for _ in range(min(max_detections, scores.shape[1])):
        best, index = scores.max(dim=1)
        if not bool((best > score_threshold).any()):
            break
        picked.append(index)
        picked_scores.append(best)
        left, top, right, bottom, own, label = (t[batch, index, None] for t in (x1, y1, x2, y2, area, labels))
        width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp_(min=0)
        height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp_(min=0)
        shared = width.mul_(height)
        iou = shared / (area + own - shared).clamp_(min=1e-9)
        decay = iou.square_().div_(-sigma).exp_()
        scores *= torch.where(labels == label, decay, 1.0)
        scores[batch, index] = -1
    if not picked:
        return _empty(found)
    return _finish(found, torch.stack(picked, 1), torch.stack(picked_scores, 1), score_threshold)


def hard_nms(
    found: Detections,
    max_detections: int = MAX_DETECTIONS,
    iou: float = HARD_IOU,
    score_threshold: float = SCORE_THRESHOLD,
) -> Detections:
    """Ordinary non-maximum suppression within each class: what overlaps a better box by more than `iou` is dropped.

    Candidates are in order of their scores, best first. No box depends on worse ones, so that the best few candidates
    suffice as long as enough of them remain.
    """
    index = torch.zeros(len(found.boxes), max_detections, dtype=torch.long, device=found.boxes.device)
    scores = torch.zeros(index.shape, device=found.boxes.device)
    for i, (box, score, label) in enumerate(zip(*found, strict=True)):
        # Classes far apart do not meet. In float32, pixels of the farthest ones would be coarse.
        apart = box.double() + (label * (box.amax() + 1).double() if len(box) else label)[:, None]
        count = 4 * max_detections
        while len(keep := nms(apart[:count], score[:count].double(), iou)) < max_detections and count < len(box):
            count *= 4
        keep = keep[:max_detections]
        index[i, : len(keep)] = keep
        scores[i, : len(keep)] = score[keep]
    return _finish(found, index, scores, score_threshold)


def suppress(found: Detections, method: Suppression = "soft") -> Detections:
    """Final detections by the named method, with EfficientDet's settings."""
    return {"soft": soft_nms, "hard": hard_nms}[method](found)


def to_original(found: Detections, scales: Tensor, sizes: Tensor) -> Detections:
    """From network to original pixels, clipped to the image.

    `scales` is (B, 2), network px per original px, (x, y); `sizes` is (B, 2), original (height, width).
    """
    limit = sizes.flip(1).repeat(1, 2)[:, None].to(found.boxes.dtype)
    return found._replace(boxes=(found.boxes / scales.repeat(1, 2)[:, None]).clamp(min=0).minimum(limit))


def _finish(found: Detections, index: Tensor, scores: Tensor, threshold: float) -> Detections:
    valid = scores > threshold
    boxes = found.boxes.gather(1, index[..., None].expand(-1, -1, 4)) * valid[..., None]
    return Detections(boxes, scores * valid, found.labels.gather(1, index).masked_fill(~valid, -1))


def _empty(found: Detections) -> Detections:
    return Detections(found.boxes[:, :0], found.scores[:, :0], found.labels[:, :0])
