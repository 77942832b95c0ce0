"""Class maps at original size: equal to plain interpolation for any strip size, and each view in its place."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segmentation import tta
from segmentation.decoders import Spec
from segmentation.tta import TTA, ViewLogits, class_map, class_maps


def label_maps(*arguments):
    """The class maps alone."""
    return [each.labels for each in class_maps(*arguments)]


class Stub(nn.Module):
    """A segmenter whose logits are the image's channels, averaged over cells of `stride` px."""

    def __init__(self, stride=4):
        super().__init__()
        self.spec = Spec((4,), stride=stride, corners=False)

    def coarse(self, images):
        height, width = images.shape[-2:]
        stride = self.spec.stride
        return F.avg_pool2d(F.pad(images, (0, -width % stride, 0, -height % stride)), stride)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("strip", [1, 10_000, 10**9])
def test_equals_interpolation_at_native_scale(corners, strip, monkeypatch):
    monkeypatch.setattr(tta, "STRIP", strip)
    logits = torch.randn(7, 12, 16)
    upsampled = F.interpolate(logits[None], scale_factor=4, mode="bilinear", align_corners=corners)[0]
    view = ViewLogits(logits, (1.0, 1.0), (0, 0), (48, 64))
    labels = class_map([view], (45, 61), 4, corners).labels
    assert labels.dtype == torch.uint8
    agreement = (labels == upsampled.argmax(0)[:45, :61]).float().mean()
    assert agreement > 0.999  # ties may differ


def test_equals_interpolation_to_a_larger_original():
    """A letterboxed image at half size: 32 x 48 px of an input of 32 x 64 px become 64 x 96 px."""
    logits = torch.randn(5, 32, 64)
    view = ViewLogits(logits, (0.5, 0.5), (0, 0), (32, 64))
    expected = F.interpolate(logits[None], scale_factor=2, mode="bilinear", align_corners=False)[0].argmax(0)
    assert (class_map([view], (64, 96), 1, False).labels == expected[:64, :96]).float().mean() > 0.999


def blocks(height, width, size=16):
    """One-hot image (1, 3, height, width) of squares in an asymmetric pattern, and its class map (height, width)."""
    rows, columns = torch.arange(height) // size, torch.arange(width) // size
    labels = (rows[:, None] * 2 + columns + (rows[:, None] * columns) // 3) % 3
    return F.one_hot(labels, 3).permute(2, 0, 1)[None].float() * 8, labels


@pytest.mark.parametrize(
    "augmentation",
    [
        TTA(),
        TTA(flip=True),
        TTA(window=(32, 48)),
        TTA(scales=(0.5, 1.0)),
        TTA(scales=(1.0, 0.75), flip=True, window=(40, 40)),
    ],
    ids=str,
)
def test_views_are_aligned_with_the_image(augmentation):
    images, labels = blocks(80, 112)
    height, width = 75, 109  # the rest is padding
    images[..., height:, :] = images[..., width:] = 0
    found = label_maps(Stub(), images, torch.ones(1, 2), torch.tensor([[height, width]]), augmentation)
    wrong = found[0] != labels[:height, :width]
    assert wrong.float().mean() < 0.16  # edges of blocks are blurred
    interior = torch.ones(height, width, dtype=torch.bool)
    for axis, length in ((0, height), (1, width)):
        near_edge = ((torch.arange(length) + 4) % 16) < 8
        interior[(near_edge, slice(None)) if axis == 0 else (slice(None), near_edge)] = False
    assert not wrong[interior].any()


def test_images_in_a_batch_are_independent():
    one, _ = blocks(64, 64)
    other = one.flip(-2)
    together = label_maps(
        Stub(), torch.cat([one, other]), torch.tensor([[1.0, 1.0], [0.5, 0.5]]), torch.tensor([[64, 64], [100, 128]]),
        TTA(flip=True),
    )  # fmt: skip
    alone = label_maps(Stub(), other, torch.tensor([[0.5, 0.5]]), torch.tensor([[100, 128]]), TTA(flip=True))
    assert [tuple(labels.shape) for labels in together] == [(64, 64), (100, 128)]
    assert torch.equal(together[1], alone[0])


def test_large_images_need_little_memory():
    """Logits of 150 classes at 3000 x 4000 px would take 7 GB. A strip takes a few MB."""
    logits = torch.randn(150, 16, 20)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel() * out.element_size())
            return out

    with Watch():
        labels = class_map([ViewLogits(logits, (0.02, 0.02), (0, 0), (64, 80))], (300, 4000), 4, False).labels
    assert labels.shape == (300, 4000)
    assert largest < 20e6


def test_windows_cover_everything():
    assert tta._starts(100, 100) == [0]
    assert tta._starts(683, 512) == [0, 171]
    starts = tta._starts(2000, 512)
    assert starts[0] == 0
    assert starts[-1] + 512 == 2000
    assert all(0 < b - a <= 341 for a, b in pairwise(starts))


def test_the_input_size_is_that_of_the_largest_scale():
    assert TTA(scales=(0.5, 1.5)).input_size((100, 200)) == (150, 300)
