"""Precision, recall and F1 of a detector: matches against pycocotools, the operating point against all thresholds."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data.columns import BoxColumns
from detection.matching import ClassMatches, match_classes, operating_point
from detection.truth import coco_document
from tests.detection.columns import box_columns

CLASSES = 3


def random_boxes(random, count):
    corner, side = random.uniform(0, 60, (count, 2)), random.uniform(10, 60, (count, 2))
    return np.hstack([corner, corner + side])


def data(seed):
    """Truth with crowds and difficult objects, and detections that overlap them, with scores that occur twice."""
    random = np.random.default_rng(seed)
    count = 60
    image = np.sort(random.integers(0, 10, count))
    truth = box_columns(
        images=10,
        classes=CLASSES,
        image=image,
        label=random.integers(0, CLASSES, count),
        boxes=random_boxes(random, count),
        crowd=random.random(count) < 0.15,
        difficult=random.random(count) < 0.15,
    )
    chosen = random.integers(0, count, 150)
    boxes = truth.boxes[chosen] + random.normal(0, 6, (150, 4))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 2)
    boxes[:, 2:] -= boxes[:, :2]
    label = np.where(random.random(150) < 0.9, truth.label[chosen], random.integers(0, CLASSES, 150))
    scores = random.integers(1, 60, 150) / 64
    return truth, np.column_stack([truth.image[chosen], boxes, scores, label])


def official(truth: BoxColumns, detections: np.ndarray, limit: int) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = coco_document(truth, np.arange(10) + 1, list(range(1, CLASSES + 1)))
        coco.createIndex()
        rows = detections.copy()
        rows[:, [0, 6]] += 1
        evaluation = COCOeval(coco, coco.loadRes(rows), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.maxDets = [limit]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
    return evaluation


@pytest.mark.case("R7")
@pytest.mark.parametrize("limit", [100, 3])
@pytest.mark.parametrize("seed", range(5))
def test_matches_equal_pycocotools(seed, limit):
    truth, detections = data(seed)
    ours = match_classes(truth, detections, limit)
    images = official(truth, detections, limit).evalImgs
    not_counted = 0
    for index, matches in enumerate(ours):
        expected, objects = [], 0
        for found in images[index * 10 : (index + 1) * 10]:
            if found is None:
                continue
            objects += int((np.array(found["gtIgnore"]) == 0).sum())
            ignored = found["dtIgnore"][0].astype(bool)
            not_counted += ignored.sum()
            pairs = zip(np.array(found["dtScores"])[~ignored], found["dtMatches"][0][~ignored] > 0, strict=True)
            expected += [(score, bool(match)) for score, match in pairs]
        assert matches.objects == objects
        assert sorted(zip(matches.scores, matches.correct, strict=True)) == sorted(expected)
        assert (np.diff(matches.scores) <= 0).all()
    assert not_counted > 5


@pytest.mark.parametrize("seed", range(5))
def test_the_operating_point_has_the_highest_mean_f1_of_all_thresholds(seed):
    classes = match_classes(*data(seed), 100)
    point = operating_point(classes)

    def mean_f1(threshold):
        values = []
        for matches in classes:
            kept = matches.scores >= threshold
            values.append(2 * matches.correct[kept].sum() / (kept.sum() + matches.objects))
        return np.mean(values)

    assert np.mean(point.f1) == pytest.approx(mean_f1(point.threshold))
    best = max(mean_f1(threshold) for threshold in np.unique(np.concatenate([m.scores for m in classes])))
    assert np.mean(point.f1) == pytest.approx(best)
    for matches, precision, recall in zip(classes, point.precision, point.recall, strict=True):
        kept = matches.scores >= point.threshold
        assert precision == pytest.approx(matches.correct[kept].mean())
        assert recall == pytest.approx(matches.correct[kept].sum() / matches.objects)


def test_by_hand():
    """One class: at 0.8 two of two detections are right, at 0.5 three of four, at 0.1 three of five; four objects."""
    scores, correct = np.array([0.9, 0.8, 0.6, 0.5, 0.1]), np.array([True, True, False, True, False])
    absent = ClassMatches(np.array([0.95]), np.array([False]), 0)
    point = operating_point([ClassMatches(scores, correct, 4), absent])
    assert point.threshold == 0.5
    assert (point.precision[0], point.recall[0], point.f1[0]) == (3 / 4, 3 / 4, 3 / 4)
    assert np.isnan([point.precision[1], point.recall[1], point.f1[1]]).all()


@pytest.mark.parametrize("scores", [[], [0.3, 0.2]])
def test_without_a_correct_detection_the_scores_are_zero(scores):
    point = operating_point([ClassMatches(np.array(scores), np.zeros(len(scores), bool), 4)])
    assert np.isnan(point.threshold)
    assert [point.precision[0], point.recall[0], point.f1[0]] == [0, 0, 0]
