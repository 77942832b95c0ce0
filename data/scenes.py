"""Scenes drawn by program: textured landscapes with objects on them, and the exact truth about every pixel.

Colour, texture, outline, pose, scale and aspect are drawn independently of the class, so that only shape tells two
objects apart. Everything is a function of the generator that is passed in: same state, same bytes. Objects are painted
at twice the resolution and reduced, which gives them soft edges; truth is taken from one of every four sub-pixels.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

Rng = np.random.Generator
Part = tuple[np.ndarray, int]  # outline (N,2) in units of the object, y down; index into the object's colours
BODY, TRIM, DARK, LIGHT = range(4)
SHARPNESS = 2  # sub-pixels per pixel and axis while painting
LEAST_AREA = 12 * SHARPNESS**2  # sub-pixels, likewise
SIZES = (12.0, 180.0)  # longest sides of objects in pixels
UPON = 0.27  # how often a place upon another object is tried
LEAST_VISIBLE = 0.25  # an object that shows less of itself than this share is not in the scene


@dataclass(frozen=True)
class Instance:
    """One object, or a crowd of one class, as seen: hidden parts and parts outside of the image do not count."""

    key: int
    """Its value in `Scene.keys`, 1 or more."""
    thing: int
    """Index into `THINGS`."""
    box: tuple[int, int, int, int]
    """x, y, width, height in pixels: the tight extent of the visible pixels."""
    area: int
    """Visible pixels."""
    visible: float
    """Visible share of the whole object, 0.25..1."""
    crowd: bool = False


@dataclass(frozen=True)
class Scene:
    """An image and its truth, all of one height and width."""

    image: np.ndarray
    """(H,W,3) uint8, RGB."""
    classes: np.ndarray
    """(H,W) uint8, index into `STUFF + THINGS`."""
    keys: np.ndarray
    """(H,W) uint8: 0 is stuff, else the `key` of the instance seen there."""
    instances: tuple[Instance, ...]


# ---- shapes ----------------------------------------------------------------------------------------------------------


def _oval(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 26, endpoint=False)
    u, v = rx * np.cos(angle), ry * np.sin(angle)
    return np.stack([x + u * math.cos(turn) - v * math.sin(turn), y + u * math.sin(turn) + v * math.cos(turn)], 1)


def _wavy(rng: Rng, x: float, y: float, rx: float, ry: float, depth: float = 0.12) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = 1 + sum(rng.uniform(-depth, depth) * np.sin(k * angle + rng.uniform(0, 6)) for k in (2, 3, 5, 8))
    return np.stack([x + rx * radius * np.cos(angle), y + ry * radius * np.sin(angle)], 1)


def _rect(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _bar(x0: float, y0: float, x1: float, y1: float, width: float, tip: float = 1.0) -> np.ndarray:
    along = np.array([x1 - x0, y1 - y0])
    side = np.array([-along[1], along[0]]) / (np.hypot(*along) + 1e-9) * width / 2
    start, end = np.array([x0, y0]), np.array([x1, y1])
    return np.stack([start + side, end + side * tip, end - side * tip, start - side])


def _balloon(rng: Rng) -> list[Part]:
    tall = rng.uniform(0.95, 1.3)
    parts = [(_oval(0, 0, 1, tall), BODY)]
    parts += [(_oval(0, 0, r, tall), TRIM if i % 2 else BODY) for i, r in enumerate((0.62, 0.25))] * (
        rng.random() < 0.5
    )
    if rng.random() < 0.5:  # a hot-air balloon with its basket, else a toy on a string
        parts += [(_bar(s * 0.6, tall * 0.8, s * 0.22, tall + 0.75, 0.06), DARK) for s in (-1, 1)]
        return [*parts, (_rect(-0.28, tall + 0.7, 0.28, tall + 1.1), TRIM)]
    bend = rng.uniform(-0.3, 0.3)
    string = [(_bar(0, tall, bend, tall + 0.6, 0.07), DARK), (_bar(bend, tall + 0.6, 0, tall + 1.2, 0.07), DARK)]
    return [*string, *parts, (np.array([(0, tall - 0.05), (0.16, tall + 0.2), (-0.16, tall + 0.2)]), TRIM)]


def _bird(rng: Rng) -> list[Part]:
    lift, span = rng.uniform(-1.2, 0.9), rng.uniform(0.7, 1.3)
    tail = np.array([(-0.7, 0), (-1.5, rng.uniform(-0.45, 0)), (-1.45, rng.uniform(0.1, 0.4))])
    wing = np.array([(0.35, -0.05), (-0.45, 0.0), (-0.5 - 0.3 * span, lift * span), (-0.1, lift * span * 0.75)])
    head, neck = rng.uniform(0.24, 0.36), rng.uniform(-0.5, -0.1)
    beak = np.array([(0.95, neck - 0.13), (0.95 + rng.uniform(0.35, 0.7), neck + 0.05), (0.95, neck + 0.15)])
    parts = [(tail, TRIM), (_oval(0, 0, 0.85, rng.uniform(0.3, 0.48), -0.15), BODY), (beak, LIGHT)]
    legs = [(_bar(x, 0.3, x + 0.1, 0.9, 0.08), DARK) for x in (-0.05, 0.2)] * (rng.random() < 0.35)
    return [*legs, *parts, (_oval(0.85, neck, head, head), BODY), (wing, TRIM), (_oval(0.92, neck, 0.07, 0.07), DARK)]


def _boat(rng: Rng) -> list[Part]:
    bow, keel = rng.uniform(1.1, 1.5), rng.uniform(0.45, 0.7)
    hull = np.array([(-1.1, 0), (bow, -0.08), (0.75, keel), (-0.85, keel)])
    parts: list[Part] = [(hull, BODY), (_bar(-1.08, 0.1, bow - 0.05, 0.04, 0.12), LIGHT)]
    if rng.random() < 0.6:
        top, mast = rng.uniform(-2.2, -1.4), rng.uniform(-0.2, 0.2)
        sails = [
            (np.array([(mast + 0.07, top + 0.1), (mast + rng.uniform(0.7, 1.1), -0.2), (mast + 0.07, -0.2)]), TRIM)
        ]
        if rng.random() < 0.6:
            sails.append(
                (np.array([(mast - 0.07, top + 0.3), (mast - rng.uniform(0.5, 0.9), -0.2), (mast, -0.2)]), LIGHT)
            )
        return [(_bar(mast, 0, mast, top, 0.09), DARK), *sails, *parts]
    cabin, roof = rng.uniform(0.4, 0.7), rng.uniform(-0.8, -0.5)
    ports = [(_oval(x, roof * 0.5, 0.11, 0.11), DARK) for x in np.linspace(-cabin, cabin, 4)[1:-1]]
    return [(_rect(-0.3, roof - 0.5, 0.0, roof), TRIM), (_rect(-cabin - 0.1, roof, cabin, 0.02), LIGHT), *ports, *parts]


def _bus(rng: Rng) -> list[Part]:
    high, rows, panes = rng.uniform(0.75, 1.0), int(rng.integers(1, 3)), int(rng.integers(3, 6))
    top = -high * (1.0 if rows == 1 else 1.5)
    parts = [(_rect(-1.6, top, 1.6, 0.45), BODY), (_rect(-1.6, 0.12, 1.6, 0.24), TRIM)]
    edges = np.linspace(-1.5, 1.5, panes + 1)
    for row in range(rows):
        y = top + 0.15 + row * (0.05 - top) / rows
        parts += [(_rect(a + 0.06, y, b - 0.06, y + 0.42), DARK) for a, b in itertools.pairwise(edges)]
    return parts + _wheels(rng, (-1.0, 1.0) if rng.random() < 0.7 else (-1.05, 0.7, 1.15), 0.27)


def _car(rng: Rng) -> list[Part]:
    roof, nose, back = rng.uniform(-0.75, -0.5), rng.uniform(0.4, 0.75), rng.uniform(-1.2, -0.7)
    cabin = np.array([(back, -0.05), (back + rng.uniform(0.1, 0.4), roof), (nose - 0.5, roof), (nose, -0.05)])
    glass = cabin.mean(0) + (cabin - cabin.mean(0)) * (0.8, 0.62)
    body = np.array([(-1.4, 0.4), (-1.42, -0.05), (-1.2, -0.12), (0.9, -0.1), (1.38, 0.05), (1.45, 0.4)])
    post = (_bar(-0.15, roof, -0.15, 0, 0.1), BODY)
    return [(cabin, BODY), (glass, DARK), post, (body, BODY), (_oval(1.3, 0.12, 0.1, 0.08), LIGHT),
            *_wheels(rng, (-0.85, 0.85), rng.uniform(0.26, 0.36))]  # fmt: skip


def _wheels(rng: Rng, at: tuple[float, ...], radius: float) -> list[Part]:
    hub = rng.uniform(0.3, 0.6) * radius
    return [part for x in at for part in ((_oval(x, 0.42, radius, radius), DARK), (_oval(x, 0.42, hub, hub), LIGHT))]


def _fish(rng: Rng) -> list[Part]:
    deep, fork, gap = rng.uniform(0.4, 0.75), rng.uniform(0.4, 0.7), rng.uniform(-1.25, -1.0)
    tail = np.array([(-0.7, 0), (-1.5, -fork), (gap, 0), (-1.5, fork)])
    fin = np.array([(-0.4, -deep * 0.8), (rng.uniform(-0.5, -0.1), -deep - rng.uniform(0.2, 0.5)), (0.5, -deep * 0.7)])
    belly = np.array([(-0.1, deep * 0.8), (-0.3, deep + 0.3), (0.35, deep * 0.8)])
    bands = [(_oval(x, 0, 0.09, deep * 0.72), TRIM) for x in (-0.35, 0.0)] * (rng.random() < 0.5)
    eye = [(_oval(0.62, -0.12, 0.12, 0.12), LIGHT), (_oval(0.64, -0.12, 0.06, 0.06), DARK)]
    return [(tail, TRIM), (fin, TRIM), (belly, TRIM), (_oval(0, 0, 1, deep), BODY), *bands, *eye]


def _flower(rng: Rng) -> list[Part]:
    petals, long, bend = int(rng.integers(5, 9)), rng.uniform(0.42, 0.6), rng.uniform(-0.25, 0.25)
    turns = np.arange(petals) * 2 * np.pi / petals + rng.uniform(0, 1)
    wide = rng.uniform(0.7, 1.1) * 1.6 / petals
    stem = [(_bar(0, 0, bend, rng.uniform(1.6, 2.2), 0.13), TRIM)]
    stem += [(_oval(bend * 0.6 + s * 0.3, rng.uniform(1.0, 1.4), 0.32, 0.13, -s * 0.6), TRIM) for s in (-1, 1)]
    bloom = [(_oval(0.62 * np.cos(t), 0.62 * np.sin(t), long, wide, t), BODY) for t in turns]
    return [*stem, *bloom, (_oval(0, 0, 0.3, 0.3), LIGHT if rng.random() < 0.5 else DARK)]


def _house(rng: Rng) -> list[Part]:
    wall, peak, eave = rng.uniform(0.7, 1.1), rng.uniform(-1.0, -0.55), rng.uniform(1.0, 1.25)
    flat = rng.uniform(0.0, 0.6)
    roof = np.array([(-eave, 0), (-flat, peak), (flat, peak), (eave, 0)])
    chimney = [(_rect(0.45, peak - 0.1, 0.68, -0.05), DARK)] * (rng.random() < 0.5)
    door = rng.uniform(-0.6, 0.5)
    panes = [_rect(x, 0.2, x + 0.3, 0.5) for x in (-0.85, -0.2, 0.5) if not -0.45 < x - door < 0.35]
    return [*chimney, (_rect(-1, -0.05, 1, wall), BODY), (roof, TRIM), *[(p, LIGHT) for p in panes],
            (_rect(door, wall - 0.6, door + 0.3, wall), DARK)]  # fmt: skip


def _person(rng: Rng) -> list[Part]:
    parts: list[Part] = []
    for side in (-1, 1):
        leg, arm, elbow = rng.uniform(-0.1, 0.5), rng.uniform(0.1, 2.4), rng.uniform(-0.8, 0.8)
        parts.append((_bar(side * 0.15, 0.5, side * (0.15 + leg), 1.7, 0.3, 0.7), DARK))
        x, y = side * (0.32 + 0.5 * math.sin(arm)), -0.45 + 0.5 * math.cos(arm)
        parts += [(_bar(side * 0.3, -0.45, x, y, 0.24), BODY)]
        parts += [(_bar(x, y, x + side * 0.45 * math.sin(arm + elbow), y + 0.45 * math.cos(arm + elbow), 0.2), LIGHT)]
    hips = rng.uniform(0.25, 0.55)
    torso = np.array([(-0.4, -0.6), (0.4, -0.6), (hips, 0.65), (-hips, 0.65)])
    hat = [(_rect(-0.4, -1.32, 0.4, -1.2), TRIM), (_rect(-0.24, -1.6, 0.24, -1.25), TRIM)] * (rng.random() < 0.3)
    return [*parts, (torso, BODY), (_oval(0, -0.98, 0.3, 0.36), LIGHT), *hat]


def _tree(rng: Rng) -> list[Part]:
    trunk = (_bar(0, 1.7, rng.uniform(-0.1, 0.1), 0, rng.uniform(0.25, 0.45), 0.7), DARK)
    if rng.random() < 0.4:
        tiers, wide, top = int(rng.integers(2, 5)), rng.uniform(0.7, 1.0), rng.uniform(1.5, 1.9)
        crown = [np.array([(-wide * w, y), (0, y - top), (wide * w, y)])
                 for w, y in zip(np.linspace(1, 0.55, tiers), np.linspace(0.9, -0.5, tiers), strict=True)]  # fmt: skip
        return [trunk, *[(c, BODY) for c in crown]]
    leaves = [_wavy(rng, *rng.uniform((-0.45, -0.8), (0.45, 0.1)), *rng.uniform(0.5, 0.8, 2)) for _ in range(4)]
    return [trunk, *[(leaf, TRIM if i == 3 and rng.random() < 0.4 else BODY) for i, leaf in enumerate(leaves)]]


SHAPES: dict[str, Callable[[Rng], list[Part]]] = {
    "balloon": _balloon, "bird": _bird, "boat": _boat, "bus": _bus, "car": _car, "fish": _fish, "flower": _flower,
    "house": _house, "person": _person, "tree": _tree,
}  # fmt: skip
THINGS: tuple[str, ...] = tuple(SHAPES)
STUFF: tuple[str, ...] = ("sky", "mountain", "water", "grass", "sand", "road")
SKY, MOUNTAIN, WATER, GRASS, SAND, ROAD = range(len(STUFF))
# Where a thing is usually met. Only usually: the surroundings must not give the class away.
HOMES = {"balloon": (SKY,), "bird": (SKY,), "boat": (WATER,), "fish": (WATER,), "bus": (ROAD,), "car": (ROAD,)}
AT_HOME = 0.6


def _pose(rng: Rng, thing: int, size: float) -> tuple[list[Part], int, int]:
    """One object, turned, stretched, sheared or mirrored: its parts in sub-pixels, the height and width they need.

    `size` is the longest side of all parts together.
    """
    parts = SHAPES[THINGS[thing]](rng)
    turn = rng.normal(0, 0.22) if rng.random() < 0.85 else rng.uniform(-1.2, 1.2)
    stretch, mirror = math.exp(rng.normal(0, 0.13)), rng.choice((-1.0, 1.0))
    cos, sin, shear = math.cos(turn), math.sin(turn), rng.normal(0, 0.1)
    pose = np.array([[cos, -sin], [sin, cos]]) @ np.array([[stretch * mirror, shear], [0, 1 / stretch]])
    outlines = [points @ pose.T for points, _ in parts]
    every = np.concatenate(outlines)
    low, extent = every.min(0), np.ptp(every, axis=0)
    scale = size / extent.max()
    width, height = (int(n) + 4 for n in np.ceil(extent * scale))
    return [((o - low) * scale + 1.5, tone) for o, (_, tone) in zip(outlines, parts, strict=True)], height, width


def _dress(rng: Rng, parts: list[Part], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Paint a posed object in random colours and texture: (h,w,3) float32 0..255, and its mask (h,w) bool."""
    size = max(height, width)
    tones = [_colour(rng, (0, 360), (0.1, 0.95), value) for value in ((0.3, 0.95), (0.25, 0.95))]
    tones += [_colour(rng, (0, 360), (0, 0.6), (0.08, 0.3)), _colour(rng, (0, 360), (0, 0.35), (0.7, 1))]
    pen = max(1, round(size / 45)) if rng.random() < 0.5 else 0
    colours, roles = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.uint8)
    for outline, tone in parts:
        points = np.rint(outline * 16).astype(np.int32)
        cv2.fillPoly(colours, [points], tones[tone].tolist(), shift=4)
        cv2.fillPoly(roles, [points], tone + 1, shift=4)
        if pen:
            cv2.polylines(colours, [points], True, tones[DARK].tolist(), pen, shift=4)
            cv2.polylines(roles, [points], True, DARK + 1, pen, shift=4)

    pattern = _pattern(rng, height, width, size) * rng.uniform(0.1, 0.45)
    pattern[(roles != BODY + 1) & (roles != TRIM + 1)] = 0
    light = np.linspace(1.15, rng.uniform(0.65, 1.0), height, dtype=np.float32)[:, None]
    return colours * _thrice((1 + pattern) * light), roles > 0


