"""Scores against numpy on all pixels at once, for any batch size."""

import math
import tracemalloc

import numpy as np
import pytest
import torch

from backbones.errors import BadInput
from data.batch import IGNORE, Sample, collate
from segmentation.config import METRICS
from segmentation.evaluator import COLUMNS, SegmentationEvaluator
from segmentation.results import segmentation_results

CLASSES = 12


def sample(image_id, mask, readable=True):
    return Sample(
        image=np.zeros((8, 8, 3), np.uint8),
        image_id=image_id,
        size=mask.shape,
        scale=(1.0, 1.0),
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        mask=mask,
        readable=readable,
    )


@pytest.fixture(scope="module")
def data():
    """Truth and prediction of 20 images of several sizes. About half of the pixels are right, and some are ignored.

    Class 11 is in neither; class 10 only in predictions.
    """
    random = np.random.default_rng(0)
    pairs = []
    for _ in range(20):
        shape = tuple(random.integers(20, 60, 2))
        truth = random.integers(0, 10, shape).astype(np.uint8)
        found = np.where(random.random(shape) < 0.5, truth, random.integers(0, 11, shape)).astype(np.uint8)
        truth[random.random(shape) < 0.1] = IGNORE
        pairs.append((truth, found))
    return pairs


def evaluate(pairs, batch_size):
    evaluator = SegmentationEvaluator([f"class {i}" for i in range(CLASSES)])
    for start in range(0, len(pairs), batch_size):
        part = pairs[start : start + batch_size]
        batch = collate([sample(start + i, truth) for i, (truth, _) in enumerate(part)])
        evaluator.update([torch.from_numpy(found) for _, found in part], batch)
    return evaluator


@pytest.mark.parametrize("batch_size", [1, 3, 20])
def test_equals_numpy(data, batch_size):
    evaluator = evaluate(data, batch_size)
    truth = np.concatenate([t[t != IGNORE] for t, _ in data])
    found = np.concatenate([f[t != IGNORE] for t, f in data])
    iou, accuracy, share = [], [], []
    for label in range(CLASSES):
        union = ((truth == label) | (found == label)).sum()
        right = ((truth == label) & (found == label)).sum()
        iou.append(right / union if union else np.nan)
        accuracy.append(right / (truth == label).sum() if (truth == label).any() else np.nan)
        share.append((truth == label).mean())
    scores = evaluator.compute()
    assert scores["mIoU"] == pytest.approx(np.nanmean(iou), abs=1e-9)
    assert scores["pixel_accuracy"] == pytest.approx((truth == found).mean(), abs=1e-9)
    assert scores["mean_accuracy"] == pytest.approx(np.nanmean(accuracy), abs=1e-9)
    assert scores["fwIoU"] == pytest.approx(np.nansum(np.array(share) * iou), abs=1e-9)
    assert tuple(scores) == METRICS
    table = evaluator.class_table()
    for label, row in enumerate(table.values()):
        t, p = truth == label, found == label
        dice = 2 * (t & p).sum() / (t.sum() + p.sum()) if (t | p).any() else np.nan
        precision = (t & p).sum() / p.sum() if p.any() else np.nan
        expected = [iou[label], dice, precision, accuracy[label], t.sum()]
        np.testing.assert_allclose(list(row.values()), expected, atol=1e-9)
    assert scores["Dice"] == pytest.approx(np.nanmean([row["Dice"] for row in table.values()]))
    assert scores["precision"] == pytest.approx(np.nanmean([row["precision"] for row in table.values()]))
    assert scores["recall"] == scores["mean_accuracy"]
    np.testing.assert_allclose(list(evaluator.per_class.values()), iou, atol=1e-9)
    assert math.isnan(evaluator.per_class["class 11"])
    assert evaluator.per_class["class 10"] == 0
    assert 0.2 < scores["mIoU"] < 0.5


def test_by_hand():
    evaluator = SegmentationEvaluator(["a", "b"])
    truth = np.array([[0, 0, 0, 1, IGNORE]], np.uint8)
    evaluator.update([torch.tensor([[0, 0, 1, 1, 1]], dtype=torch.uint8)], collate([sample(1, truth)]))
    assert evaluator.matrix().tolist() == [[2, 1], [0, 1]]
    scores = evaluator.compute()
    assert scores == pytest.approx(
        {"mIoU": (2 / 3 + 1 / 2) / 2, "pixel_accuracy": 3 / 4, "mean_accuracy": (2 / 3 + 1) / 2,
         "fwIoU": 3 / 4 * 2 / 3 + 1 / 4 * 1 / 2, "Dice": (4 / 5 + 2 / 3) / 2, "precision": (1 + 1 / 2) / 2,
         "recall": (2 / 3 + 1) / 2}
    )  # fmt: skip


