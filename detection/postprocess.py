"""From the network's outputs to final boxes: candidates, then non-maximum suppression and voting, by batch."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from detection.anchors import decode
from detection.boxes import paired_iou
from detection.config import MAX_CANDIDATES, MAX_DETECTIONS

# From google/automl, efficientdet/tf2/postprocess.py and efficientdet/hparams_config.py.
SCORE_THRESHOLD, SIGMA = 0.001, 0.5
HARD_IOU = 0.5
# Score voting (Kim and Lee, arXiv:2007.08103): their width of the weights, and the number of candidates that vote.
# Before it, soft suppression is milder. docs/recipes.md has the measurements.
VOTING_SIGMA, VOTERS, MILD_SIGMA = 0.025, 1000, 0.7
NO_VOTES = 1e-9  # sum of weights; distant candidates have weights of about 1e-18

Suppression = Literal["soft", "hard", "voting"]


class Detections(NamedTuple):
    """Boxes of a batch, sorted by descending score. Padding rows have score 0 and label -1.

    boxes: (B, D, 4) xyxy px.
    scores: (B, D) in 0..1.
    labels: (B, D) class indices.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def candidates(
    logits: Tensor, deltas: Tensor, anchors: Tensor, size: tuple[int, int] | Tensor, count: int = MAX_CANDIDATES
) -> Detections:
    """The `count` (anchor, class) pairs of highest score in each image. Boxes are decoded and clipped to the image.

    Args:
        logits: (B, A, K).
        deltas: (B, A, 4), see `anchors.encode`.
        anchors: (A, 4) xyxy px.
        size: (height, width) in px of the images without padding, or (B, 2) for each image.
        count: number of candidates; all pairs if there are fewer.
    """
    batch, total, classes = logits.shape
    # The best pairs belong to the anchors with the highest best-class scores. Selecting these first is faster.
    best_anchors = logits.amax(2).topk(min(count, total), dim=1, sorted=False).indices
    row = torch.arange(batch, device=logits.device)[:, None]
    flat = logits[row, best_anchors].flatten(1)
    top, index = flat.topk(min(count, flat.shape[1]), dim=1)
    anchor = best_anchors.gather(1, index // classes)
    boxes = decode(deltas[row, anchor].float(), anchors[anchor])
    height, width = torch.as_tensor(size, device=boxes.device).expand(batch, 2).unbind(1)
    limit = torch.stack([width, height, width, height], dim=1)[:, None]
    return Detections(boxes.clamp(min=0).minimum(limit.to(boxes.dtype)), top.float().sigmoid(), index % classes)


def soft_nms(
    detections: Detections,
    max_detections: int = MAX_DETECTIONS,
    sigma: float = SIGMA,
    score_threshold: float = SCORE_THRESHOLD,
) -> Detections:
    """Gaussian soft-NMS (Bodla et al., arXiv:1704.04503) within each class, for all images of the batch at once.

    Up to `max_detections` times, selects the remaining candidate of highest score, and multiplies the scores of the
    other candidates of its class by exp(-IoU^2 / sigma). On a CPU it stops when no score in the batch is above
    `score_threshold`. On a GPU this check would take longer than all steps, because it waits for the GPU each time.
    """
    boxes, labels = detections.boxes, detections.labels
    scores = detections.scores.clone()
    batch = torch.arange(len(boxes), device=boxes.device)
    # One contiguous tensor per coordinate: every step below then reads contiguous memory.
    x1, y1, x2, y2 = boxes.unbind(-1)
    x1, y1, x2, y2 = x1.contiguous(), y1.contiguous(), x2.contiguous(), y2.contiguous()
    area = (x2 - x1) * (y2 - y1)
    selected, selected_scores = [], []
    for _ in range(min(max_detections, scores.shape[1])):
        best, index = scores.max(dim=1)
        if scores.device.type == "cpu" and not bool((best > score_threshold).any()):
            break
        selected.append(index)
        selected_scores.append(best)
        left, top, right, bottom, best_area, label = (t[batch, index, None] for t in (x1, y1, x2, y2, area, labels))
        width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp_(min=0)
        height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp_(min=0)
        intersection = width.mul_(height)
        iou = intersection / (area + best_area - intersection).clamp_(min=1e-9)
        decay = iou.square_().div_(-sigma).exp_()
        scores *= torch.where(labels == label, decay, 1.0)
        scores[batch, index] = -1
    if not selected:
        return Detections(boxes[:, :0], scores[:, :0], labels[:, :0])
    return _gather(detections, torch.stack(selected, 1), torch.stack(selected_scores, 1), score_threshold)


def hard_nms(
    detections: Detections,
    max_detections: int = MAX_DETECTIONS,
    iou: float = HARD_IOU,
    score_threshold: float = SCORE_THRESHOLD,
) -> Detections:
    """Ordinary non-maximum suppression within each class: drops boxes whose IoU with a better box is above `iou`.

    The candidates must be sorted by descending score. Whether a box is dropped depends only on better boxes. It is
    therefore enough to process the first candidates, if `max_detections` of them remain.
    """
    if (device := detections.boxes.device).type == "mps":  # it has no float64
        found = hard_nms(Detections(*(x.cpu() for x in detections)), max_detections, iou, score_threshold)
        return Detections(*(x.to(device) for x in found))
    from torchvision.ops import nms  # here, since soft suppression does not need it: importing it takes a second

    index = torch.zeros(len(detections.boxes), max_detections, dtype=torch.long, device=device)
    scores = torch.zeros(index.shape, device=device)
    for i, (box, score, label) in enumerate(zip(*detections, strict=True)):
        # An offset per class, so that boxes of different classes do not overlap. With such offsets, float32 has too
        # little precision for the highest class indices.
        shifted = box.double() + (label * (box.amax() + 1).double() if len(box) else label)[:, None]
        count = 4 * max_detections
        while len(keep := nms(shifted[:count], score[:count].double(), iou)) < max_detections and count < len(box):
            count *= 4
        keep = keep[:max_detections]
        index[i, : len(keep)] = keep
        scores[i, : len(keep)] = score[keep]
    return _gather(detections, index, scores, score_threshold)


def box_voting(
    detections: Detections, candidates: Detections, sigma: float = VOTING_SIGMA, voters: int = VOTERS
) -> Detections:
    """Replace each box by a weighted mean of the candidates of its class, and keep scores and labels.

    The weight of a candidate is its score times exp(-(1 - IoU)^2 / sigma), as in score voting (arXiv:2007.08103).
    Anchors around an object predict its box with different errors, which partly cancel.

    Args:
        detections: what suppression selected from the candidates.
        candidates: sorted by descending score.
        sigma: width of the weights. Candidates with a small IoU have almost no weight.
        voters: number of candidates of each image that are used, the first ones.
    """
    boxes = []
    of_images = (detections.boxes, detections.labels, *(field[:, :voters] for field in candidates))
    for box, label, others, scores, labels in zip(*of_images, strict=True):
        distance = 1 - paired_iou(box[:, None], others)
        weights = scores * distance.square().div_(-sigma).exp_() * (label[:, None] == labels)
        total = weights.sum(1, keepdim=True)
        # Padding has no votes, and a box that is not among the voters may have no neighbours among them.
        boxes.append(torch.where(total > NO_VOTES, weights @ others / total.clamp(min=NO_VOTES), box))
    return detections._replace(boxes=torch.stack(boxes))


def suppress(detections: Detections, method: Suppression = "soft", max_detections: int = MAX_DETECTIONS) -> Detections:
    """The `max_detections` best detections by non-maximum suppression.

    "soft" and "hard" have EfficientDet's settings; "voting" is a milder soft suppression, then `box_voting`.
    """
    if method == "voting":
        return box_voting(soft_nms(detections, max_detections, MILD_SIGMA), detections)
    return {"soft": soft_nms, "hard": hard_nms}[method](detections, max_detections)


def to_original(detections: Detections, scales: Tensor, sizes: Tensor) -> Detections:
    """Convert boxes from network to original pixels, and clip them to the image.

    Args:
        detections: in network pixels.
        scales: (B, 2), network pixels per original pixel, (x, y).
        sizes: (B, 2), original (height, width).
    """
    limit = sizes.flip(1).repeat(1, 2)[:, None].to(detections.boxes.dtype)
    return detections._replace(boxes=(detections.boxes / scales.repeat(1, 2)[:, None]).clamp(min=0).minimum(limit))


def _gather(detections: Detections, index: Tensor, scores: Tensor, threshold: float) -> Detections:
    """The detections at `index` (B, D) with new scores (B, D); those up to `threshold` become padding."""
    valid = scores > threshold
    boxes = detections.boxes.gather(1, index[..., None].expand(-1, -1, 4)) * valid[..., None]
    return Detections(boxes, scores * valid, detections.labels.gather(1, index).masked_fill(~valid, -1))
