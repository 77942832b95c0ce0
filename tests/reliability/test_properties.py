"""Properties of transforms and anchors that hold for all boxes, masks and images, tested with hypothesis."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batch import IGNORE, Sample
from data.letterbox import Letterbox
from data.transforms import ScaleJitterCrop, Transform
from detection.anchors import Anchors, decode, encode
from detection.postprocess import Detections, to_original
from detection.transforms import detection_train
from segmentation.transforms import segmentation_train

pytestmark = pytest.mark.case("geometry")
FILL = (0, 0, 0)
sides = st.integers(8, 160)
seeds = st.integers(0, 2**63)


@st.composite
def scenes(draw):
    """An image with up to five boxes at whole pixels. Each is drawn in image and mask, in its own colour."""
    height, width = draw(sides), draw(sides)
    count = draw(st.integers(0, 5))
    boxes, mask = np.zeros((count, 4), np.float32), np.zeros((height, width), np.uint8)
    image = np.zeros((height, width, 3), np.uint8)
    for number in range(count):
        x1, y1 = draw(st.integers(0, width - 4)), draw(st.integers(0, height - 4))
        x2, y2 = draw(st.integers(x1 + 4, width)), draw(st.integers(y1 + 4, height))
        boxes[number] = x1, y1, x2, y2
        mask[y1:y2, x1:x2] = number + 1
        image[y1:y2, x1:x2] = 40 * (number + 1)
    return Sample(image, 1, (height, width), (1.0, 1.0), boxes, np.arange(count), mask)


@settings(max_examples=150, deadline=None)
@given(scenes(), sides, sides, seeds, st.booleans())
def test_boxes_stay_inside(sample, height, width, seed, vflip):
    out = detection_train((height, width), (0.1, 2.0), FILL, vflip=0.5 * vflip)(sample, seed)
    assert out.image.shape == (height, width, 3)
    assert out.mask.shape == (height, width)
    assert len(out.boxes) == len(out.labels) <= len(sample.boxes)
    assert (out.boxes[:, 2:] > out.boxes[:, :2]).all()
    assert (out.boxes >= 0).all()
    assert (out.boxes <= [width, height, width, height]).all()


@settings(max_examples=100, deadline=None)
@given(scenes(), st.booleans(), st.booleans())
def test_a_flip_twice_changes_nothing(sample, horizontally, vertically):
    size = sample.image.shape[:2]
    flip = Transform(ScaleJitterCrop(size, (1.0, 1.0), float(horizontally), float(vertically)), [], FILL, 0.0)
    twice = flip(flip(sample, 0), 0)
    np.testing.assert_array_equal(twice.image, sample.image)
    np.testing.assert_array_equal(twice.mask, sample.mask)
    np.testing.assert_allclose(twice.boxes, sample.boxes, atol=1e-3)


@settings(max_examples=150, deadline=None)
@given(scenes(), sides, sides)
def test_letterbox_and_its_inverse(sample, height, width):
    out = Letterbox((height, width), FILL)(sample, 0)
    np.testing.assert_allclose(out.boxes / np.array(out.scale * 2), sample.boxes, atol=1e-3)
    scales, sizes = torch.tensor([out.scale], dtype=torch.float32), torch.tensor([sample.size])
    boxes = torch.from_numpy(out.boxes)[None]
    scores = torch.ones(boxes.shape[:2])
    found = to_original(Detections(boxes, scores, scores.long()), scales, sizes)
    np.testing.assert_allclose(found.boxes[0], sample.boxes, atol=1e-3)


@settings(max_examples=200, deadline=None)
@given(scenes(), sides, sides, seeds, st.sampled_from(["detection", "segmentation", "letterbox"]))
def test_masks_and_boxes_move_together(sample, height, width, seed, kind):
    """A box equals the extent of its pixels in the mask, except for the rounding of resizing."""
    sample.boxes, sample.labels = sample.boxes[-1:], sample.labels[-1:]  # the last one is not covered by others
    size = (height, width)
    transform = {
        "detection": lambda: detection_train(size, (0.5, 2.0), FILL, vflip=0.5, color=None, min_visibility=0.0),
        "segmentation": lambda: segmentation_train(size, (0.5, 2.0), FILL, vflip=0.5, color=None),
        "letterbox": lambda: Letterbox(size, FILL),
    }[kind]()
    out = transform(sample, seed)
    inside = out.mask != IGNORE
    assert (out.image[~inside] == FILL).all()
    for label, (x1, y1, x2, y2) in zip(out.labels, out.boxes, strict=True):
        rows, columns = np.nonzero(out.mask == label + 1)
        if not len(rows):
            assert min(x2 - x1, y2 - y1) <= 1.5  # too thin to contain a pixel centre
            continue
        extent = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        np.testing.assert_allclose((x1, y1, x2, y2), extent, atol=1.0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 500)] * 2, *[st.floats(1, 400)] * 2), min_size=1, max_size=20), seeds)
def test_decode_inverts_encode(corners, seed):
    boxes = torch.tensor([(x, y, x + w, y + h) for x, y, w, h in corners])
    anchors = Anchors([8, 16, 32], 4.0)((256, 320))
    chosen = anchors[torch.randint(len(anchors), (len(boxes),), generator=torch.Generator().manual_seed(seed % 2**31))]
    torch.testing.assert_close(decode(encode(boxes, chosen), chosen), boxes, rtol=1e-4, atol=1e-2)
