"""Boundary IoU and regions: against loops over pixels, and against maps that are counted by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data.batch import IGNORE, collate
from segmentation.errors import REGIONS, SegmentationErrors, boundary, region_counts
from segmentation.evaluator import SegmentationEvaluator
from segmentation.tta import TTA, ClassMap, class_maps
from tests.segmentation.test_evaluator import sample
from tests.segmentation.test_tta import Stub

NAMES = ("a", "b", "c", "d")


def maps(seed, height=40, width=52):
    """A random truth of blocks with ignored pixels, and a shifted, noisy prediction."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 4, (height // 8 + 1, width // 8 + 1)).repeat(8, 0).repeat(8, 1)
    truth = blocks[:height, :width].copy()
    labels = np.roll(truth, rng.integers(-3, 4, 2), (0, 1))
    noise = rng.random(labels.shape) < 0.03
    labels[noise] = rng.integers(0, 4, noise.sum())
    truth[rng.random(truth.shape) < 0.02] = IGNORE
    truth[5:12, 20:30] = IGNORE
    return labels.astype(np.uint8), truth


def naive_boundary(mask, distance):
    """Pixels of a mask with a pixel outside the mask or the image at most `distance` rows and columns away."""
    height, width = mask.shape
    result = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            if mask[y, x]:
                near = [
                    (y + dy, x + dx) for dy in range(-distance, distance + 1) for dx in range(-distance, distance + 1)
                ]
                inside = [0 <= i < height and 0 <= j < width and mask[i, j] for i, j in near]
                result[y, x] = not all(inside)
    return result


def naive_regions(mask):
    """Lists of the pixels of each region, by a search over the eight neighbours."""
    rest, found = set(zip(*np.nonzero(mask), strict=True)), []
    while rest:
        region, front = [], [rest.pop()]
        while front:
            y, x = front.pop()
            region.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & rest
            rest -= near
            front += near
        found.append(region)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_boundary_iou_equals_a_loop_over_pixels(seed):
    errors = SegmentationErrors(NAMES, np.ones(4, bool))
    sums = np.zeros((2, 4))
    for number in (0, 1):
        labels, truth = maps(seed * 10 + number)
        errors.update(labels, truth, np.full(labels.shape, 0.5))
        distance = max(1, round(0.02 * np.hypot(*labels.shape)))
        counted = truth != IGNORE
        filled = np.where(counted, truth, labels)
        for index in range(4):
            of_truth = naive_boundary(filled == index, distance) & counted
            of_labels = naive_boundary(labels == index, distance) & counted
            sums[:, index] += (of_truth & of_labels).sum(), (of_truth | of_labels).sum()
    assert errors.boundary_iou() == pytest.approx(sums[0] / sums[1], abs=1e-12)
    document = errors.document()
    assert document["boundary_mIoU"] == pytest.approx((sums[0] / sums[1]).mean())
    assert document["per_class"]["b"]["boundary_IoU"] == pytest.approx(sums[0, 1] / sums[1, 1])


def test_boundary_is_as_wide_as_two_percent_of_the_diagonal():
    labels = np.zeros((300, 400), np.uint8)  # diagonal 500: 10 px
    labels[:, 200:] = 1
    row = boundary(labels)[150]
    assert np.flatnonzero(~row).tolist() == [*range(10, 190), *range(210, 390)]
    assert boundary(np.zeros((4, 4), np.uint8)).sum() == 12  # at least 1 px


@pytest.mark.parametrize("seed", range(3))
def test_regions_equal_a_search_over_neighbours(seed):
    labels, truth = maps(seed)
    counted = truth != IGNORE
    expected = np.zeros((4, len(REGIONS)), int)
    for index in range(4):
        for region in naive_regions(truth == index):
            share = np.mean([labels[pixel] == index for pixel in region])
            expected[index, 0] += 1
            expected[index, 1 if share >= 0.5 else 3 if share < 0.1 else 2] += 1
        for region in naive_regions(labels == index):
            right = [truth[pixel] == index for pixel in region if counted[pixel]]
            if right:
                expected[index, 4] += 1
                expected[index, 5] += np.mean(right) < 0.1
    errors = SegmentationErrors(NAMES, np.ones(4, bool))
    errors.update(labels, truth, np.full(labels.shape, 0.5))
    assert errors.regions.tolist() == expected.tolist()
    assert expected[:, 5].sum() > 0


