"""How good shortlists would have been on the data sets of the corpus: hit rate and regret.

For each data set, a score ranks the networks that were trained on it. The shortlist of length k hits if it contains the
network with the highest mean score after training. Its regret is the score of that network minus the highest one in the
shortlist. `chosen` leaves one data set out: it uses the score with the lowest mean regret on the other sets. `corpus`
ranks networks by their mean rank after training on the other sets.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb

from experiments.corpus.rows import CorpusRow
from experiments.shortlist.static import table
from experiments.shortlist.stored import STATIC, Scored
from experiments.tasks import TASKS

FEWEST_NETWORKS, FEWEST_SETS = 10, 5  # below these, hit rate and regret say nothing about other data
TOO_LITTLE = "too little data"
CORPUS, CHOSEN, RANDOM = "corpus", "chosen", "random order"


@dataclass(frozen=True)
class Case:
    """One data set.

    Attributes:
        set: its name.
        truth: network -> mean score after training, a fraction.
        scores: score -> network -> value; higher is better. Networks without a value are ranked last.
    """

    set: str
    truth: dict[str, float]
    scores: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Measured:
    """What shortlists by one score would have been worth.

    Attributes:
        score: its name.
        hits: number of data sets on which the shortlist has the best network; a mean for a random order.
        regret: mean regret, a fraction.
        sets: number of data sets.
    """

    score: str
    hits: float
    regret: float
    sets: int


def cases(rows: Sequence[CorpusRow], stored: Sequence[Scored], task: str, protocol: str) -> list[Case]:
    """The data sets of a task on which at least two pretrained networks were trained and scored.

    Trainings count if they have the present version of the recipe. Of several budgets of one data set, the one with the
    most networks counts.
    """
    by_set: dict[str, dict[str, dict[str, list[float]]]] = {}
    names: dict[str, str] = {}
    for row in rows:
        if (row.task, row.protocol, row.recipe) == (task, protocol, TASKS[task].recipe):
            conditions = by_set.setdefault(row.train_fingerprint, {}).setdefault(row.conditions, defaultdict(list))
            conditions[row.backbone].append(row.score)
            names[row.train_fingerprint] = row.set
    found = []
    for fingerprint, by_conditions in by_set.items():
        trained = max(by_conditions.values(), key=len)
        scored = [one for one in stored if (one.task, one.train_fingerprint) == (task, fingerprint)]
        known = {one.backbone for one in scored} & trained.keys()
        if len(known) < 2:
            continue
        scores: dict[str, dict[str, float]] = {STATIC: {name: static_score(name) for name in known}}
        for one in scored:
            if one.backbone in known:
                for name, value in one.scores.items():
                    scores.setdefault(name, {})[one.backbone] = value
        truth = {name: statistics.fmean(values) for name, values in trained.items() if name in known}
        found.append(Case(names[fingerprint], truth, scores))
    return found


def static_score(name: str) -> float:
    """Published top-1 of a network's weights, a fraction; minus infinity without one."""
    from backbones.compat import pretrained_config
    from backbones.names import is_custom, split_tag

    config = None if is_custom(name) else pretrained_config(name)
    known = table().get(f"{split_tag(name)[0]}.{config.tag}") if config is not None else None
    return known[0] if known else float("-inf")


def measure(cases: Sequence[Case], k: int) -> list[Measured]:
    """Hit rate and regret of shortlists of length k by each score that all data sets have, the lowest regret first."""
    if not cases:
        return []
    shared = [name for name in cases[0].scores if all(name in case.scores for case in cases)]
    by_score: dict[str, Callable[[Case], Sequence[str]]] = {
        name: lambda case, name=name: _ranked(case, case.scores[name])  # type: ignore[misc]
        for name in shared
    }
    if len(cases) > 1:
        by_score[CORPUS] = lambda case: _by_other_sets(case, cases)
        by_score[CHOSEN] = lambda case: _by_chosen(case, cases, shared, k)
    found = []
    for name, rank in by_score.items():
        outcomes = [outcome(case, rank(case), k) for case in cases]
        regret = statistics.fmean(lost for _, lost in outcomes)
        found.append(Measured(name, sum(hit for hit, _ in outcomes), regret, len(cases)))
    found.sort(key=lambda one: (one.regret, -one.hits))
    return [*found, _random(cases, k)]


def outcome(case: Case, ranking: Sequence[str], k: int) -> tuple[bool, float]:
    """Whether the first k of a ranking contain the best network, and the regret."""
    best = max(case.truth.values())
    reached = max(case.truth[name] for name in ranking[:k])
    return reached == best, best - reached


def is_enough(cases: Sequence[Case]) -> bool:
    """Whether there are enough networks and data sets to state a chance."""
    return len(networks_of(cases)) >= FEWEST_NETWORKS and len(cases) >= FEWEST_SETS


def networks_of(cases: Sequence[Case]) -> set[str]:
    """All networks of the data sets."""
    return {name for case in cases for name in case.truth}


def _ranked(case: Case, scores: dict[str, float]) -> list[str]:
    return sorted(case.truth, key=lambda name: (-scores.get(name, float("-inf")), name))


def _by_other_sets(case: Case, cases: Sequence[Case]) -> list[str]:
    """Networks by their mean rank after training on the other data sets, as a share of the networks there."""
    ranks: dict[str, list[float]] = defaultdict(list)
    for other in cases:
        if other is not case:
            order = sorted(other.truth, key=lambda name: -other.truth[name])
            for position, name in enumerate(order):
                ranks[name].append(position / max(1, len(order) - 1))
    return _ranked(case, {name: -statistics.fmean(found) for name, found in ranks.items()})


def _by_chosen(case: Case, cases: Sequence[Case], names: Sequence[str], k: int) -> list[str]:
    """The ranking by the score that has the lowest mean regret on the other data sets."""

    def regret(name: str) -> float:
        others = (other for other in cases if other is not case)
        return statistics.fmean(outcome(other, _ranked(other, other.scores[name]), k)[1] for other in others)

    return _ranked(case, case.scores[min(names, key=regret)])


def _random(cases: Sequence[Case], k: int) -> Measured:
    """The expected hits and regret of k networks drawn at random."""
    hits, regret = 0.0, 0.0
    for case in cases:
        values = sorted(case.truth.values(), reverse=True)
        n, size = len(values), min(k, len(values))
        hits += size / n
        # The best of those drawn is number i of all if it is drawn, and the others come from the n - 1 - i worse ones.
        chances = [comb(n - 1 - i, size - 1) / comb(n, size) for i in range(n - size + 1)]
        regret += sum(chance * (values[0] - value) for chance, value in zip(chances, values, strict=False))
    return Measured(RANDOM, hits, regret / len(cases), len(cases))