def test_an_ignored_class_leaves_the_mean(tmp_path):
    """Pixels that are predicted as the ignored class are errors of their true class, nothing else."""
    confusion = np.array([[0, 0, 0], [50, 1000, 33], [80, 1, 1506]])
    pairs = [(t, p) for t in range(3) for p in range(3) for _ in range(confusion[t, p])]
    truth, found = (np.array(column, np.uint8)[None] for column in zip(*pairs, strict=True))
    ious = [1000 / (50 + 1000 + 33 + 1), 1506 / (80 + 1 + 1506 + 33)]
    for ignored, expected in (((), np.mean([0, *ious])), ((0,), np.mean(ious))):
        evaluator = SegmentationEvaluator("abc", ignored)
        evaluator.update([torch.from_numpy(found)], collate([sample(1, truth)]))
        assert evaluator.matrix().tolist() == confusion.tolist()
        scores = evaluator.compute()
        assert scores["mIoU"] == pytest.approx(expected, abs=1e-12)
        assert scores["pixel_accuracy"] == pytest.approx(2506 / 2670)
        assert math.isnan(evaluator.per_class["a"]) == bool(ignored)
        evaluator.write_images(tmp_path / "images.npy")
        resampled = segmentation_results(tmp_path / "images.npy").score(np.array([[1], [3]]))
        # Comparisons average over the classes in the truth, whether the third class is ignored or only predicted.
        np.testing.assert_allclose(resampled, np.mean(ious), atol=1e-12)
    assert scores["mIoU"] == pytest.approx(0.926, abs=5e-4)


def test_worst_and_best_images():
    evaluator = SegmentationEvaluator(["a", "b"])
    random = np.random.default_rng(0)
    order = random.permutation(50)
    for i in order:
        truth = np.zeros((1, 50), np.uint8)
        found = torch.zeros(1, 50, dtype=torch.uint8)
        found[:, i:] = 1  # i of 50 pixels are right
        evaluator.update([found], collate([sample(int(i), truth)]))
    assert [i for _, i in evaluator.worst] == [0, 1, 2, 3]
    assert [i for _, i in evaluator.best] == [49, 48, 47, 46]
    assert evaluator.best[0][0] == pytest.approx(49 / 50)


def test_unreadable_and_unlabelled_images_do_not_count():
    evaluator = SegmentationEvaluator(["a", "b"])
    nothing = np.full((4, 4), IGNORE, np.uint8)
    batch = collate([sample(1, nothing, readable=False), sample(2, nothing)])
    evaluator.update([torch.zeros(4, 4, dtype=torch.uint8)] * 2, batch)
    assert evaluator.worst == []
    with pytest.raises(BadInput, match="nothing to score"):
        evaluator.compute()


def test_unreadable_images_are_not_shown():
    """Neither among the worst nor among the rows of `write_images`, even where their mask could be read."""
    evaluator = SegmentationEvaluator(["a", "b"])
    truth = np.zeros((2, 3), np.uint8)
    batch = collate([sample(1, truth, readable=False), sample(2, truth)])
    evaluator.update([torch.ones(2, 3, dtype=torch.uint8)] * 2, batch)
    assert evaluator.worst == [(0.0, 2)]


def test_counts_of_each_image_by_hand(tmp_path):
    """Columns: image, class, pixels in both, in the truth, in the prediction; classes in neither have no row."""
    evaluator = SegmentationEvaluator("abcd")
    evaluator.write_images(tmp_path / "none.npy")
    assert np.load(tmp_path / "none.npy").shape == (0, len(COLUMNS))
    evaluator.update(
        [torch.tensor([[0, 0, 2, 1, 1]])], collate([sample(7, np.array([[0, 0, 0, 1, IGNORE]], np.uint8))])
    )
    evaluator.write_images(tmp_path / "images.npy")
    assert np.load(tmp_path / "images.npy").tolist() == [[7, 0, 2, 3, 2], [7, 1, 1, 1, 1], [7, 2, 0, 0, 1]]


def test_reset(data):
    evaluator = evaluate(data, 5)
    evaluator.reset()
    assert not evaluator.matrix().any()
    assert evaluator.best == []


def test_memory_does_not_grow():
    """With 150 classes the matrix takes 180 KB, and at most eight images are remembered."""
    evaluator = SegmentationEvaluator([str(i) for i in range(150)])
    truth = np.random.default_rng(0).integers(0, 150, (64, 64)).astype(np.uint8)
    batch, found = collate([sample(0, truth)]), [torch.from_numpy(truth)]
    evaluator.update(found, batch)
    tracemalloc.start()
    for _ in range(50):
        evaluator.update(found, batch)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 1e6
    assert evaluator.confusion.numel() * evaluator.confusion.element_size() == 180_000
    assert len(evaluator._low) + len(evaluator._high) == 8
