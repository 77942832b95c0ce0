"""Drawn scenes: textured landscapes with objects on them, and the exact ground truth of every pixel.

Shape and hue depend on the class; texture, outline, pose, scale and aspect ratio do not. The random generator that is
passed in determines everything: the same state results in the same bytes. Objects are painted at twice the resolution
and then downscaled, so that their edges are soft. The ground truth is one of every four sub-pixels.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from data.demo.landscape import GRASS, ROAD, SAND, SKY, STUFF, WATER, clutter, landscape
from data.demo.shapes import SHARPNESS, THINGS, Rng, dress, pose, thrice

LEAST_AREA = 12 * SHARPNESS**2  # an object with fewer visible sub-pixels is not placed
SIZES = (40.0, 120.0)  # range of the longest side of an object, px
OVERLAP = 0.12  # probability that an object is placed on top of another
LEAST_VISIBLE = 0.25  # least visible fraction of each object in a scene
# Usual backgrounds of classes. Objects are only sometimes placed there: the background must not reveal the class.
HOMES = {"balloon": (SKY,), "bird": (SKY,), "boat": (WATER,), "fish": (WATER,), "bus": (ROAD,), "car": (ROAD,)}
AT_HOME = 0.6  # probability that an object is placed on its usual background


@dataclass(frozen=True)
class Instance:
    """The visible part of one object, or of a crowd of one class."""

    key: int
    """Value of its pixels in `Scene.keys`, 1 or more."""
    thing: int
    """Index into `THINGS`."""
    box: tuple[int, int, int, int]
    """x, y, width, height in pixels: the bounding box of the visible pixels."""
    area: int
    """Number of visible pixels."""
    visible: float
    """Visible fraction of the object, 0.25..1."""
    crowd: bool = False


@dataclass(frozen=True)
class Scene:
    """An image and its ground truth, all of the same height and width."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    classes: np.ndarray
    """(H, W) uint8, indices into `STUFF + THINGS`."""
    keys: np.ndarray
    """(H, W) uint8: 0 for stuff, else the `key` of the visible instance."""
    instances: tuple[Instance, ...]


