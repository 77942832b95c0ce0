"""Weights of classes and draws of images, against the formulas of the papers in plain loops."""

import math

import numpy as np
import pytest
from scipy.sparse import csr_array

from data.balance import (
    class_balanced,
    draw_images,
    effective_number_weights,
    median_frequency_weights,
    repeat_factors,
    scaled,
)
from data.sampling import TrainBatches

# Four images, three classes and one that does not occur.
LABELS = np.array([[2, 0, 0, 0], [1, 3, 0, 0], [5, 0, 0, 0], [0, 0, 4, 0]])


def test_effective_number_by_hand():
    weights = effective_number_weights(csr_array(LABELS))
    expected = [(1 - 0.999) / (1 - 0.999**n) for n in (8, 3, 4)] + [1.0]
    assert weights.tolist() == pytest.approx(expected, rel=1e-12)
    large = effective_number_weights(csr_array(np.array([[10**6, 10**7, 1]])))
    assert large[0] == pytest.approx(large[1], rel=1e-9)
    assert large[2] == 1


def test_median_frequency_by_hand():
    """Class 0 has 8 of the 11 labels of its images, class 1 has 3 of 4, class 2 has 4 of 4."""
    weights = median_frequency_weights(csr_array(LABELS))
    assert weights.tolist() == pytest.approx([3 / 4 / (8 / 11), 1.0, 3 / 4, 1.0])


def test_scaled_weights_have_the_mean_1_over_labels():
    weights = scaled(np.array([1.0, 2.0, 4.0, 8.0]), csr_array(LABELS))
    assert (LABELS.sum(0) * weights).sum() == pytest.approx(LABELS.sum())
    assert (weights / weights[0]).tolist() == pytest.approx([1, 2, 4, 8])
    nothing = csr_array((3, 2))
    assert scaled(np.array([1.0, 2.0]), nothing).tolist() == [1, 2]
    assert np.isfinite(median_frequency_weights(nothing)).all()


def test_each_class_is_drawn_equally_often():
    labels = np.eye(3)[[0] * 90 + [1] * 9 + [2]]
    expected = class_balanced(csr_array(labels))
    assert expected.sum() == pytest.approx(100)
    assert (expected @ labels).tolist() == pytest.approx([100 / 3] * 3)
    for seed in range(50):
        counts = labels[draw_images(expected, np.random.default_rng(seed))].sum(0)
        assert set(counts.tolist()) <= {33, 34}


def test_repeat_factors_by_hand():
    """Three classes occur, so t = 1/3: classes 1 and 2 are in a quarter of the images, class 0 in three quarters."""
    rare = math.sqrt((1 / 3) / (1 / 4))
    factors = np.array([1, rare, 1, rare])
    assert repeat_factors(csr_array(LABELS)).tolist() == pytest.approx((factors * 4 / factors.sum()).tolist())
    assert repeat_factors(csr_array((3, 2))).tolist() == [1, 1, 1]


def test_repeat_factors_equal_loops():
    random = np.random.default_rng(0)
    labels = random.poisson(np.geomspace(0.002, 3, 12), (400, 12))
    labels[:, 5] = 0
    frequency = [(labels[:, c] > 0).mean() for c in range(12)]
    threshold = 1 / sum(f > 0 for f in frequency)
    factors = []
    for row in labels:
        of_classes = [max(1.0, math.sqrt(threshold / frequency[c])) for c in range(12) if row[c]]
        factors.append(max(of_classes, default=1.0))
    expected = np.array(factors) * 400 / sum(factors)
    np.testing.assert_allclose(repeat_factors(csr_array(labels)), expected, rtol=1e-12)
    assert expected.max() / expected.min() > 3


@pytest.mark.parametrize("seed", range(4))
def test_images_are_drawn_as_often_as_expected_rounded(seed):
    random = np.random.default_rng(seed)
    expected = random.exponential(size=157) ** 2
    expected *= 157 / expected.sum()
    counts = np.zeros(157)
    for _ in range(400):
        drawn = draw_images(expected, random)
        assert len(drawn) == 157
        occurrences = np.bincount(drawn, minlength=157)
        assert (np.abs(occurrences - expected) < 1 + 1e-9).all()
        counts += occurrences
    np.testing.assert_allclose(counts / 400, expected, atol=0.12)


def test_one_draw_each_is_a_permutation():
    drawn = draw_images(np.ones(1000), np.random.default_rng(0))
    assert sorted(drawn) == list(range(1000))
    assert sorted(drawn) != drawn.tolist()


def test_repeated_draws_differ_and_resume_within_an_epoch():
    expected = np.array([0.5, 0.5, 5.0, 1.0, 0.5, 0.5])
    expected *= 6 / expected.sum()
    batches = TrainBatches(6, 2, seed=3, expected=expected)
    batches.set_epoch(4)
    complete = list(batches)
    draws = [draw for batch in complete for draw in batch]
    assert len(draws) == 6
    assert len({draw.seed for draw in draws}) == 6
    (often,) = {draw.index for draw in draws if sum(d.index == draw.index for d in draws) > 1}
    assert often == 2
    assert [draw.epoch for draw in draws if draw.index == 2] == list(range(4, 4 + sum(d.index == 2 for d in draws)))

    resumed = TrainBatches(6, 2, seed=3, expected=expected)
    resumed.load_state_dict(batches.state_dict(batches_done=1))
    resumed.set_epoch(4)
    assert list(resumed) == complete[1:]
    batches.set_epoch(5)
    assert list(batches) != complete


def test_processes_share_the_repeats():
    expected = np.array([4.0] + [0.0] * 3)
    shards = [TrainBatches(4, 2, seed=0, rank=rank, world=2, expected=expected) for rank in (0, 1)]
    draws = [draw for shard in shards for batch in shard for draw in batch]
    assert [draw.index for draw in draws] == [0] * 4
    assert len({draw.seed for draw in draws}) == 4
