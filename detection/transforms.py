"""The transform of training from images with boxes to the network's input."""

from __future__ import annotations

from data.resizing import Fill
from data.transforms import Color, ColorJitter, ScaleJitterCrop, Transform

MILD = Color()


def detection_train(
    size: tuple[int, int],
    jitter: tuple[float, float],
    fill: Fill,
    hflip: float = 0.5,
    vflip: float = 0.0,
    color: Color | None = MILD,
    min_visibility: float = 0.2,
) -> Transform:
    """For training: scale jitter with random crop (EfficientDet, arXiv:1911.09070), flips and mild colour jitter.

    Args:
        size: (height, width) of the network's input, px.
        jitter: range of the random scale; at 1 the image just fits into `size`. EfficientDet's is 0.1 to 2.0.
        fill: RGB in 0..255 of the padding.
        hflip: probability of a horizontal flip.
        vflip: probability of a vertical flip.
        color: strength of the colour jitter; None for no change.
        min_visibility: boxes of which a smaller fraction of the area remains are dropped.
    """
    colors = [] if color is None else [ColorJitter(color)]
    return Transform(ScaleJitterCrop(size, jitter, hflip, vflip), colors, fill, min_visibility)
