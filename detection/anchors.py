"""Anchors: their positions and sizes, boxes encoded relative to them, and a scale that fits the boxes of a data set.

Boxes are (x1, y1, x2, y2) in pixels of the network's input. The origin is the top-left corner of the top-left pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

# (width, height) factors of the three shapes, from the first release of google/automl, with which the published weights
# were trained. The aspect ratios 2.0 and 0.5 of later releases differ by 1%.
RATIOS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
OCTAVES = 3

# Upper limit of dw and dh, 62.5 times the anchor, as in torchvision. Without it an outlier could be an infinite box.
FIT_ON = 20_000  # boxes; the standard error of their mean IoU is below 0.002
MAX_LOG_SCALE = math.log(1000.0 / 16)


class Anchors:
    """Anchor boxes of a feature pyramid.

    The anchors of cell (row i, column j) of a level with stride s are centred at ((j + 1/2) s, (i + 1/2) s). They have
    every combination of the sizes scale x s x 2^(k / octaves), k = 0 .. octaves - 1, and the shapes `ratios`.

    Args:
        strides: strides of the levels, finest first.
        scale: side of the smallest square anchor of a level, in strides.
        ratios: (width, height) factors of each shape.
        octaves: number of sizes per level.
    """

    def __init__(
        self,
        strides: Sequence[int],
        scale: float = 4.0,
        ratios: Sequence[tuple[float, float]] = RATIOS,
        octaves: int = OCTAVES,
    ) -> None:
        self.strides = tuple(strides)
        self.scale = scale
        self.ratios = tuple((float(w), float(h)) for w, h in ratios)
        self.octaves = octaves
        self._cached = lru_cache(maxsize=16)(self._build)

    @property
    def per_cell(self) -> int:
        """Number of anchors of a cell."""
        return self.octaves * len(self.ratios)

    def counts(self, size: tuple[int, int]) -> list[int]:
        """Number of anchors of each level for an input of `size` (height, width), px."""
        return [math.ceil(size[0] / s) * math.ceil(size[1] / s) * self.per_cell for s in self.strides]

    def __call__(self, size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
        """(A, 4) xyxy px for an input of `size` (height, width), ordered by level, row, column, size, shape."""
        return self._cached(tuple(size), torch.device(device))

    def boxes(self, height: int, width: int) -> Tensor:
        """The same on the CPU, not cached. Can be traced with open sizes."""
        boxes = []
        for stride in self.strides:
            sides = self.scale * stride * 2.0 ** (np.arange(self.octaves) / self.octaves)
            half = torch.from_numpy((sides[:, None, None] * np.array(self.ratios) / 2).reshape(-1, 2))
            x, y = (
                torch.arange(-(-side // stride), dtype=torch.float64) * stride + stride / 2 for side in (width, height)
            )
            centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 1, 2)
            boxes.append(torch.cat([centres - half, centres + half], dim=-1).reshape(-1, 4))
        return torch.cat(boxes).float()

    def _build(self, size: tuple[int, int], device: torch.device) -> Tensor:
        return self.boxes(*size).to(device)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes as offsets from anchors: (..., 4) and (..., 4) xyxy px -> (..., 4) offsets (dx, dy, dw, dh).

    dx and dy are centre shifts in anchor widths and heights; dw and dh are logarithms of the ratios of widths and
    heights (Faster R-CNN, arXiv:1506.01497, equation 2). The sides of boxes must be positive.
    """
    size, anchor_size = boxes[..., 2:] - boxes[..., :2], anchors[..., 2:] - anchors[..., :2]
    shift = (boxes[..., 2:] + boxes[..., :2] - anchors[..., 2:] - anchors[..., :2]) / (2 * anchor_size)
    return torch.cat([shift, (size / anchor_size).log()], dim=-1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `encode`: (..., 4) offsets and (..., 4) anchors, xyxy px -> (..., 4) xyxy px."""
    anchor_size = anchors[..., 2:] - anchors[..., :2]
    centre = (anchors[..., :2] + anchors[..., 2:]) / 2 + deltas[..., :2] * anchor_size
    half = deltas[..., 2:].clamp(max=MAX_LOG_SCALE).exp() * anchor_size / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def best_iou(sizes: np.ndarray, anchors: Anchors) -> np.ndarray:
    """Highest IoU of each box with an anchor of the same centre: (N, 2) widths and heights in px -> (N,) in 0..1."""
    sides = anchors.scale * 2.0 ** (np.arange(anchors.octaves) / anchors.octaves)
    shapes = np.array(anchors.strides)[:, None, None, None] * sides[:, None, None] * np.array(anchors.ratios)
    shapes = shapes.reshape(1, -1, 2)
    overlap = np.minimum(sizes[:, None], shapes).prod(-1)
    return (overlap / (sizes[:, None].prod(-1) + shapes.prod(-1) - overlap)).max(1)


def fit_scale(sizes: np.ndarray, strides: Sequence[int]) -> float:
    """The anchor scale that fits the boxes of a data set best: the one with the highest mean of `best_iou`.

    Of more than `FIT_ON` boxes, a fixed random sample is used.

    Args:
        sizes: (N, 2) widths and heights of the boxes, in pixels of the network's input.
        strides: strides of the levels.

    Returns:
        A scale between 1.5 and 4 in steps of 1/4. Without boxes it is 4, the published scale. Scales above 4 are not
        tried: they are the anchors of the next coarser level at half the scale.
    """
    candidates = np.arange(16, 5, -1) / 4
    if not len(sizes):
        return float(candidates[0])
    if len(sizes) > FIT_ON:
        sizes = sizes[np.random.default_rng(0).choice(len(sizes), FIT_ON, replace=False)]
    return float(max(candidates, key=lambda scale: best_iou(sizes, Anchors(strides, scale)).mean()))
