"""Checks how well the detector's anchors fit the boxes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data.findings import Finding
from detection.anchors import Anchors, best_iou, fit_scale
from experiments.audit.splits import AuditedSplit

LEAST_RECALL = 0.95  # smallest share of boxes that should have an anchor with an IoU of 0.5
STRIDES = (8, 16, 32, 64, 128)  # of the detector's feature maps
FITTED = "fitted anchors, as in training"
PUBLISHED = 4.0  # scale of EfficientDet's anchors


def box_sizes(split: AuditedSplit, image_size: int) -> np.ndarray:
    """(N, 2) width and height of the training boxes, in px at an input whose longer side is `image_size`."""
    if split.dataset is None:
        return np.zeros((0, 2))
    image, boxes = split.dataset.boxes_by_image()
    return (boxes[:, 2:] - boxes[:, :2]) * (image_size / split.dataset.sizes[image].max(1, keepdims=True))


def anchor_findings(splits: list[AuditedSplit], image_size: int) -> Iterator[Finding]:
    """Yield the share of boxes with an anchor of IoU 0.5 or more, for the published and for fitted anchors."""
    sizes = np.concatenate([box_sizes(split, image_size) for split in splits])
    if not len(sizes):
        return
    fitted = fit_scale(sizes, list(STRIDES))
    scales = {"published anchors": PUBLISHED, FITTED: fitted}
    recalls = {name: (best_iou(sizes, Anchors(list(STRIDES), scale)) >= 0.5).mean() for name, scale in scales.items()}
    shares = "; ".join(f"{name} {100 * recalls[name]:.1f}% at scale {scale:g}" for name, scale in scales.items())
    what = f"share of boxes with an anchor of IoU 0.5 or more, at {image_size} px: {shares}"
    small = (sizes.prod(1) < STRIDES[0] ** 2).mean()
    if small > 0.05:
        what += f". {100 * small:.0f}% of the boxes are smaller than one cell of the finest feature map"
    if recalls[FITTED] >= LEAST_RECALL:
        yield Finding("note", what)
    else:
        yield Finding("warning", what, "A larger --image_size helps small boxes")
