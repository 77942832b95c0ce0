"""Compares two networks across data sets: the Bayesian signed-rank test of Benavoli et al.

A. Benavoli, G. Corani, F. Mangili, M. Zaffalon, F. Ruggeri: A Bayesian Wilcoxon signed-rank test based on the Dirichlet
process, ICML 2014; with a region of practical equivalence as in Benavoli et al., Time for a change, JMLR 18 (2017),
section 4.2.1. The differences on q data sets have weights from a Dirichlet distribution with parameters (s, 1, ..., 1).
The first weight belongs to the prior, a difference of 0 with strength s. Each pair (i, j) of differences votes, with
the product of its weights, for worse, equal or better: by whether its mean is below -rope, within, or above rope.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ROPE = 0.01  # differences of less than a point are practically equal, as in the paper of 2017
PRIOR = 0.6  # strength of the prior, as in the authors' package bayesiantests
DRAWS = 50_000


@dataclass(frozen=True)
class Across:
    """Posterior probabilities that worse, practically equal or better is the most frequent of the three.

    They are about data sets like the given ones, of which these are a sample.

    Attributes:
        worse, equal, better: probabilities, which add up to 1.
        sets: number of data sets.
    """

    worse: float
    equal: float
    better: float
    sets: int


def signed_rank(differences: Sequence[float], rope: float = ROPE, draws: int = DRAWS, seed: int = 0) -> Across:
    """Compare two networks by their differences on several data sets.

    Args:
        differences: (q,) score of the first minus that of the second network, one for each data set, as fractions.
        rope: half the width of the region of practical equivalence, in the same unit.
        draws: number of draws from the posterior distribution.
        seed: of the draws.

    Raises ValueError without differences.
    """
    if len(differences) == 0:
        raise ValueError("there are no differences")
    values = np.array([0.0, *differences])
    sums = values[:, None] + values
    votes = np.stack([sums < -2 * rope, np.abs(sums) <= 2 * rope, sums > 2 * rope]).astype(np.float64)
    weights = np.random.default_rng(seed).dirichlet([PRIOR, *np.ones(len(differences))], size=draws)
    shares = np.einsum("dj,vjd->dv", weights, np.einsum("vij,di->vjd", votes, weights))
    # Draws in which two regions tie count half for each.
    most = shares >= shares.max(1, keepdims=True) - 1e-12
    worse, equal, better = (most / most.sum(1, keepdims=True)).mean(0)
    return Across(float(worse), float(equal), float(better), len(differences))
