"""From coarse logits to a class for every original pixel, in strips, over as many views of an image as are asked for.

A view is what the network saw of an image: the whole of it or a window, at some scale, perhaps mirrored. Its logits
stay as coarse as the network made them; each strip of original rows is interpolated from all views at once. So no
tensor of classes times original pixels is ever made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from segmentation.model import Segmenter

STRIP = 2**21  # logits interpolated at once: 8 MiB, which stays in a CPU's cache
OVERLAP = 1 / 3  # of neighbouring windows: mmsegmentation's crop 512, stride 341


@dataclass(frozen=True)
class View:
    """Coarse logits of one view of one image.

    Coordinates are in pixels of the view, from its upper left corner: an original pixel (row, column) lies at
    `(row + 0.5) * scale[0] - origin[0]`, and likewise across; mirrored, at `width` minus that.

    Attributes:
        logits: (K, h, w).
        scale: (y, x), view pixels per original pixel.
        origin: (y, x) of the view in the scaled image; (0, 0) where it is all of it.
        size: (height, width) of what the network saw, px.
        mirror: width of the mirrored part, px; None where it is not mirrored.
    """

    logits: Tensor
    scale: tuple[float, float]
    origin: tuple[int, int]
    size: tuple[int, int]
    mirror: float | None = None


@dataclass(frozen=True)
class Sight:
    """Which views of an image are averaged.

    Attributes:
        scales: of the whole image, relative to the evaluation's input size.
        flip: each of them mirrored as well.
        window: (height, width) of windows that slide over the scaled image; None to see it whole.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: tuple[int, int] | None = None

    def canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        """What images are fitted to: `size` (height, width) at the largest scale."""
        return round(size[0] * max(self.scales)), round(size[1] * max(self.scales))


def label_maps(model: Segmenter, images: Tensor, scales: Tensor, sizes: Tensor, sight: Sight) -> list[Tensor]:
    """The class of every original pixel of each image.

    Args:
        model: in evaluation mode.
        images: (B, 3, H, W) normalised, on `sight`'s canvas, each at the top left.
        scales: (B, 2) canvas pixels per original pixel, (x, y).
        sizes: (B, 2) original (height, width).
        sight: the views.

    Returns:
        B tensors (height, width) uint8 on the images' device.
    """
    originals: list[list[int]] = sizes.tolist()
    per_pixel: list[list[float]] = scales.tolist()
    views: list[list[View]] = [[] for _ in originals]
    shown = [column * height_width[1] for (column, _), height_width in zip(per_pixel, originals, strict=True)]
    for flip in (False, True) if sight.flip else (False,):
        seen = _mirrored(images, shown) if flip else images
        for scale in sight.scales:
            factor = scale / max(sight.scales)
            scaled = seen
            if factor != 1:
                size = [max(1, round(side * factor)) for side in images.shape[-2:]]
                scaled = F.interpolate(seen, size=size, mode="bilinear", antialias=True)
            ratio = tuple(a / b for a, b in zip(scaled.shape[-2:], images.shape[-2:], strict=True))
            for origin, part in _windows(scaled, sight.window):
                logits = model.coarse(part)
                for i, (x, y) in enumerate(per_pixel):
                    mirror = shown[i] * ratio[1] if flip else None
                    views[i].append(
                        View(logits[i], (y * ratio[0], x * ratio[1]), origin, (part.shape[2], part.shape[3]), mirror)
                    )
    return [
        label_map(own, (height, width), model.spec.stride, model.spec.corners)
        for own, (height, width) in zip(views, originals, strict=True)
    ]


def label_map(views: Sequence[View], size: tuple[int, int], stride: int, corners: bool) -> Tensor:
    """The likeliest class of every pixel of an image of `size` (height, width): uint8, strip after strip.

    Where there are several views, their probabilities are summed. `stride` and `corners` are the decoder's.
    """
    height, width = size
    first = views[0].logits
    labels = torch.empty(size, dtype=torch.uint8, device=first.device)
    columns = torch.arange(width, device=first.device) + 0.5
    at_once = max(1, STRIP // (len(first) * width))
    for top in range(0, height, at_once):
        rows = torch.arange(top, min(top + at_once, height), device=first.device) + 0.5
        if len(views) == 1:
            y, x = _places(views[0], rows, columns)
            strip = _interpolate(views[0], y, x, stride, corners)
        else:
            strip = torch.zeros(len(first), len(rows), width, device=first.device)
            for view in views:
                y, x = _places(view, rows, columns)
                inside_y, inside_x = _inside(y, view.size[0]), _inside(x, view.size[1])
                if inside_y.numel() and inside_x.numel():
                    some = _interpolate(view, y[inside_y], x[inside_x], stride, corners).softmax(0)
                    strip[:, inside_y[:, None], inside_x] += some
        labels[top : top + len(rows)] = strip.argmax(0)
    return labels


def _places(view: View, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of original pixels in pixels of the view."""
    y, x = rows * view.scale[0], columns * view.scale[1]
    return y - view.origin[0], (x if view.mirror is None else view.mirror - x) - view.origin[1]


def _inside(places: Tensor, length: int) -> Tensor:
    return ((places >= 0) & (places <= length)).nonzero().squeeze(1)


def _interpolate(view: View, y: Tensor, x: Tensor, stride: int, corners: bool) -> Tensor:
    """Bilinear logits (K, len(y), len(x)) at these places, as `torch.nn.functional.interpolate` would enlarge them."""
    low, high, share = _neighbours(y, view.logits.shape[1], stride, corners)
    logits = view.logits.float()
    across = torch.lerp(logits.index_select(1, low), logits.index_select(1, high), share[:, None])
    low, high, share = _neighbours(x, view.logits.shape[2], stride, corners)
    return torch.lerp(across.index_select(2, low), across.index_select(2, high), share)


def _neighbours(places: Tensor, cells: int, stride: int, corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The two cells that each place lies between, and how far it is from the first to the second, 0..1."""
    per_place = (cells - 1) / max(1, cells * stride - 1) if corners else 1 / stride
    index = ((places - 0.5) * per_place if corners else places * per_place - 0.5).clamp(0, cells - 1)
    low = index.long()
    return low, (low + 1).clamp(max=cells - 1), index - low


def _mirrored(images: Tensor, shown: Sequence[float]) -> Tensor:
    """Each image mirrored within the part that it fills, so that padding stays where the network knows it."""
    mirrored = images.clone()
    for image, source, width in zip(mirrored, images, shown, strict=True):
        image[..., : round(width)] = source[..., : round(width)].flip(-1)
    return mirrored


def _windows(images: Tensor, window: tuple[int, int] | None) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Where each window starts (y, x), and what it shows; the whole where it fits into one."""
    height, width = images.shape[-2:]
    if window is None:
        yield (0, 0), images
        return
    for y in _starts(height, window[0]):
        for x in _starts(width, window[1]):
            yield (y, x), images[..., y : y + window[0], x : x + window[1]]


def _starts(length: int, window: int) -> list[int]:
    """Starts of windows that cover `length`, overlapping by a third or more, the last one flush with its end."""
    if length <= window:
        return [0]
    step = int(window * (1 - OVERLAP))
    return [*range(0, length - window, step), length - window]