class _Canvas:
    """A landscape at painting resolution, and the object that is visible at each sub-pixel."""

    def __init__(self, rng: Rng, height: int, width: int):
        self.rng, self.height, self.width = rng, height, width
        colours, self.stuff = landscape(rng, height, width)
        self.colours = cv2.resize(colours, (width * SHARPNESS, height * SHARPNESS), interpolation=cv2.INTER_LINEAR)
        clutter(rng, self.colours)
        self.keys = np.zeros(self.colours.shape[:2], np.uint8)
        self.things: list[int] = []
        self.whole: list[int] = []  # sub-pixels of each object, with hidden ones
        self.shown = np.zeros(0, int)  # visible sub-pixels of each object
        self.boxes: list[tuple[float, float, float, float]] = []  # x0, y0, x1, y1 in sub-pixels, with hidden parts
        self.crowds: set[int] = set()

    def site(self, thing: int) -> np.ndarray:
        """Centre for an object, (x, y) in pixels, usually on a usual background of its class."""
        homes = HOMES.get(THINGS[thing], (GRASS, SAND))
        pixels = np.flatnonzero(np.isin(self.stuff, homes)) if self.rng.random() < AT_HOME else np.empty(0, int)
        if not len(pixels):
            pixels = np.arange(self.stuff.size)
        return np.array(divmod(int(self.rng.choice(pixels)), self.width)[::-1])

    def paint(
        self, thing: int, at: np.ndarray, size: float, overlap: tuple[float, float] = (0, 1), crowd: int = 0
    ) -> int:
        """Paint an object of `size` pixels, centred at `at` (x, y), in front of all others. Returns its key.

        Returns 0 and paints nothing if too little of it or of an object behind it would be visible, or if its highest
        box IoU with another object is outside of the range `overlap`. `crowd` is the key of a crowd that it joins.
        """
        parts, h, w = pose(self.rng, thing, size * SHARPNESS)
        left, top = round(at[0] * SHARPNESS - w / 2), round(at[1] * SHARPNESS - h / 2)
        box = (left, top, left + w, top + h)
        if not crowd and not overlap[0] <= max((_iou(box, other) for other in self.boxes), default=0.0) <= overlap[1]:
            return 0
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + w, self.keys.shape[1]), min(top + h, self.keys.shape[0])
        if x0 >= x1 or y0 >= y1:
            return 0
        sprite, mask = dress(self.rng, thing, parts, h, w)
        cut = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        keys, mask_in, colours = self.keys[y0:y1, x0:x1], mask[cut], sprite[cut]
        whole, count = int(mask.sum()), int(mask_in.sum())
        hidden = np.bincount(keys[mask_in], minlength=len(self.things) + 1)
        hidden[[0, crowd]] = 0
        least = np.maximum(LEAST_VISIBLE * np.array(self.whole), LEAST_AREA)
        if count < max(2 * LEAST_VISIBLE * whole, LEAST_AREA) or (self.shown - hidden[1:] < least).any():
            return 0
        self.shown -= hidden[1:]
        key = crowd or len(self.things) + 1
        if crowd:
            gained = int((keys[mask_in] != key).sum())
            self.whole[key - 1] += gained
            self.shown[key - 1] += gained
        else:
            self.things.append(thing)
            self.whole.append(whole)
            self.boxes.append(box)
            self.shown = np.append(self.shown, count)
        keys[mask_in] = key
        cv2.copyTo(colours, mask_in.view(np.uint8), self.colours[y0:y1, x0:x1])
        return key

    def scene(self) -> Scene:
        """The scene in pixels, with the effects of light and camera."""
        keys = np.ascontiguousarray(self.keys[::SHARPNESS, ::SHARPNESS])
        classes, instances = self.stuff.copy(), []
        for key, (thing, whole) in enumerate(zip(self.things, self.whole, strict=True), start=1):
            mask = keys == key
            classes[mask] = len(STUFF) + thing
            x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
            visible = float(self.shown[key - 1]) / whole
            instances.append(Instance(key, thing, (x, y, w, h), int(mask.sum()), visible, key in self.crowds))
        image = cv2.resize(self.colours, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return Scene(_photograph(self.rng, image), classes, keys, tuple(instances))


def _iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    inner = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


def _photograph(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Add uneven light, a colour cast, blur and sensor noise: (H, W, 3) float32 in 0..255 -> uint8."""
    height, width = image.shape[:2]
    turn, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    across, down = (np.linspace(-depth, depth, n, dtype=np.float32) for n in (width, height))
    light = np.float32(rng.uniform(0.75, 1.2)) * (1 + across * math.cos(turn) + down[:, None] * math.sin(turn))
    image = image * cv2.merge([light * np.float32(cast) for cast in rng.normal(1, 0.05, 3)])
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8))
    noise = rng.uniform(1, 5) * rng.standard_normal((height, width), np.float32)
    return np.clip(image + (thrice(noise) + 0.5), 0, 255).astype(np.uint8)


def draw_scene(rng: Rng, height: int, width: int, objects: int, crowd: bool = False) -> Scene:
    """A landscape with `objects` objects, and a crowd if `crowd` is set. 0 objects are an empty scene; up to 10 fit.

    The logarithm of the longest side is uniform over `SIZES`. Some objects are placed on top of another, so that about
    a quarter of the boxes overlap another with IoU > 0.1. The others do not overlap by more than IoU 0.08.
    """
    canvas = _Canvas(rng, height, width)
    if crowd:
        thing = int(rng.choice([THINGS.index(name) for name in ("bird", "fish", "person", "flower")]))
        key, centre = 0, canvas.site(thing)
        for _ in range(60):
            at = rng.normal(centre, (26, 13))
            key = canvas.paint(thing, at, rng.uniform(9, 14), crowd=key) or key
        canvas.crowds |= {key} - {0}
    low, high = SIZES
    # Large objects first, since later objects hide earlier ones.
    for size in sorted(low * (high / low) ** rng.random(objects), reverse=True):
        placed = 0
        while not placed:
            thing, on_top = int(rng.integers(len(THINGS))), canvas.boxes and rng.random() < OVERLAP
            if on_top:
                x0, y0, x1, y1 = (v / SHARPNESS for v in canvas.boxes[rng.integers(len(canvas.boxes))])
                at = rng.normal(((x0 + x1) / 2, (y0 + y1) / 2), ((x1 - x0) * 0.4, (y1 - y0) * 0.4))
                placed = canvas.paint(thing, at, size, overlap=(0.12, 0.6))
            else:
                placed = canvas.paint(thing, canvas.site(thing), size, overlap=(0, 0.08))
            size = max(low / 2, size * 0.97)  # if there is no room, try a smaller one
    return canvas.scene()


def draw_portrait(rng: Rng, height: int, width: int, thing: int) -> Scene:
    """A landscape with one large object of class `thing` and up to three small objects of any class."""
    canvas, side = _Canvas(rng, height, width), min(height, width)
    while not canvas.things:
        at = rng.normal((width / 2, height / 2), side * 0.08)
        canvas.paint(thing, at, side * rng.uniform(0.4, 0.9))
    for _ in range(rng.integers(0, 4)):
        other = int(rng.integers(len(THINGS)))
        canvas.paint(other, canvas.site(other), side * rng.uniform(0.1, 0.25))
    return canvas.scene()