def _colour(
    rng: Rng, hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]
) -> np.ndarray:
    hsv = np.array([[[rng.uniform(*hue) % 360, rng.uniform(*saturation), rng.uniform(*value)]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0] * 255


def _thrice(field: np.ndarray) -> np.ndarray:
    """(h,w) -> (h,w,3). NumPy's own broadcast over a last axis of three is several times slower."""
    return cv2.merge((field, field, field))


def _noise(rng: Rng, height: int, width: int, cell_y: float, cell_x: float) -> np.ndarray:
    """Smooth noise (height,width) float32 of about unit deviation, with blobs of cell_y x cell_x pixels."""
    coarse = rng.standard_normal((int(height / cell_y) + 2, int(width / cell_x) + 2), np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _pattern(rng: Rng, height: int, width: int, size: float) -> np.ndarray:
    """Plain, stripes, checks, dots or mottle, in -1..1, (height,width) float32."""
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    turn, wave = rng.uniform(0, np.pi), 2 * np.pi / max(5.0, size * rng.uniform(0.08, 0.35))
    cos, sin = wave * math.cos(turn), wave * math.sin(turn)
    match int(rng.integers(5)):
        case 0:
            return np.zeros((height, width), np.float32)
        case 1:
            return np.sign(np.sin(cos * x + sin * y))
        case 2:
            return np.sign(np.sin(cos * x + sin * y) * np.sin(cos * y - sin * x))
        case 3:
            return (np.sin(cos * x + sin * y) * np.sin(cos * y - sin * x) > 0.45).astype(np.float32)
        case _:
            return np.clip(_noise(rng, height, width, *[max(3.0, size / 8)] * 2), -1, 1)


# ---- stuff -----------------------------------------------------------------------------------------------------------

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
    """A ragged line (length,) in about -1..1: three octaves of random knots."""
    at = np.linspace(0, 1, length)
    octaves = [rng.uniform(-1, 1, knots * 3**i + 1) / 2.2**i for i in range(3)]
    return sum((np.interp(at, np.linspace(0, 1, len(o)), o) for o in octaves), np.zeros(length)) / 1.5


def _landscape(rng: Rng, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Stuff without things: colours (H,W,3) float32 0..255 and classes (H,W) uint8, indices into `STUFF`."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    classes = np.full((height, width), SKY, np.uint8)
    # One in eight looks down from above: no horizon, no sky.
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
        cv2.fillPoly(patch, [np.rint(_wavy(rng, *at, *extent * (width, height))).astype(np.int32)], 1)
        classes[(patch > 0) & land] = rng.choice((WATER, GRASS, SAND))
    if rng.random() < 0.65:
        depth = np.clip((y - horizon) / (height - horizon), 0, 1)
        if rng.random() < 0.6:  # a road that runs away from us, else one across
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
    fine, slope = _noise(rng, height, width, 1.3, 1.3), np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    for stuff in np.unique(classes):
        look, (cell, strength) = _LOOKS[stuff]
        tints[stuff] = _colour(rng, (5, 45) if stuff == SKY and rng.random() < 0.2 else look[0], *look[1:])
        grain = strength * rng.uniform(0.6, 1.5) * (_noise(rng, height, width, *cell) + 0.35 * fine)
        np.copyto(brightness, (1 + grain) * (1 + rng.uniform(-0.3, 0.3) * slope), where=classes == stuff)
    colours = tints[classes] * _thrice(brightness)
    if offset is not None and rng.random() < 0.6:
        paint = (classes == ROAD) & (np.abs(offset) < 1.3) & (np.sin((x + y) * rng.uniform(0.15, 0.4)) > 0)
        colours[paint] = _colour(rng, (0, 60), (0, 0.3), (0.8, 1))
    return colours, classes


def _clutter(rng: Rng, canvas: np.ndarray) -> None:
    """Strokes, rings and scraps that belong to no class; drawn under the objects, so the stuff stays their truth."""
    height, width = canvas.shape[:2]
    for _ in range(rng.integers(4, 15)):
        at, reach = rng.uniform((0, 0), (width, height)), rng.uniform(8, 60)
        rx, ry = rng.uniform(0.1, 0.5, 2) * reach
        colour, pen = _colour(rng, (0, 360), (0, 0.9), (0.15, 0.95)).tolist(), int(rng.integers(1, 7))
        match int(rng.integers(4)):
            case 0:
                walk = at + np.cumsum(rng.normal(0, reach / 2, (rng.integers(3, 8), 2)), 0)
                cv2.polylines(canvas, [np.rint(walk).astype(np.int32)], False, colour, pen)
            case 1:
                cv2.polylines(canvas, [np.rint(_oval(at[0], at[1], rx, ry)).astype(np.int32)], True, colour, pen)
            case 2:
                cv2.fillPoly(canvas, [np.rint(_wavy(rng, at[0], at[1], rx, ry)).astype(np.int32)], colour)
            case _:
                corners = at + rng.uniform(-reach / 2, reach / 2, (rng.integers(3, 5), 2))
                cv2.fillPoly(canvas, [np.rint(corners).astype(np.int32)], colour)


# ---- composition -----------------------------------------------------------------------------------------------------


class _Canvas:
    """A landscape at painting resolution, and who is seen where."""

    def __init__(self, rng: Rng, height: int, width: int):
        self.rng, self.height, self.width = rng, height, width
        colours, self.stuff = _landscape(rng, height, width)
        self.colours = cv2.resize(colours, (width * SHARPNESS, height * SHARPNESS), interpolation=cv2.INTER_LINEAR)
        _clutter(rng, self.colours)
        self.keys = np.zeros(self.colours.shape[:2], np.uint8)
        self.things: list[int] = []
        self.whole: list[int] = []  # sub-pixels of each object, hidden ones included
        self.shown = np.zeros(0, int)  # sub-pixels of each object that are seen
        self.boxes: list[tuple[float, float, float, float]] = []  # x0, y0, x1, y1 in sub-pixels, hidden parts included
        self.crowds: set[int] = set()

    def site(self, thing: int) -> np.ndarray:
        """A centre for an object, x and y in pixels: usually where such things are met."""
        homes = HOMES.get(THINGS[thing], (GRASS, SAND))
        at = np.flatnonzero(np.isin(self.stuff, homes)) if self.rng.random() < AT_HOME else np.empty(0, int)
        if not len(at):
            at = np.arange(self.stuff.size)
        return np.array(divmod(int(self.rng.choice(at)), self.width)[::-1])

    def paint(
        self, thing: int, at: np.ndarray, size: float, overlap: tuple[float, float] = (0, 1), crowd: int = 0
    ) -> int:
        """Put an object of `size` pixels around `at` (x, y) in front of all others; returns its key, or 0: it may not.

        It may not be where it, or one that it hides, would show too little, or where its highest box IoU with another
        leaves the range `overlap`. `crowd` is the key of a crowd to join.
        """
        parts, h, w = _pose(self.rng, thing, size * SHARPNESS)
        left, top = round(at[0] * SHARPNESS - w / 2), round(at[1] * SHARPNESS - h / 2)
        box = (left, top, left + w, top + h)
        if not crowd and not overlap[0] <= max((_iou(box, other) for other in self.boxes), default=0.0) <= overlap[1]:
            return 0
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + w, self.keys.shape[1]), min(top + h, self.keys.shape[0])
        if x0 >= x1 or y0 >= y1:
            return 0
        sprite, mask = _dress(self.rng, parts, h, w)
        cut = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        seen, mask_in, colours = self.keys[y0:y1, x0:x1], mask[cut], sprite[cut]
        whole, count = int(mask.sum()), int(mask_in.sum())
        hidden = np.bincount(seen[mask_in], minlength=len(self.things) + 1)
        hidden[[0, crowd]] = 0
        least = np.maximum(LEAST_VISIBLE * np.array(self.whole), LEAST_AREA)
        if count < max(2 * LEAST_VISIBLE * whole, LEAST_AREA) or (self.shown - hidden[1:] < least).any():
            return 0
        self.shown -= hidden[1:]
        key = crowd or len(self.things) + 1
        if crowd:
            gained = int((seen[mask_in] != key).sum())
            self.whole[key - 1] += gained
            self.shown[key - 1] += gained
        else:
            self.things.append(thing)
            self.whole.append(whole)
            self.boxes.append(box)
            self.shown = np.append(self.shown, count)
        seen[mask_in] = key
        cv2.copyTo(colours, mask_in.view(np.uint8), self.colours[y0:y1, x0:x1])
        return key

    def scene(self) -> Scene:
        """Reduce to pixels, light it, photograph it."""
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
    """Uneven light, a colour cast, soft focus and sensor noise: (H,W,3) float32 0..255 -> uint8."""
    height, width = image.shape[:2]
    turn, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    across, down = (np.linspace(-depth, depth, n, dtype=np.float32) for n in (width, height))
    light = np.float32(rng.uniform(0.75, 1.2)) * (1 + across * math.cos(turn) + down[:, None] * math.sin(turn))
    image = image * cv2.merge([light * np.float32(cast) for cast in rng.normal(1, 0.05, 3)])
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.1))
    noise = rng.uniform(2, 9) * rng.standard_normal((height, width), np.float32)
    return np.clip(image + (_thrice(noise) + 0.5), 0, 255).astype(np.uint8)


def draw_scene(rng: Rng, height: int, width: int, objects: int, crowd: bool = False) -> Scene:
    """A landscape with `objects` objects (3..15 leave room enough; 0 is an empty scene), and perhaps a crowd beside.

    Longest sides run over `SIZES`, as many of them between 12 and 24 px as between 90 and 180. Some objects are set
    upon another, so that about a quarter of the boxes overlap with IoU > 0.1; all others keep their distance.
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
    # The large ones first: what is painted later hides what came before.
    for size in sorted(low * (high / low) ** rng.random(objects), reverse=True):
        placed = 0
        while not placed:
            thing, upon = int(rng.integers(len(THINGS))), canvas.boxes and rng.random() < UPON
            if upon:
                x0, y0, x1, y1 = (v / SHARPNESS for v in canvas.boxes[rng.integers(len(canvas.boxes))])
                at = rng.normal(((x0 + x1) / 2, (y0 + y1) / 2), ((x1 - x0) * 0.4, (y1 - y0) * 0.4))
                placed = canvas.paint(thing, at, size, overlap=(0.12, 0.6))
            else:
                placed = canvas.paint(thing, canvas.site(thing), size, overlap=(0, 0.08))
            size = max(low, size * 0.97)  # where the scene is full, something smaller still finds a place
    return canvas.scene()


def draw_portrait(rng: Rng, height: int, width: int, thing: int) -> Scene:
    """A landscape dominated by one object of class `thing`, with up to three small ones of any class around it."""
    canvas, side = _Canvas(rng, height, width), min(height, width)
    while not canvas.things:
        at = rng.normal((width / 2, height / 2), side * 0.08)
        canvas.paint(thing, at, side * rng.uniform(0.4, 0.9))
    for _ in range(rng.integers(0, 4)):
        other = int(rng.integers(len(THINGS)))
        canvas.paint(other, canvas.site(other), side * rng.uniform(0.1, 0.25))
    return canvas.scene()
