"""Class maps in original pixels, with optional test-time augmentation, in little memory.

The network predicts one or several views of an image: the whole image or a window of it, at some scale, flipped or not.
The logits of each view stay at the network's output stride. The class map is computed in strips of rows: each strip is
interpolated from the logits of all views. So no tensor has the size of classes times original pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segmentation.decoders import Spec
from segmentation.model import Segmenter

# Number of logits per strip: 8 MiB, which fits in a CPU's cache; elsewhere 256 MiB, because a GPU needs large steps.
STRIP, STRIP_ELSEWHERE = 2**21, 2**26
OVERLAP = 1 / 3  # overlap of neighbouring windows: mmsegmentation uses crops of 512 px with a stride of 341 px


@dataclass(frozen=True)
class ViewLogits:
    """Coarse logits of one view of one image.

    View pixels count from the upper left corner of the view. The centre of the original pixel (row, column) has the y
    coordinate `(row + 0.5) * scale[0] - origin[0]`. Its x coordinate is `(column + 0.5) * scale[1] - origin[1]`, or, in
    a flipped view, `flip_width - (column + 0.5) * scale[1] - origin[1]`.

    Attributes:
        logits: (K, h, w).
        scale: (y, x), view pixels per original pixel.
        origin: (y, x) of the view in the scaled image, in px. (0, 0) for the whole image.
        size: (height, width) of the view in px.
        flip_width: width of the flipped part of the scaled image in px. None if the view is not flipped.
    """

    logits: Tensor
    scale: tuple[float, float]
    origin: tuple[int, int]
    size: tuple[int, int]
    flip_width: float | None = None


@dataclass(frozen=True)
class TTA:
    """Test-time augmentation: the views whose class probabilities are averaged.

    Attributes:
        scales: scales of the whole image, relative to the input size in evaluation.
        flip: also use each view flipped horizontally.
        window: (height, width) in px of sliding windows over the scaled image. None for the whole image.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: tuple[int, int] | None = None

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) to resize images to: `size` times the largest scale."""
        return round(size[0] * max(self.scales)), round(size[1] * max(self.scales))


class ClassMap(NamedTuple):
    """The class of every pixel of an image.

    Attributes:
        labels: (height, width) uint8.
        confidence: (height, width) float32, probability of that class in 0..1. None if it was not requested.
    """

    labels: Tensor
    confidence: Tensor | None


class CoarseNetwork(NamedTuple):
    """A segmentation network: `coarse` as in `Segmenter`, and the `Spec` of its decoder."""

    coarse: Callable[[Tensor], Tensor]
    spec: Spec


def class_maps(
    model: Segmenter | CoarseNetwork,
    images: Tensor,
    scales: Tensor,
    sizes: Tensor,
    tta: TTA,
    with_confidence: bool = False,
) -> list[ClassMap]:
    """Predict the class of every original pixel of a batch of images.

    Args:
        model: in evaluation mode.
        images: (B, 3, H, W) normalised, of the size `tta.input_size`. Padding is on the right and at the bottom.
        scales: (B, 2) input pixels per original pixel, (x, y).
        sizes: (B, 2) original (height, width).
        tta: the views to average.
        with_confidence: whether to compute the probability of each pixel's class too.

    Returns:
        B class maps in original pixels, on the device of `images`.
    """
    original_sizes: list[list[int]] = sizes.tolist()
    image_scales: list[list[float]] = scales.tolist()
    views: list[list[ViewLogits]] = [[] for _ in original_sizes]
    # Without padding, in input pixels.
    widths = [x_scale * width for (x_scale, _), (_, width) in zip(image_scales, original_sizes, strict=True)]
    for flip in (False, True) if tta.flip else (False,):
        flipped = _flip(images, widths) if flip else images
        for scale in tta.scales:
            factor = scale / max(tta.scales)
            scaled = flipped
            if factor != 1:
                size = [max(1, round(side * factor)) for side in images.shape[-2:]]
                scaled = F.interpolate(flipped, size=size, mode="bilinear", antialias=True)
            ratio = tuple(a / b for a, b in zip(scaled.shape[-2:], images.shape[-2:], strict=True))
            for origin, window in _windows(scaled, tta.window):
                logits = model.coarse(window)
                for i, (x_scale, y_scale) in enumerate(image_scales):
                    view_scale = y_scale * ratio[0], x_scale * ratio[1]
                    view_size = window.shape[2], window.shape[3]
                    flip_width = widths[i] * ratio[1] if flip else None
                    views[i].append(ViewLogits(logits[i], view_scale, origin, view_size, flip_width))
    return [
        class_map(image_views, (height, width), model.spec.stride, model.spec.corners, with_confidence)
        for image_views, (height, width) in zip(views, original_sizes, strict=True)
    ]


def in_original_pixels(maps: Sequence[ClassMap], scales: Tensor, sizes: Tensor) -> list[ClassMap]:
    """Class maps in original pixels from maps in input pixels: each original pixel has the class at its centre.

    Args:
        maps: of the padded inputs.
        scales, sizes: as in `class_maps`.
    """
    found = []
    for each, (x_scale, y_scale), (height, width) in zip(maps, scales.tolist(), sizes.tolist(), strict=True):
        rows = ((torch.arange(height) + 0.5) * y_scale).long().clamp(max=each.labels.shape[0] - 1)[:, None]
        columns = ((torch.arange(width) + 0.5) * x_scale).long().clamp(max=each.labels.shape[1] - 1)
        confidence = None if each.confidence is None else each.confidence[rows, columns]
        found.append(ClassMap(each.labels[rows, columns], confidence))
    return found


def class_map(
    views: Sequence[ViewLogits], size: tuple[int, int], stride: int, corners: bool, with_confidence: bool = False
) -> ClassMap:
    """The most probable class of every pixel, from the mean of the class probabilities of all views.

    Args:
        views: of one image.
        size: (height, width) of the original image.
        stride, corners: of the decoder, see `segmentation.decoders.Spec`.
        with_confidence: whether to compute the probability of each pixel's class too.
    """
    height, width = size
    first = views[0].logits
    labels = torch.empty(size, dtype=torch.uint8, device=first.device)
    confidence = torch.empty(size, device=first.device) if with_confidence else None
    columns = torch.arange(width, device=first.device) + 0.5
    strip_logits = STRIP if first.device.type == "cpu" else STRIP_ELSEWHERE
    strip_rows = max(1, strip_logits // (len(first) * width))
    for top in range(0, height, strip_rows):
        rows = torch.arange(top, min(top + strip_rows, height), device=first.device) + 0.5
        if len(views) == 1:  # the largest logit is the largest probability
            y, x = _view_coordinates(views[0], rows, columns)
            strip = _interpolate(views[0], y, x, stride, corners)
        else:
            strip = torch.zeros(len(first), len(rows), width, device=first.device)
            for view in views:
                y, x = _view_coordinates(view, rows, columns)
                inside_y, inside_x = _inside(y, view.size[0]), _inside(x, view.size[1])
                if inside_y.numel() and inside_x.numel():
                    probabilities = _interpolate(view, y[inside_y], x[inside_x], stride, corners).softmax(0)
                    strip[:, inside_y[:, None], inside_x] += probabilities
        best = strip.argmax(0)
        labels[top : top + len(rows)] = best
        if confidence is not None:
            # Over several views the strip has sums of probabilities, which need not add up to the same at each pixel.
            shares = strip.softmax(0) if len(views) == 1 else strip / strip.sum(0)
            confidence[top : top + len(rows)] = shares.gather(0, best[None])[0]
    return ClassMap(labels, confidence)


def _view_coordinates(view: ViewLogits, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Convert coordinates y, x from original pixels to view pixels."""
    y, x = rows * view.scale[0], columns * view.scale[1]
    return y - view.origin[0], (x if view.flip_width is None else view.flip_width - x) - view.origin[1]


