"""Precision, recall, F1 and IoU from counts, by hand."""

import numpy as np
import pytest

from classification.metrics import classification_scores
from engine.class_scores import class_scores, mean_over
from segmentation.metrics import segmentation_scores

# True class (rows) and predicted class (columns). Class 2 is never predicted, class 3 never occurs, class 4 neither.
CONFUSION = np.array([[6, 1, 0, 1, 0], [2, 5, 0, 0, 0], [1, 2, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
COUNTS = CONFUSION.diagonal(), CONFUSION.sum(1), CONFUSION.sum(0)
NAN = float("nan")


def test_scores_of_each_class_by_hand():
    scores = class_scores(*COUNTS)
    np.testing.assert_allclose(scores["precision"], [6 / 9, 5 / 8, 0, 0, NAN])
    np.testing.assert_allclose(scores["recall"], [6 / 8, 5 / 7, 0, NAN, NAN])
    np.testing.assert_allclose(scores["F1"], [12 / 17, 10 / 15, 0, 0, NAN])
    np.testing.assert_allclose(scores["IoU"], [6 / 11, 5 / 10, 0, 0, NAN])


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    scores = class_scores(np.array([3, 8]), np.array([4, 20]), np.array([10, 9]))
    precision, recall = scores["precision"], scores["recall"]
    np.testing.assert_allclose(scores["F1"], 2 * precision * recall / (precision + recall))


def test_means_of_classification_are_over_classes_with_images():
    scores = classification_scores(*COUNTS)
    assert scores["top1"] == 11 / 18
    assert scores["precision"] == pytest.approx((6 / 9 + 5 / 8 + 0) / 3)
    assert scores["recall"] == scores["balanced"] == scores["balanced_accuracy"] == pytest.approx((6 / 8 + 5 / 7) / 3)
    assert scores["F1"] == pytest.approx((12 / 17 + 10 / 15) / 3)


def test_means_of_segmentation_are_over_classes_in_truth_or_prediction():
    scores = segmentation_scores(*COUNTS)
    assert scores["mIoU"] == pytest.approx((6 / 11 + 5 / 10) / 4)
    assert scores["Dice"] == pytest.approx((12 / 17 + 10 / 15) / 4)
    assert scores["precision"] == pytest.approx((6 / 9 + 5 / 8) / 4)
    assert scores["recall"] == scores["mean_accuracy"] == pytest.approx((6 / 8 + 5 / 7) / 3)
    assert scores["pixel_accuracy"] == 11 / 18
    assert scores["fwIoU"] == pytest.approx((8 * 6 / 11 + 7 * 5 / 10) / 18)


def test_several_samples_at_once():
    random = np.random.default_rng(0)
    confusions = random.integers(0, 4, (5, 6, 6)) * (random.random((5, 6, 1)) < 0.8)
    counts = np.diagonal(confusions, axis1=1, axis2=2), confusions.sum(2), confusions.sum(1)
    for function in (classification_scores, segmentation_scores):
        together = function(*counts)
        for i in range(5):
            alone = function(*(count[i] for count in counts))
            for name, value in alone.items():
                assert together[name][i] == pytest.approx(value), name


def test_without_items_everything_is_undefined():
    nothing = np.zeros(3)
    for function in (classification_scores, segmentation_scores):
        assert all(np.isnan(value) for value in function(nothing, nothing, nothing).values())
    assert np.isnan(mean_over(np.ones(3), np.zeros(3, bool)))
