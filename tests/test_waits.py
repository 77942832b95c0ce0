"""Training steps that never wait for a value that a GPU computes, and whose operations do not grow with the batch.

The device "meta" has shapes, but no values: an operation that needs a value on the host, or whose output has a size
that depends on values, fails there. On a GPU such an operation waits until everything before it is computed.
"""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from classification.loss import ClassificationLoss
from data.batch import normalise
from detection import loss as detection_loss
from detection.anchors import Anchors
from detection.loss import DetectionLoss
from segmentation import loss as segmentation_loss
from segmentation.loss import SegmentationLoss

SIZE = (128, 128)


class Operations(TorchDispatchMode):
    """Counts operations, and those that copy from the host, which makes it wait for the device."""

    def __init__(self):
        super().__init__()
        self.count = self.copies = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += 1
        result = function(*arguments, **(options or {}))
        sources = [a for a in arguments if isinstance(a, torch.Tensor) and a.device.type == "cpu"]
        self.copies += bool(sources) and isinstance(result, torch.Tensor) and result.device.type != "cpu"
        return result


def operations(function, *arguments):
    """Number of operations of a loss and its gradient."""
    with Operations() as seen:
        total = sum(function(*arguments).values())
        total.backward()
    assert seen.copies == 0
    return seen.count


def detection(images, objects):
    anchors = Anchors([8, 16, 32, 64, 128])
    count = len(anchors(SIZE, "meta"))
    outputs = [torch.randn(images, count, k, device="meta", requires_grad=True) for k in (5, 4)]
    truth = torch.rand(images, objects, 4, device="meta"), torch.zeros(images, objects, dtype=torch.long, device="meta")
    return *outputs, anchors, SIZE, *truth


@pytest.mark.parametrize("weights", [None, torch.ones(5, device="meta")], ids=["", "class weights"])
@pytest.mark.parametrize("box_loss", ["huber", "giou", "ciou"])
@pytest.mark.parametrize("assignment", ["iou", "atss"])
def test_detection_loss(assignment, box_loss, weights):
    criterion = DetectionLoss(assignment, box_loss)
    criterion.class_weights = weights
    few = operations(criterion, *detection(2, 3))
    assert few == operations(criterion, *detection(16, 50)) < 500
    assert operations(criterion, *detection(2, 0)) <= few


@pytest.mark.parametrize("weights", [None, 1], ids=["", "class weights"])
@pytest.mark.parametrize(
    "losses", [["ce"], ["dice"], ["focal"], ["lovasz"], ["ce", "dice", "focal", "lovasz"]], ids=" ".join
)
@pytest.mark.parametrize("hard_pixels", [1.0, 0.25])
@pytest.mark.parametrize("most", [2**17, 100], ids=["all pixels", "a grid"])
def test_segmentation_loss(losses, hard_pixels, weights, most, monkeypatch):
    monkeypatch.setattr(segmentation_loss, "MAX_PIXELS", most)
    criterion = SegmentationLoss(losses, hard_pixels=hard_pixels)

    def data(images, classes):
        criterion.class_weights = None if weights is None else torch.ones(classes, device="meta")
        logits = torch.randn(images, classes, 24, 32, device="meta", requires_grad=True)
        return logits, torch.zeros(images, 24, 32, dtype=torch.uint8, device="meta")

    assert operations(criterion, *data(2, 3)) == operations(criterion, *data(8, 150)) < 300


@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("weights", [None, torch.ones(5, device="meta")], ids=["", "class weights"])
def test_classification_loss(kind, weights):
    criterion = ClassificationLoss(5, 0.1)
    criterion.class_weights = weights
    logits = torch.randn(8, 5, device="meta", requires_grad=True)
    targets = torch.zeros(8, dtype=torch.long, device="meta") if kind == "indices" else torch.rand(8, 5, device="meta")
    assert operations(criterion, logits, targets) < 60


def test_images_are_normalised_without_a_copy_from_the_host():
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8, device="meta")
    normalise(images, [0.5] * 3, [0.2] * 3)  # the first call of all copies the constants
    with Operations() as seen:
        normalise(images, [0.5] * 3, [0.2] * 3)
    assert (seen.count, seen.copies) == (2, 0)


def test_the_box_loss_is_the_same_for_all_anchors_and_for_those_that_learn(monkeypatch):
    """A CPU computes it for the latter only, other devices for all."""
    generator = torch.Generator().manual_seed(0)
    _, _, anchors, size, _, labels = detection(2, 3)
    count = len(anchors(size))
    outputs = [torch.randn(2, count, k, generator=generator, requires_grad=True) for k in (5, 4)]
    corners = 90 * torch.rand(2, 3, 2, generator=generator)
    labels = torch.tensor([[1, 4, -1], [0, -1, -1]])
    places = torch.arange(2 * count)

    def values(criterion, complete):
        losses = criterion(*outputs, anchors, size, torch.cat([corners, corners + 30], 2), labels, complete)
        return [*losses.values(), *torch.autograd.grad(sum(losses.values()), outputs)]

    labels_of_some = torch.tensor([[True, False, True, True, False], [False, True, True, False, True]])
    kinds = (("iou", "huber"), ("atss", "giou"), ("atss", "ciou"))
    for (assignment, box_loss), complete in itertools.product(kinds, (None, labels_of_some)):
        criterion = DetectionLoss(assignment, box_loss)
        criterion.class_weights = torch.tensor([1.0, 2, 3, 4, 5])
        on_cpu = values(criterion, complete)
        with monkeypatch.context() as patch:
            patch.setattr(detection_loss, "_learning", lambda box_index: (places // count, places % count))
            elsewhere = values(criterion, complete)
        for one, other in zip(on_cpu, elsewhere, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
