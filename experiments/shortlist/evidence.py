"""How good shortlists would have been on the data sets of the corpus: hit rate and regret.

For each data set, a list gives every network that was trained on it a value. The shortlist of length k has the k
networks with the highest values; networks of equal values come in random order. It hits if it contains the network with
the highest mean score after training. Its regret is the score of that network minus the highest one in the shortlist.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import comb

from experiments.corpus.groups import Trainings, comparable, mean_scores, one_for_each_set
from experiments.corpus.rows import CorpusRow
from experiments.shortlist.static import static_score
from experiments.shortlist.stored import CHOSEN, CORPUS, SIZE, STATIC, Scored
from experiments.tasks import TASKS

FEWEST_NETWORKS, FEWEST_SETS = 10, 5  # below these, hit rate and regret say nothing about other data
RANDOM = "random order"

Values = Mapping[str, float]  # network -> value; higher is better, networks without a value come last


@dataclass(frozen=True)
class Case:
    """One data set.

    Attributes:
        set: its name.
        truth: network -> mean score after training, a fraction.
        scores: list -> values of all networks of `truth`.
        rows: network -> one of its trainings.
    """

    set: str
    truth: dict[str, float]
    scores: dict[str, dict[str, float]]
    rows: dict[str, CorpusRow] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What shortlists by one list would have been worth.

    Attributes:
        score: the list.
        hits: expected number of data sets on which the shortlist has the best network.
        regret: mean expected regret, a fraction.
        sets: number of data sets.
    """

    score: str
    hits: float
    regret: float
    sets: int

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the hit rate on data sets like these, in 0..1 (Clopper and Pearson, Biometrika 26, 1934)."""
        from scipy.special import betaincinv

        low = betaincinv(self.hits, self.sets - self.hits + 1, 0.025) if self.hits > 0 else 0.0
        high = betaincinv(self.hits + 1, self.sets - self.hits, 0.975) if self.hits < self.sets else 1.0
        return float(low), float(high)


def cases(rows: Sequence[CorpusRow], stored: Sequence[Scored], task: str, protocol: str) -> list[Case]:
    """The data sets of a task on which at least two pretrained networks were trained, see `one_for_each_set`.

    Trainings count if they have the present version of the recipe. A score of features counts on a data set where all
    of its networks have it.
    """
    wanted = [
        row
        for row in rows
        if (row.task, row.protocol, row.recipe) == (task, protocol, TASKS[task].recipe) and row.is_pretrained
    ]
    groups = one_for_each_set(comparable(wanted))
    return [_case(trainings, stored) for trainings in groups if len(trainings) > 1]


def _case(trainings: Trainings, stored: Sequence[Scored]) -> Case:
    first = {name: rows[0] for name, rows in trainings.items()}
    some = next(iter(first.values()))
    of_features = {
        one.network: one.scores
        for one in stored
        if (one.task, one.train_fingerprint) == (some.task, some.train_fingerprint)
    }
    scores = {
        STATIC: {name: static_score(row.backbone, row.weights) for name, row in first.items()},
        SIZE: {name: float(row.params) for name, row in first.items()},
    }
    values = {name: of_features.get(row.network, {}) for name, row in first.items()}
    for score in dict.fromkeys(score for found in values.values() for score in found):
        if all(score in found for found in values.values()):
            scores[score] = {name: found[score] for name, found in values.items()}
    return Case(some.set, mean_scores(trainings), scores, first)


def measure(cases: Sequence[Case], k: int) -> list[Measured]:
    """Hit rate and regret of shortlists of length k, by each list that all data sets have, the lowest regret first.

    `chosen` and `corpus` leave out the data set that they are measured on.
    """
    if not cases:
        return []
    shared = shared_lists(cases)
    lists: dict[str, Callable[[Case], Values]] = {
        name: lambda case, name=name: case.scores[name]  # type: ignore[misc]
        for name in shared
    }
    if len(cases) > 1:
        others = {id(case): [other for other in cases if other is not case] for case in cases}
        lists[CORPUS] = lambda case: mean_ranks(others[id(case)])
        lists[CHOSEN] = lambda case: case.scores[lowest_regret(others[id(case)], k, shared)]
    found = [_measured(name, values, cases, k) for name, values in lists.items()]
    found.sort(key=lambda one: (one.regret, -one.hits))
    return [*found, _measured(RANDOM, lambda case: {}, cases, k)]


def _measured(name: str, values: Callable[[Case], Values], cases: Sequence[Case], k: int) -> Measured:
    outcomes = [outcome(case, values(case), k) for case in cases]
    hits, lost = zip(*outcomes, strict=True)
    return Measured(name, sum(hits), statistics.fmean(lost), len(cases))


def outcome(case: Case, values: Values, k: int) -> tuple[float, float]:
    """Probability that the first k by these values contain the best network, and the expected regret."""
    worst = float("-inf")
    order = sorted((values.get(name, worst) for name in case.truth), reverse=True)
    limit = order[min(k, len(order)) - 1]
    certain = [score for name, score in case.truth.items() if values.get(name, worst) > limit]
    tied = sorted((score for name, score in case.truth.items() if values.get(name, worst) == limit), reverse=True)
    best, reached = max(case.truth.values()), max(certain, default=worst)
    n, drawn = len(tied), min(k, len(order)) - len(certain)
    hit = regret = 0.0
    for i, score in enumerate(tied[: n - drawn + 1]):
        # Number i of those tied is the best one that is drawn if the others come from the n - 1 - i worse ones.
        chance = comb(n - 1 - i, drawn - 1) / comb(n, drawn)
        hit += chance * (max(reached, score) == best)
        regret += chance * (best - max(reached, score))
    return hit, regret


def shared_lists(cases: Sequence[Case]) -> list[str]:
    """The lists that all data sets have."""
    return [name for name in cases[0].scores if all(name in case.scores for case in cases)]


def lowest_regret(cases: Sequence[Case], k: int, lists: Sequence[str]) -> str:
    """Of these lists, which all data sets have, the one with the lowest mean regret of shortlists of length k."""
    return min(
        lists,
        key=lambda name: statistics.fmean(outcome(case, case.scores[name], k)[1] for case in cases),
    )


def mean_ranks(cases: Sequence[Case]) -> dict[str, float]:
    """Networks by their mean rank after training: 1 is first on all data sets, 0 is last. Equal scores share a rank."""
    ranks: dict[str, list[float]] = defaultdict(list)
    for case in cases:
        scores = list(case.truth.values())
        for name, score in case.truth.items():
            worse, equal = sum(other < score for other in scores), scores.count(score) - 1
            ranks[name].append((worse + equal / 2) / max(1, len(scores) - 1))
    return {name: statistics.fmean(found) for name, found in ranks.items()}


def sufficient(cases: Sequence[Case]) -> list[Case]:
    """The data sets with enough networks to state a chance; empty if they are too few."""
    found = [case for case in cases if len(case.truth) >= FEWEST_NETWORKS]
    return found if len(found) >= FEWEST_SETS else []


def counts(cases: Sequence[Case]) -> str:
    """The numbers of data sets and networks in words."""
    numbers = sorted({len(case.truth) for case in cases})
    networks = "no" if not numbers else " to ".join(map(str, dict.fromkeys((numbers[0], numbers[-1]))))
    return f"{len(cases)} data sets with {networks} pretrained networks each"
