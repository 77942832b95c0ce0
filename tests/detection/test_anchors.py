"""Anchors and box arithmetic, compared with numbers computed by hand and with effdet."""

import numpy as np
import pytest
import torch
from effdet.anchors import Anchors as EffdetAnchors

from detection.anchors import MAX_LOG_SCALE, Anchors, best_iou, decode, encode, fit_scale


def test_first_anchors_by_hand():
    """Stride 8, scale 4: squares of 32, 40.3 and 50.8 px, then 1.4 x 0.7, then 0.7 x 1.4, centred at (4, 4)."""
    boxes = Anchors([8])((16, 24))
    assert boxes.shape == (2 * 3 * 9, 4)
    torch.testing.assert_close(boxes[0], torch.tensor([4.0 - 16, 4 - 16, 4 + 16, 4 + 16]))
    torch.testing.assert_close(boxes[1], torch.tensor([4 - 22.4, 4 - 11.2, 4 + 22.4, 4 + 11.2]))
    torch.testing.assert_close(boxes[2], torch.tensor([4 - 11.2, 4 - 22.4, 4 + 11.2, 4 + 22.4]))
    side = 32 * 2 ** (1 / 3)
    torch.testing.assert_close(boxes[3], torch.tensor([4 - side / 2, 4 - side / 2, 4 + side / 2, 4 + side / 2]))
    torch.testing.assert_close(boxes[9, :2] - boxes[0, :2], torch.tensor([8.0, 0]))  # the next cell is to the right
    torch.testing.assert_close(boxes[27, :2] - boxes[0, :2], torch.tensor([0.0, 8]))  # the next row


@pytest.mark.parametrize("size", [(512, 512), (256, 384)])
def test_anchors_equal_effdet(size):
    expected = EffdetAnchors(3, 7, 3, [(1.0, 1.0), (1.4, 0.7), (0.7, 1.4)], 4.0, size).boxes
    torch.testing.assert_close(Anchors([8, 16, 32, 64, 128])(size), expected[:, [1, 0, 3, 2]])


def test_counts_are_rounded_up():
    anchors = Anchors([8, 16, 32])
    assert anchors.counts((333, 500)) == [42 * 63 * 9, 21 * 32 * 9, 11 * 16 * 9]
    assert len(anchors((333, 500))) == sum(anchors.counts((333, 500)))


def test_encode_by_hand():
    anchor = torch.tensor([[0.0, 0, 10, 20]])
    box = torch.tensor([[5.0, 0, 25, 20]])  # centre moved by (10, 0), twice as wide
    torch.testing.assert_close(encode(box, anchor), torch.tensor([[1.0, 0, np.log(2), 0]], dtype=torch.float32))


def test_decode_inverts_encode():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 100, 2, generator=generator) * 100
    sides = torch.rand(2, 100, 2, generator=generator) * 50 + 1
    boxes, anchors = torch.cat([corners, corners + sides], dim=-1)
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes, atol=1e-3, rtol=0)


def test_an_extreme_prediction_is_finite():
    """A box is at most 62.5 times its anchor, torchvision's limit."""
    assert pytest.approx(np.log(62.5)) == MAX_LOG_SCALE
    box = decode(torch.tensor([[0.0, 0, 1e9, 1e9]]), torch.tensor([[0.0, 0, 16, 16]]))
    torch.testing.assert_close(box[0, 2] - box[0, 0], torch.tensor(16 * np.exp(MAX_LOG_SCALE), dtype=torch.float32))


def test_best_iou_by_hand():
    """A 32 px square equals an anchor. A 16 px square is inside of the smallest anchor, of 44.8 x 22.4 px."""
    np.testing.assert_allclose(best_iou(np.array([[32.0, 32], [16, 16]]), Anchors([8])), [1.0, 256 / (44.8 * 22.4)])


@pytest.mark.parametrize("scale", [2.0, 3.0, 4.0])
def test_fit_scale_finds_the_scale_of_the_boxes(scale):
    sides = scale * 8 * 2.0 ** np.arange(3)  # the base anchors of three levels
    assert fit_scale(np.repeat(sides[:, None], 2, axis=1), [8, 16, 32]) == scale


def test_fit_scale_without_boxes_is_the_published_scale():
    assert fit_scale(np.zeros((0, 2)), [8, 16, 32]) == 4.0
