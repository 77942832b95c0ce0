"""Calibration error and reliability diagram: against torchmetrics and against a loop."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from engine.calibration import BINS, Reliability


def predictions(seed, count=2000):
    rng = np.random.default_rng(seed)
    confidence = rng.beta(3, 1, count)
    return confidence, rng.random(count) < confidence**1.5


def naive_ece(confidence, correct):
    total = 0.0
    for index in range(BINS):
        inside = [i for i, c in enumerate(confidence) if index / BINS < c <= (index + 1) / BINS or (c == index == 0)]
        if inside:
            accuracy = sum(bool(correct[i]) for i in inside) / len(inside)
            mean = sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


@pytest.mark.parametrize("seed", range(4))
def test_equals_other_implementations(seed):
    confidence, correct = predictions(seed)
    reliability = Reliability.of(confidence, correct)
    assert reliability.ece == pytest.approx(naive_ece(confidence, correct), abs=1e-12)
    # torchmetrics takes the probability of class 1: those above 0.5 are confidences, and the target is the correctness.
    scores, target = torch.tensor(confidence), torch.tensor(correct).long()
    for norm, value in (("l1", reliability.ece), ("max", reliability.mce)):
        assert value == pytest.approx(float(binary_calibration_error(scores, target, BINS, norm)), abs=1e-6)


def test_bins_end_at_their_upper_edge():
    edges = np.arange(BINS + 1) / BINS
    assert Reliability.of(edges, np.ones(BINS + 1, bool)).count.tolist() == [2] + [1] * (BINS - 1)


def test_perfect_and_wrong():
    assert Reliability.of(np.ones(5), np.ones(5, bool)).ece == 0
    assert Reliability.of(np.ones(5), np.zeros(5, bool)).ece == 1
    assert Reliability.of(np.full(4, 0.75), np.array([1, 1, 1, 0], bool)).ece == pytest.approx(0)


def test_without_predictions_it_is_undefined():
    empty = Reliability.of(np.zeros(0), np.zeros(0, bool))
    assert np.isnan(empty.ece)
    assert np.isnan(empty.mce)
    assert empty.document()["predictions"] == 0


def test_document_has_the_diagram():
    document = Reliability.of(np.array([0.5, 0.52, 0.99]), np.array([True, False, True])).document()
    full = [row for row in document["bins"] if row["count"]]
    assert [(row["count"], row["accuracy"]) for row in full] == [(2, 0.5), (1, 1.0)]
    assert full[0]["confidence"] == pytest.approx(0.51)
    assert len(document["bins"]) == BINS
    assert document["MCE"] == pytest.approx(0.01)
