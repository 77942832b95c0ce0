"""Scores of samples of the images against pycocotools, with ties, in blocks and threads, and at the limits of types."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection import resampling
from detection.config import COCO_METRICS
from detection.results import image_results, match_detections
from detection.run_matches import match_documents
from tests.detection.test_run_matches import documents


def official(truth: dict, found: list[dict], images: set[int], limit: int) -> np.ndarray:
    """The twelve numbers for some of the images, NaN where undefined."""
    truth = truth | {
        "images": [row for row in truth["images"] if row["id"] in images],
        "annotations": [row for row in truth["annotations"] if row["image_id"] in images],
    }
    found = [dict(row) for row in found if row["image_id"] in images]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found) if found else COCO(), "bbox")
        evaluation.params.maxDets = [1, 10, limit]
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"][..., -1], evaluation.eval["recall"]
    arrays = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0], *np.moveaxis(precision[..., 1:], -1, 0)]
    arrays += [*np.moveaxis(recall[:, :, 0], -1, 0), *np.moveaxis(recall[:, :, 1:, -1], -1, 0)]
    return np.array([values[values > -1].mean() if (values > -1).any() else np.nan for values in arrays])


@pytest.mark.parametrize("seed", range(60))
def test_scores_of_subsets_equal_pycocotools(seed, monkeypatch):
    """Each image occurs once or not at all, so that ties in one image are ordered as in pycocotools."""
    monkeypatch.setattr(resampling, "BLOCK", 2)
    monkeypatch.setattr(resampling, "WORK", 1)
    truth, found = documents(seed)
    ids = sorted(row["id"] for row in truth["images"])
    counts = np.random.default_rng(seed).integers(0, 2, (3, len(ids)))
    counts = np.vstack([np.ones(len(ids), int), counts, np.zeros(len(ids), int)])
    matches = match_documents(truth, found, 100)
    ours = np.stack([image_results(matches, metric, 100).score(counts) for metric in COCO_METRICS], axis=1)
    subsets = [{i for i, n in zip(ids, row, strict=True) if n} for row in counts]
    expected = [official(truth, found, subset, 100) if subset else [np.nan] * 12 for subset in subsets]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


def test_float32_and_float64_have_equal_results(monkeypatch):
    random = np.random.default_rng(0)
    for seed in range(10):
        truth, found = documents(seed)
        counts = random.integers(0, 5, (40, len(truth["images"])))
        monkeypatch.setattr(resampling, "EXACT", 2**24)
        first = match_detections(truth, found).score(counts)
        monkeypatch.setattr(resampling, "EXACT", 0)
        np.testing.assert_array_equal(match_detections(truth, found).score(counts), first)


def test_counts_too_large_for_float32_are_exact():
    """A correct and a wrong detection, in a set with 17 million copies of one image and one of the other."""
    truth = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 1}],
        "annotations": [
            {"image_id": image, "category_id": 1, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0} for image in (1, 2)
        ],
    }
    found = [
        {"image_id": 2, "category_id": 1, "bbox": [50, 0, 10, 10], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.8},
    ]
    copies = 2**24 + 1
    (score,) = match_detections(truth, found).score(np.array([[copies, 1]]))
    assert score == pytest.approx(copies / (copies + 1) * 100 / 101, abs=1e-15)


def test_detections_of_which_none_is_correct_score_zero():
    truth, _ = documents(1)
    found = [{"image_id": truth["images"][0]["id"], "category_id": 2, "bbox": [900, 900, 5, 5], "score": 0.5}]
    counts = np.ones((2, len(truth["images"])), int)
    for metric in ("AP", "AP50", "AR1", "F1"):
        assert match_detections(truth, found, metric).score(counts).tolist() == [0, 0], metric


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 17, 100])
@pytest.mark.parametrize("operation", [np.add, np.maximum])
def test_accumulation(count, operation):
    values = np.random.default_rng(0).normal(size=(count, 5))
    expected = operation.accumulate(values, axis=0)
    np.testing.assert_allclose(resampling._accumulate(operation, values.copy()), expected)
    turned = values.copy()
    resampling._accumulate(operation, turned[::-1])
    np.testing.assert_allclose(turned, operation.accumulate(values[::-1], axis=0)[::-1])
