"""Geometry compared with numbers computed by hand, masks with boxes, and results of equal seeds."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from data.batch import Sample
from data.letterbox import Letterbox
from data.transforms import IGNORE, Color, ColorJitter, ScaleJitterCrop, Transform
from detection.transforms import detection_train

FILL = (10, 20, 30)


def scene(height: int, width: int, boxes: list[list[float]], mask: bool = False) -> Sample:
    """An image of value 100 with rectangles of value 200, numbered from 1 in the mask."""
    image = np.full((height, width, 3), 100, np.uint8)
    classes = np.zeros((height, width), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes, start=1):
        image[int(y1) : int(y2), int(x1) : int(x2)] = 200
        classes[int(y1) : int(y2), int(x1) : int(x2)] = number
    return Sample(
        image=image,
        image_id=1,
        size=(height, width),
        scale=(1.0, 1.0),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.arange(1, len(boxes) + 1),
        mask=classes if mask else None,
    )


def test_letterbox_by_hand() -> None:
    # 480 x 640 into 320 x 512: the scale is min(320 / 480, 512 / 640) = 2 / 3, so 320 rows and round(426.67) columns.
    out = Letterbox((320, 512), FILL)(scene(480, 640, [[64, 48, 320, 240]]), seed=0)
    assert out.image.shape == (320, 512, 3)
    assert out.image.dtype == np.uint8
    assert out.scale == (427 / 640, 320 / 480)
    np.testing.assert_allclose(out.boxes, [[64 * 427 / 640, 32, 320 * 427 / 640, 160]], atol=1e-4)
    assert out.boxes.dtype == np.float32
    assert (out.image[:, 427:] == FILL).all()
    assert (out.image[:, :426] != FILL).any(-1).all()
    assert out.labels.tolist() == [1]


def test_letterbox_enlarges_and_handles_narrow_images() -> None:
    out = Letterbox((8, 8), FILL)(scene(2, 4, [[1, 0, 2, 1]]), seed=0)
    assert out.boxes.tolist() == [[2, 0, 4, 2]]
    assert (out.image[4:] == FILL).all()
    narrow = Letterbox((8, 8), FILL)(scene(1, 1000, []), seed=0)
    assert narrow.image.shape == (8, 8, 3)
    assert narrow.scale == (8 / 1000, 1.0)
    assert narrow.boxes.shape == (0, 4)
    assert narrow.labels.shape == (0,)
    assert narrow.labels.dtype == np.int64


@pytest.mark.case("geometry")
@pytest.mark.parametrize("size", [(320, 320), (512, 384), (127, 641)])
def test_letterbox_inverts_within_a_thousandth_pixel(size: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    for height, width in [(480, 640), (333, 500), (2832, 4256), (37, 1999)]:
        corners = np.sort(draw.uniform(0, 1, (20, 2, 2)), axis=1) * [width, height]
        boxes = corners.reshape(-1, 4).astype(np.float32)
        boxes[:, 2:] = np.minimum(boxes[:, 2:] + 1, [width, height])
        out = Letterbox(size, FILL)(scene(height, width, boxes.tolist()), seed=0)
        back = out.boxes / np.array(out.scale * 2)
        assert len(back) == len(boxes)
        np.testing.assert_allclose(back, boxes, atol=1e-3)


def test_letterbox_keeps_tiny_boxes() -> None:
    out = Letterbox((64, 64), FILL)(scene(2000, 2000, [[100, 100, 101, 101]]), seed=0)
    np.testing.assert_allclose(out.boxes, [[3.2, 3.2, 3.232, 3.232]], atol=1e-4)


def fixed(size: tuple[int, int], jitter: float, hflip: float = 0.0, vflip: float = 0.0) -> Transform:
    return Transform(ScaleJitterCrop(size, (jitter, jitter), hflip, vflip), [], FILL, min_visibility=0.2)


def test_smaller_scale_by_hand() -> None:
    # 100 x 200 fits 100 x 100 at 0.5; jitter 0.5 makes that 0.25: 25 x 50, at the top left.
    out = fixed((100, 100), 0.5)(scene(100, 200, [[40, 20, 80, 60]]), seed=3)
    np.testing.assert_allclose(out.boxes, [[10, 5, 20, 15]], atol=1e-4)
    assert (out.image[25:] == FILL).all()
    assert (out.image[:, 50:] == FILL).all()
    assert out.image[10, 15].tolist() == [200] * 3
    flipped = fixed((100, 100), 0.5, hflip=1.0, vflip=1.0)(scene(100, 200, [[40, 20, 80, 60]]), seed=3)
    # 50 - x and 25 - y: the padding does not move
    np.testing.assert_allclose(flipped.boxes, [[30, 10, 40, 20]], atol=1e-4)
    assert flipped.image[15, 35].tolist() == [200] * 3


def test_larger_scale_crops_a_window() -> None:
    # 100 x 100 into 50 x 50 at twice the fitting scale, 0.5 * 2 = 1: a random 50 x 50 window at the original scale.
    positions = set()
    for seed in range(40):
        out = fixed((50, 50), 2.0)(scene(100, 100, [[0, 0, 100, 100], [49, 49, 51, 51]], mask=True), seed)
        assert out.scale == (1.0, 1.0)
        assert out.boxes[0].tolist() == [0, 0, 50, 50]
        assert out.mask is not None
        ys, xs = np.nonzero(out.mask == 2)
        positions.add((int(xs.min(initial=99)), int(ys.min(initial=99))))
    assert len(positions) > 20
    assert (out.image != FILL).any(-1).all()


def test_boxes_that_are_mostly_cut_off_are_dropped() -> None:
    source = scene(100, 100, [[0, 0, 100, 100]])
    jitter = ScaleJitterCrop((50, 50), (2.0, 2.0))
    assert len(Transform(jitter, [], FILL, min_visibility=0.2)(source, 0).boxes) == 1  # a quarter remains
    out = Transform(jitter, [], FILL, min_visibility=0.3)(source, 0)
    assert out.boxes.shape == (0, 4)
    assert out.labels.shape == (0,)


@pytest.mark.case("geometry")
@pytest.mark.parametrize("shape", [(90, 130), (130, 90), (200, 333)])
@pytest.mark.parametrize("size", [(96, 96), (64, 160)])
def test_masks_and_boxes_move_together(shape: tuple[int, int], size: tuple[int, int]) -> None:
    height, width = shape
    boxes = [[10, 12, 40, 50], [50, 20, 85, 70], [0, 75, width, 90.0]]
    transform = detection_train(size, (0.6, 2.0), FILL, hflip=0.5, vflip=0.5, color=None, min_visibility=0.0)
    compared = 0
    for seed in range(60):
        out = transform(scene(height, width, boxes, mask=True), seed)
        assert out.mask is not None
        assert out.mask.shape == size
        for box, label in zip(out.boxes, out.labels.tolist(), strict=True):
            ys, xs = np.nonzero(out.mask == label)
            if min(box[2] - box[0], box[3] - box[1]) < 3:
                continue
            drawn = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            np.testing.assert_allclose(box, drawn, atol=0.5 + 1e-3)  # nearest sampling is at most half a pixel off
            inner = np.s_[int(box[1]) + 2 : int(box[3]) - 2, int(box[0]) + 2 : int(box[2]) - 2]
            assert (out.image[inner] == 200).all()
            compared += 1
        padding = (out.image == FILL).all(-1)
        np.testing.assert_array_equal(padding, out.mask == IGNORE)
    assert compared > 80


def test_results_depend_only_on_the_seed() -> None:
    source = scene(90, 130, [[10, 12, 40, 50]], mask=True)
    options: dict[str, Any] = {"size": (64, 64), "jitter": (0.5, 1.5), "fill": FILL}
    one, other = detection_train(**options), detection_train(**options)
    other(source, 99)  # an earlier call with another seed
    first, again = one(source, 5), other(source, 5)
    for name in ("image", "boxes", "labels", "mask"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert first.scale == again.scale
    images = [one(source, seed).image for seed in range(10)]
    assert all((a != b).any() for a, b in pairwise(images))


def test_scale_and_flip_are_drawn_independently() -> None:
    geometry = ScaleJitterCrop((50, 50), (0.5, 1.0), hflip=0.5)
    transform = Transform(geometry, [ColorJitter(Color())], FILL, 0.0)
    source = scene(100, 100, [])
    draws = []
    for seed in range(400):
        transform(source, seed)
        draws.append((geometry.params["scale"][0], geometry.params["hflip"]))
    scales, flips = np.array(draws, float).T
    assert abs(np.corrcoef(scales, flips)[0, 1]) < 0.15
    assert 0.4 < flips.mean() < 0.6
    assert scales.min() < 0.27 < 0.48 < scales.max()


def test_shrinking_does_not_alias() -> None:
    # One of eight columns is bright: sampling would return 255 or 0, averaging returns about 255 / 8.
    source = scene(256, 256, [])
    source.image[:] = 0
    source.image[:, ::8] = 255
    out = Letterbox((32, 32), FILL)(source, 0)
    assert np.abs(out.image.astype(int) - 32).max() <= 1


def test_colours_by_hand() -> None:
    pixel = np.array([[[100, 150, 200]]], np.uint8)

    def jittered(**strength: float) -> np.ndarray:
        none = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
        step = ColorJitter(Color(**{**none, **strength}))
        step.py_random.uniform = lambda low, high: high  # type: ignore[method-assign]
        return step(image=pixel)["image"][0, 0]

    assert jittered().tolist() == [100, 150, 200]
    assert jittered(brightness=0.2).tolist() == [120, 180, 240]
    assert jittered(brightness=0.5).tolist() == [150, 225, 255]  # clipped
    np.testing.assert_allclose(jittered(contrast=0.2), [94.5, 154.5, 214.5], atol=0.51)  # 127.5 + 1.2 (v - 127.5)
    # luma 0.299 * 100 + 0.587 * 150 + 0.114 * 200 = 140.75; saturation 1.5 moves away from it
    np.testing.assert_allclose(jittered(saturation=0.5), [80, 155, 230], atol=1)
    np.testing.assert_allclose(jittered(hue=180.0), [182, 132, 82], atol=1)  # mirrored at the luma
