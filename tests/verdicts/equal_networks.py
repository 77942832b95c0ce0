"""How often verdicts find a difference between trainings of one network, and between two networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.statistics.compare import compare_resampled
from experiments.statistics.images import Resampled

TRIALS = 1000


@dataclass(frozen=True)
class Shares:
    """Shares of the verdicts over random choices of trainings, in 0..1.

    Attributes:
        seeds: number of trainings on each side.
        better, worse: shares of these verdicts.
        too_little: share of `too little data`.
        error: standard error of `better` + `worse`: a jackknife over trainings, since the choices overlap.
    """

    seeds: int
    better: float
    worse: float
    too_little: float
    error: float


def of_one_network(runs: Resampled, seeds: int, trials: int = TRIALS) -> Shares:
    """Shares of the verdicts if both sides are trainings of the same network."""
    random = np.random.default_rng(seeds)
    chosen = [random.permutation(runs.seeds)[: 2 * seeds] for _ in range(trials)]
    return _shares([(runs.select(c[:seeds]), runs.select(c[seeds:])) for c in chosen], chosen, seeds, runs.seeds)


def of_two_networks(ours: Resampled, baseline: Resampled, seeds: int, trials: int = TRIALS) -> Shares:
    """Shares of the verdicts between trainings of two networks."""
    random = np.random.default_rng(seeds)
    pairs, chosen = [], []
    for _ in range(trials):
        a, b = (random.permutation(side.seeds)[:seeds] for side in (ours, baseline))
        pairs.append((ours.select(a), baseline.select(b)))
        chosen.append(np.concatenate([a, ours.seeds + b]))
    return _shares(pairs, chosen, seeds, ours.seeds + baseline.seeds)


def _shares(
    pairs: Sequence[tuple[Resampled, Resampled]], chosen: Sequence[np.ndarray], seeds: int, trainings: int
) -> Shares:
    verdicts = np.array([compare_resampled({"a": a, "b": b}, "b")["a"].verdict for a, b in pairs])
    distinguished = np.isin(verdicts, ("better", "worse"))
    without = [distinguished[[i not in own for own in chosen]].mean() for i in range(trainings)]
    error = np.sqrt((trainings - 1) / trainings * ((without - np.mean(without)) ** 2).sum())
    return Shares(
        seeds,
        float((verdicts == "better").mean()),
        float((verdicts == "worse").mean()),
        float((verdicts == "too little data").mean()),
        float(error),
    )