def _inside(coordinates: Tensor, length: int) -> Tensor:
    """Indices of the coordinates within 0..length."""
    return ((coordinates >= 0) & (coordinates <= length)).nonzero().squeeze(1)


def _interpolate(view: ViewLogits, y: Tensor, x: Tensor, stride: int, corners: bool) -> Tensor:
    """Bilinear interpolation of logits at view coordinates, as by `F.interpolate`. Returns (K, len(y), len(x))."""
    low, high, weight = _neighbours(y, view.logits.shape[1], stride, corners)
    logits = view.logits.float()
    rows = torch.lerp(logits.index_select(1, low), logits.index_select(1, high), weight[:, None])
    low, high, weight = _neighbours(x, view.logits.shape[2], stride, corners)
    return torch.lerp(rows.index_select(2, low), rows.index_select(2, high), weight)


def _neighbours(coordinates: Tensor, cells: int, stride: int, corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The two cells on either side of each view coordinate, and the weight of the second, in 0..1."""
    scale = (cells - 1) / max(1, cells * stride - 1) if corners else 1 / stride
    index = ((coordinates - 0.5) * scale if corners else coordinates * scale - 0.5).clamp(0, cells - 1)
    low = index.long()
    return low, (low + 1).clamp(max=cells - 1), index - low


def _flip(images: Tensor, widths: Sequence[float]) -> Tensor:
    """Flip each image horizontally within its width in px, so that the padding stays on the right."""
    flipped = images.clone()
    for image, source, width in zip(flipped, images, widths, strict=True):
        image[..., : round(width)] = source[..., : round(width)].flip(-1)
    return flipped


def _windows(images: Tensor, window: tuple[int, int] | None) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Origin (y, x) and pixels of each sliding window, or of the whole images without a window."""
    height, width = images.shape[-2:]
    if window is None:
        yield (0, 0), images
        return
    for y in _starts(height, window[0]):
        for x in _starts(width, window[1]):
            yield (y, x), images[..., y : y + window[0], x : x + window[1]]


def _starts(length: int, window: int) -> list[int]:
    """Starts of windows that cover `length`. They overlap by at least a third, and the last one ends at `length`."""
    if length <= window:
        return [0]
    step = int(window * (1 - OVERLAP))
    return [*range(0, length - window, step), length - window]
