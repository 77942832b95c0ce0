"""The background of a scene: textured regions of stuff with ragged borders, and strokes without a class."""

import cv2
import numpy as np

from data.demo.shapes import Rng, color, noise, oval, thrice, wavy

STUFF: tuple[str, ...] = ("sky", "mountain", "water", "grass", "sand", "road")
SKY, MOUNTAIN, WATER, GRASS, SAND, ROAD = range(len(STUFF))
# hue in degrees, saturation, value; texture: cell height and width in pixels, strength
_LOOKS = (
    (((190, 240), (0.1, 0.6), (0.6, 1.0)), ((16, 60), 0.06)),
    (((15, 260), (0.05, 0.35), (0.3, 0.65)), ((9, 14), 0.16)),
    (((165, 235), (0.2, 0.75), (0.25, 0.8)), ((2.5, 22), 0.13)),
    (((55, 140), (0.25, 0.7), (0.25, 0.7)), ((5, 2), 0.16)),
    (((22, 52), (0.15, 0.5), (0.5, 0.9)), ((1.5, 1.5), 0.10)),
    (((0, 360), (0.0, 0.12), (0.2, 0.6)), ((3, 3), 0.06)),
)


def _ridge(rng: Rng, length: int, knots: int) -> np.ndarray:
    """A ragged line (length,) in about -1..1: the sum of three octaves of random values, interpolated linearly."""
    x = np.linspace(0, 1, length)
    octaves = [rng.uniform(-1, 1, knots * 3**i + 1) / 2.2**i for i in range(3)]
    return sum((np.interp(x, np.linspace(0, 1, len(o)), o) for o in octaves), np.zeros(length)) / 1.5


def landscape(rng: Rng, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A background: colours (H, W, 3) float32 in 0..255, and classes (H, W) uint8, indices into `STUFF`."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    classes = np.full((height, width), SKY, np.uint8)
    # One in eight is seen from above, without horizon and sky.
    horizon = -1.0 if rng.random() < 0.12 else height * rng.uniform(0.2, 0.6)
    tilt = rng.normal(0, 0.03)
    skyline = horizon + tilt * (np.arange(width) - width / 2)
    if rng.random() < 0.55:
        peaks = skyline - height * rng.uniform(0.06, 0.25) * (0.7 + _ridge(rng, width, 4))
        classes[y > peaks] = MOUNTAIN
    grounds = rng.permutation((WATER, GRASS, SAND))
    border = skyline
    for ground in grounds[: rng.integers(1, 4)]:
        classes[y > border] = ground
        border = border + height * (rng.uniform(0.12, 0.4) + rng.uniform(0.01, 0.06) * _ridge(rng, width, 5))
    land = y > skyline
    for _ in range(rng.integers(0, 4)):
        patch = np.zeros_like(classes)
        at, extent = rng.uniform((0, max(horizon, 0)), (width, height)), rng.uniform((0.1, 0.04), (0.25, 0.14))
        cv2.fillPoly(patch, [np.rint(wavy(rng, *at, *extent * (width, height))).astype(np.int32)], 1)
        classes[(patch > 0) & land] = rng.choice((WATER, GRASS, SAND))
    if rng.random() < 0.65:
        depth = np.clip((y - horizon) / (height - horizon), 0, 1)
        if rng.random() < 0.6:  # a road towards the horizon, else one across
            middle = rng.uniform(0.2, 0.8) * width + rng.normal(0, 0.35) * width * depth**2
            offset, half = x - middle, width * (0.02 + rng.uniform(0.12, 0.28) * depth)
        else:
            offset, half = (
                y - (horizon + (height - horizon) * rng.uniform(0.25, 0.9) + tilt * 4 * (x - width / 2)),
                height * 0.09,
            )
        lane = np.abs(offset) < half + _ridge(rng, height, 9)[:, None] * 2
        classes[lane & land] = ROAD
    else:
        offset = None

    tints, brightness = np.zeros((len(STUFF), 3), np.float32), np.zeros((height, width), np.float32)
    fine, slope = noise(rng, height, width, 1.3, 1.3), np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    for stuff in np.unique(classes):
        look, (cell, strength) = _LOOKS[stuff]
        tints[stuff] = color(rng, (5, 45) if stuff == SKY and rng.random() < 0.2 else look[0], *look[1:])
        grain = strength * rng.uniform(0.6, 1.5) * (noise(rng, height, width, *cell) + 0.35 * fine)
        np.copyto(brightness, (1 + grain) * (1 + rng.uniform(-0.3, 0.3) * slope), where=classes == stuff)
    colours = tints[classes] * thrice(brightness)
    if offset is not None and rng.random() < 0.6:
        paint = (classes == ROAD) & (np.abs(offset) < 1.3) & (np.sin((x + y) * rng.uniform(0.15, 0.4)) > 0)
        colours[paint] = color(rng, (0, 60), (0, 0.3), (0.8, 1))
    return colours, classes


def clutter(rng: Rng, canvas: np.ndarray) -> None:
    """Draw strokes, rings and patches without a class. Their pixels keep the class of the background."""
    height, width = canvas.shape[:2]
    for _ in range(rng.integers(2, 7)):
        at, reach = rng.uniform((0, 0), (width, height)), rng.uniform(8, 60)
        rx, ry = rng.uniform(0.1, 0.5, 2) * reach
        colour, pen = color(rng, (0, 360), (0, 0.9), (0.15, 0.95)).tolist(), int(rng.integers(1, 7))
        match int(rng.integers(4)):
            case 0:
                walk = at + np.cumsum(rng.normal(0, reach / 2, (rng.integers(3, 8), 2)), 0)
                cv2.polylines(canvas, [np.rint(walk).astype(np.int32)], False, colour, pen)
            case 1:
                cv2.polylines(canvas, [np.rint(oval(at[0], at[1], rx, ry)).astype(np.int32)], True, colour, pen)
            case 2:
                cv2.fillPoly(canvas, [np.rint(wavy(rng, at[0], at[1], rx, ry)).astype(np.int32)], colour)
            case _:
                corners = at + rng.uniform(-reach / 2, reach / 2, (rng.integers(3, 5), 2))
                cv2.fillPoly(canvas, [np.rint(corners).astype(np.int32)], colour)
