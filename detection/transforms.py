"""How images with boxes become the network's input, in evaluation and in training."""

from __future__ import annotations

from data.transforms import Color, ColorJitter, Fill, ScaleJitterCrop, Transform

MILD = Color()


def letterbox(size: tuple[int, int], fill: Fill) -> Transform:
    """For evaluation: the largest version of the image that fits `size` (height, width), top left, padded with `fill`.

    `fill` is RGB in 0..255, best the network's mean colour, which normalises to zero. Predicted boxes return to
    original pixels as `boxes / scale`. Nothing is random.
    """
    return Transform(ScaleJitterCrop(size), [], fill, min_visibility=0.0)


def detection_train(
    size: tuple[int, int],
    jitter: tuple[float, float],
    fill: Fill,
    hflip: float = 0.5,
    vflip: float = 0.0,
    color: Color | None = MILD,
    min_visibility: float = 0.2,
) -> Transform:
    """For training: scale jitter with random crop (Tan et al. 2020, EfficientDet: 0.1 to 2.0), flips, mild colour.

    `jitter` multiplies the scale at which the image fits `size` (height, width); `fill` is RGB in 0..255. Boxes of
    which less than `min_visibility` of the area remains are dropped; `color=None` leaves colours alone.
    """
    colors = [] if color is None else [ColorJitter(color)]
    return Transform(ScaleJitterCrop(size, jitter, hflip, vflip), colors, fill, min_visibility)
