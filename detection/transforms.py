"""Transforms from images with boxes to the network's input, for evaluation and training."""

from __future__ import annotations

from data.transforms import Color, ColorJitter, Fill, ScaleJitterCrop, Transform

MILD = Color()


def letterbox(size: tuple[int, int], fill: Fill) -> Transform:
    """For evaluation: scales the image to fit into `size`, places it at the top left, and pads it. Nothing is random.

    Predicted boxes in original pixels are `boxes / scale`.

    Args:
        size: (height, width) of the network's input, px.
        fill: RGB in 0..255 of the padding; best the network's mean colour, which is zero after normalisation.
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