def test_regions_by_hand():
    truth, labels = np.zeros((100, 200), bool), np.zeros((100, 200), bool)
    for row, found in ((0, 10), (20, 4), (40, 0)):  # 10 x 10 px each: found, partly found, missed
        truth[row : row + 10, :10] = True
        labels[row : row + 10, :found] = True
    labels[80:90, 100:110] = True  # extra
    labels[60, 60] = truth[60, 80] = True  # 1 px of 20,000 is too small
    counts = region_counts(labels, truth, np.ones_like(truth))
    assert dict(zip(REGIONS, counts.tolist(), strict=True)) == {
        "true": 3,
        "found": 1,
        "partly_found": 1,
        "missed": 1,
        "predicted": 3,
        "extra": 1,
    }


def test_classes_in_truth_or_prediction_only():
    everywhere, nowhere = np.ones((20, 20), bool), np.zeros((20, 20), bool)
    assert region_counts(nowhere, everywhere, everywhere).tolist() == [1, 0, 0, 1, 0, 0]
    assert region_counts(everywhere, nowhere, everywhere).tolist() == [0, 0, 0, 0, 1, 1]
    assert region_counts(everywhere, nowhere, nowhere).tolist() == [0, 0, 0, 0, 0, 0]


def test_a_perfect_prediction_has_no_errors_beside_ignored_pixels():
    _, truth = maps(0)
    labels = np.where(truth == IGNORE, 3, truth).astype(np.uint8)
    errors = SegmentationErrors(NAMES, np.array([True, True, True, False]))
    errors.update(labels, truth, np.ones(labels.shape))
    document = errors.document()
    assert document["boundary_mIoU"] == 1
    assert document["regions"]["true"] == document["regions"]["found"] == document["regions"]["predicted"]
    assert document["regions"]["extra"] == 0
    assert errors.reliability.ece == 0
    assert list(document["per_class"]) == ["a", "b", "c"]


def test_confidence_is_the_mean_probability_of_the_class():
    images = torch.randn(1, 5, 32, 48) * 3
    arguments = images, torch.ones(1, 2), torch.tensor([[32, 48]])
    (single,) = class_maps(Stub(1), *arguments, TTA(), with_confidence=True)
    assert torch.allclose(single.confidence, images[0].softmax(0).amax(0), atol=1e-6)
    (flipped,) = class_maps(Stub(1), *arguments, TTA(flip=True), with_confidence=True)
    assert torch.allclose(flipped.confidence, images[0].softmax(0).amax(0), atol=1e-5)
    (scaled,) = class_maps(Stub(1), *arguments, TTA((0.5, 1.0)), with_confidence=True)
    half = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    upsampled = F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False)
    mean = (upsampled.softmax(1) + images.softmax(1))[0] / 2
    assert torch.allclose(scaled.confidence, mean.amax(0), atol=1e-4)


def test_scores_do_not_depend_on_confidences():
    pairs = [maps(seed, *size) for seed, size in enumerate([(40, 52), (30, 60)])]
    batch = collate([sample(i, truth.astype(np.uint8)) for i, (_, truth) in enumerate(pairs)])
    labels = [torch.from_numpy(each) for each, _ in pairs]
    plain, detailed = SegmentationEvaluator(NAMES), SegmentationEvaluator(NAMES)
    plain.update(labels, batch)
    detailed.update([ClassMap(each, torch.full(each.shape, 0.75)) for each in labels], batch)
    assert plain.compute() == detailed.compute()
    assert plain.errors.reliability.count.sum() == 0
    counted = int((batch.masks != IGNORE).sum())
    right = sum(int((found == truth).sum()) for found, truth in pairs)
    assert detailed.errors.reliability.count.sum() == counted
    assert detailed.errors.reliability.ece == pytest.approx(abs(right / counted - 0.75))
    detailed.reset()
    assert detailed.errors.regions.sum() == 0
