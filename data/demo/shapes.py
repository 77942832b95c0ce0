"""The objects of scenes: random outlines, pose, colours and texture of each class."""

import itertools
import math
from collections.abc import Callable

import cv2
import numpy as np

Rng = np.random.Generator
Part = tuple[np.ndarray, int]  # outline (N, 2) in units of the object, y down; index into the object's colours
BODY, TRIM, DARK, LIGHT = range(4)
SHARPNESS = 2  # sub-pixels per pixel and axis while painting


def oval(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> np.ndarray:
    """Outline (26, 2) of an ellipse around (x, y), rotated by `turn` radians."""
    angle = np.linspace(0, 2 * np.pi, 26, endpoint=False)
    u, v = rx * np.cos(angle), ry * np.sin(angle)
    return np.stack([x + u * math.cos(turn) - v * math.sin(turn), y + u * math.sin(turn) + v * math.cos(turn)], 1)


def wavy(rng: Rng, x: float, y: float, rx: float, ry: float, depth: float = 0.12) -> np.ndarray:
    """Outline (40, 2) of an ellipse around (x, y) with random waves; `depth` is the largest amplitude of each wave."""
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
    parts = [(oval(0, 0, 1, tall), BODY)]
    parts += [(oval(0, 0, r, tall), TRIM if i % 2 else BODY) for i, r in enumerate((0.62, 0.25))] * (rng.random() < 0.5)
    if rng.random() < 0.5:  # a hot-air balloon with a basket, else a toy balloon on a string
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
    parts = [(tail, TRIM), (oval(0, 0, 0.85, rng.uniform(0.3, 0.48), -0.15), BODY), (beak, LIGHT)]
    legs = [(_bar(x, 0.3, x + 0.1, 0.9, 0.08), DARK) for x in (-0.05, 0.2)] * (rng.random() < 0.35)
    return [*legs, *parts, (oval(0.85, neck, head, head), BODY), (wing, TRIM), (oval(0.92, neck, 0.07, 0.07), DARK)]


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
    ports = [(oval(x, roof * 0.5, 0.11, 0.11), DARK) for x in np.linspace(-cabin, cabin, 4)[1:-1]]
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
    return [(cabin, BODY), (glass, DARK), post, (body, BODY), (oval(1.3, 0.12, 0.1, 0.08), LIGHT),
            *_wheels(rng, (-0.85, 0.85), rng.uniform(0.26, 0.36))]  # fmt: skip


def _wheels(rng: Rng, at: tuple[float, ...], radius: float) -> list[Part]:
    hub = rng.uniform(0.3, 0.6) * radius
    return [part for x in at for part in ((oval(x, 0.42, radius, radius), DARK), (oval(x, 0.42, hub, hub), LIGHT))]


def _fish(rng: Rng) -> list[Part]:
    deep, fork, gap = rng.uniform(0.4, 0.75), rng.uniform(0.4, 0.7), rng.uniform(-1.25, -1.0)
    tail = np.array([(-0.7, 0), (-1.5, -fork), (gap, 0), (-1.5, fork)])
    fin = np.array([(-0.4, -deep * 0.8), (rng.uniform(-0.5, -0.1), -deep - rng.uniform(0.2, 0.5)), (0.5, -deep * 0.7)])
    belly = np.array([(-0.1, deep * 0.8), (-0.3, deep + 0.3), (0.35, deep * 0.8)])
    bands = [(oval(x, 0, 0.09, deep * 0.72), TRIM) for x in (-0.35, 0.0)] * (rng.random() < 0.5)
    eye = [(oval(0.62, -0.12, 0.12, 0.12), LIGHT), (oval(0.64, -0.12, 0.06, 0.06), DARK)]
    return [(tail, TRIM), (fin, TRIM), (belly, TRIM), (oval(0, 0, 1, deep), BODY), *bands, *eye]


def _flower(rng: Rng) -> list[Part]:
    petals, long, bend = int(rng.integers(5, 9)), rng.uniform(0.42, 0.6), rng.uniform(-0.25, 0.25)
    turns = np.arange(petals) * 2 * np.pi / petals + rng.uniform(0, 1)
    wide = rng.uniform(0.7, 1.1) * 1.6 / petals
    stem = [(_bar(0, 0, bend, rng.uniform(1.6, 2.2), 0.13), TRIM)]
    stem += [(oval(bend * 0.6 + s * 0.3, rng.uniform(1.0, 1.4), 0.32, 0.13, -s * 0.6), TRIM) for s in (-1, 1)]
    bloom = [(oval(0.62 * np.cos(t), 0.62 * np.sin(t), long, wide, t), BODY) for t in turns]
    return [*stem, *bloom, (oval(0, 0, 0.3, 0.3), LIGHT if rng.random() < 0.5 else DARK)]


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
    return [*parts, (torso, BODY), (oval(0, -0.98, 0.3, 0.36), LIGHT), *hat]


def _tree(rng: Rng) -> list[Part]:
    trunk = (_bar(0, 1.7, rng.uniform(-0.1, 0.1), 0, rng.uniform(0.25, 0.45), 0.7), DARK)
    if rng.random() < 0.4:
        tiers, wide, top = int(rng.integers(2, 5)), rng.uniform(0.7, 1.0), rng.uniform(1.5, 1.9)
        crown = [np.array([(-wide * w, y), (0, y - top), (wide * w, y)])
                 for w, y in zip(np.linspace(1, 0.55, tiers), np.linspace(0.9, -0.5, tiers), strict=True)]  # fmt: skip
        return [trunk, *[(c, BODY) for c in crown]]
    leaves = [wavy(rng, *rng.uniform((-0.45, -0.8), (0.45, 0.1)), *rng.uniform(0.5, 0.8, 2)) for _ in range(4)]
    return [trunk, *[(leaf, TRIM if i == 3 and rng.random() < 0.4 else BODY) for i, leaf in enumerate(leaves)]]


SHAPES: dict[str, Callable[[Rng], list[Part]]] = {
    "balloon": _balloon, "bird": _bird, "boat": _boat, "bus": _bus, "car": _car, "fish": _fish, "flower": _flower,
    "house": _house, "person": _person, "tree": _tree,
}  # fmt: skip
THINGS: tuple[str, ...] = tuple(SHAPES)
HINT = 15.0  # the hue is up to this many degrees from that of the class; the next class is 36 degrees away


def pose(rng: Rng, thing: int, size: float) -> tuple[list[Part], int, int]:
    """One object, rotated, stretched, sheared and possibly mirrored: its parts, height and width in sub-pixels.

    `size` is the longest side of all parts together, in sub-pixels.
    """
    parts = SHAPES[THINGS[thing]](rng)
    turn = rng.normal(0, 0.1)
    stretch, mirror = math.exp(rng.normal(0, 0.08)), rng.choice((-1.0, 1.0))
    cos, sin, shear = math.cos(turn), math.sin(turn), rng.normal(0, 0.05)
    pose = np.array([[cos, -sin], [sin, cos]]) @ np.array([[stretch * mirror, shear], [0, 1 / stretch]])
    outlines = [points @ pose.T for points, _ in parts]
    every = np.concatenate(outlines)
    low, extent = every.min(0), np.ptp(every, axis=0)
    scale = size / extent.max()
    width, height = (int(n) + 4 for n in np.ceil(extent * scale))
    return [((o - low) * scale + 1.5, tone) for o, (_, tone) in zip(outlines, parts, strict=True)], height, width


def dress(rng: Rng, thing: int, parts: list[Part], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Paint an object with colours and texture: (h, w, 3) float32 in 0..255, and its mask (h, w) bool.

    The hue of the body depends on the class, so that networks learn within minutes, also from random weights.
    """
    size = max(height, width)
    centre = 360 * thing / len(THINGS)
    hue = (centre - HINT, centre + HINT)
    tones = [color(rng, hue, (0.6, 1.0), (0.55, 1.0)), color(rng, hue, (0.35, 1.0), (0.4, 1.0))]
    tones += [color(rng, (0, 360), (0, 0.6), (0.08, 0.3)), color(rng, (0, 360), (0, 0.35), (0.7, 1))]
    pen = max(1, round(size / 45)) if rng.random() < 0.5 else 0
    colours, roles = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.uint8)
    for outline, tone in parts:
        points = np.rint(outline * 16).astype(np.int32)
        cv2.fillPoly(colours, [points], tones[tone].tolist(), shift=4)
        cv2.fillPoly(roles, [points], tone + 1, shift=4)
        if pen:
            cv2.polylines(colours, [points], True, tones[DARK].tolist(), pen, shift=4)
            cv2.polylines(roles, [points], True, DARK + 1, pen, shift=4)

    pattern = _pattern(rng, height, width, size) * rng.uniform(0.05, 0.15)
    pattern[(roles != BODY + 1) & (roles != TRIM + 1)] = 0
    light = np.linspace(1.15, rng.uniform(0.65, 1.0), height, dtype=np.float32)[:, None]
    return colours * thrice((1 + pattern) * light), roles > 0


def color(
    rng: Rng, hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]
) -> np.ndarray:
    """A random RGB colour (3,) float32 in 0..255; ranges of hue in degrees, saturation and value in 0..1."""
    hsv = np.array([[[rng.uniform(*hue) % 360, rng.uniform(*saturation), rng.uniform(*value)]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0] * 255


def thrice(field: np.ndarray) -> np.ndarray:
    """(h, w) -> (h, w, 3). NumPy's broadcast over a last axis of three is several times slower."""
    return cv2.merge((field, field, field))


def noise(rng: Rng, height: int, width: int, cell_y: float, cell_x: float) -> np.ndarray:
    """Smooth noise (height, width) float32 with a standard deviation of about 1 and blobs of cell_y x cell_x pixels."""
    coarse = rng.standard_normal((int(height / cell_y) + 2, int(width / cell_x) + 2), np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _pattern(rng: Rng, height: int, width: int, size: float) -> np.ndarray:
    """Plain, stripes, checks, dots or noise: (height, width) float32 in -1..1."""
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
            return np.clip(noise(rng, height, width, *[max(3.0, size / 8)] * 2), -1, 1)
