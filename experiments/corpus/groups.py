"""Groups the rows of the corpus into comparable trainings, and compares the networks of a group."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from engine.image_results import least_score
from experiments.corpus.rows import Corpus, CorpusRow
from experiments.report.results import LEVEL
from experiments.statistics import Difference
from experiments.statistics.compare import compare_resampled
from experiments.statistics.signed_rank import Across, signed_rank
from experiments.statistics.variance import score_half_width


@dataclass(frozen=True)
class Entry:
    """A network of a group with its trainings.

    Attributes:
        network: its backbone, with the source of the weights if the corpus has trainings from several.
        rows: its trainings, in the order of their seeds.
        difference: of its mean score to that of the best network of the group; None for that one, and where resamples
            of the images are absent.
        half_width: of the 95% interval of its mean score, a fraction; None where resamples are absent, or where it
            rests on too few images.
    """

    network: str
    rows: tuple[CorpusRow, ...]
    difference: Difference | None = None
    half_width: float | None = None

    @property
    def mean(self) -> float:
        """Mean score over seeds, a fraction."""
        return statistics.fmean(row.score for row in self.rows)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the score over seeds; None for one seed."""
        return statistics.stdev(row.score for row in self.rows) if len(self.rows) > 1 else None

    def cost(self, name: str) -> float:
        """Median of a column over seeds."""
        return statistics.median(getattr(row, name) for row in self.rows)


@dataclass(frozen=True)
class Group:
    """Trainings of several networks under the same conditions.

    Attributes:
        entries: the networks, the best first.
    """

    entries: tuple[Entry, ...]

    @property
    def first(self) -> CorpusRow:
        """Any row: set, task, protocol, metric and budget are the same for all."""
        return self.entries[0].rows[0]

    @property
    def budget(self) -> str:
        """The budget in words."""
        row = self.first
        tuned = f", tuned with {row.tune} trials" if row.tune else ""
        return f"{row.epochs} epochs at {row.image_size} px, batch size {row.batch_size}{tuned}"

    @property
    def has_learned(self) -> bool:
        """Whether any network scores so high that the ranking has a meaning, see `least`."""
        return self.entries[0].mean >= self.least

    @property
    def least(self) -> float:
        """The score from which on the ranking has a meaning, see `least_score`."""
        return least_score(self.first.majority_score)

    @cached_property
    def scores(self) -> dict[str, float]:
        """Network -> mean score."""
        return {entry.network: entry.mean for entry in self.entries}


Trainings = Mapping[str, Sequence[CorpusRow]]  # network -> its trainings, under the same conditions


def grouped(corpus: Corpus, rows: Sequence[CorpusRow]) -> list[Group]:
    """All groups, in the order of their first rows, with intervals and differences."""
    return [_group(corpus, trainings) for trainings in comparable(rows)]


def comparable(rows: Sequence[CorpusRow]) -> list[Trainings]:
    """The trainings under the same conditions, in the order of their first rows.

    Trainings with random and with pretrained weights are never together. Networks with pretraining of different kinds
    are, since the choice of weights is part of the choice of a network here.
    """
    names = network_names(rows)
    by_conditions: dict[tuple[str, bool], dict[str, list[CorpusRow]]] = {}
    for row in rows:
        trainings = by_conditions.setdefault((row.conditions, row.is_pretrained), defaultdict(list))
        trainings[names[row.key]].append(row)
    return list(by_conditions.values())


def network_names(rows: Sequence[CorpusRow]) -> dict[str, str]:
    """Key of a row -> name of its network: the backbone, with its weights if there are trainings from several."""
    weights: dict[str, dict[str, str]] = defaultdict(dict)  # backbone -> weights -> their source
    for row in rows:
        if row.is_pretrained:
            weights[row.backbone].setdefault(row.network[1], row.weights)
    found = {}
    for row in rows:
        known = weights[row.backbone]
        name = row.backbone
        if row.is_pretrained and len(known) > 1:
            source = known[row.network[1]]
            digest = f", SHA-256 {row.weights_sha256[:8]}" if list(known.values()).count(source) > 1 else ""
            name += f" ({source}{digest})"
        found[row.key] = name
    return found


def mean_scores(trainings: Trainings) -> dict[str, float]:
    """Network -> mean score over seeds, a fraction."""
    return {name: statistics.fmean(row.score for row in rows) for name, rows in trainings.items()}


def least_of(trainings: Trainings) -> float:
    """The score from which on a network of the group has learned something, see `least_score`."""
    return least_score(next(iter(trainings.values()))[0].majority_score)


def one_for_each_set(groups: Sequence[Trainings]) -> list[Trainings]:
    """Of several groups of a task and data set, such as two budgets: the one with the most networks, then trainings.

    Sets of the same name or with the same files are one set. Groups in which no network has learned are left out.
    """
    found: list[Trainings] = []
    known: set[tuple[str, str]] = set()
    for trainings in sorted(groups, key=lambda one: (-len(one), -sum(map(len, one.values())))):
        first = next(iter(trainings.values()))[0]
        same = {(first.task, first.set), (first.task, first.train_fingerprint)}
        if max(mean_scores(trainings).values()) >= least_of(trainings) and not same & known:
            known |= same
            found.append(trainings)
    return found


def _group(corpus: Corpus, trainings: Trainings) -> Group:
    means = mean_scores(trainings)
    ranking = sorted(trainings, key=lambda name: -means[name])
    rows = {name: tuple(sorted(trainings[name], key=lambda row: row.seed)) for name in ranking}
    resampled = {name: side for name in ranking if (side := corpus.resamples(rows[name])) is not None}
    widths = {name: score_half_width(side, LEVEL) for name, side in resampled.items()}
    differences: dict[str, Difference] = {}
    same_shape = len({(side.without.shape[1], side.resampled.shape[1]) for side in resampled.values()}) == 1
    if len(resampled) > 1 and ranking[0] in resampled and same_shape:
        differences = compare_resampled(resampled, ranking[0], level=LEVEL)
    return Group(tuple(Entry(name, rows[name], differences.get(name), widths.get(name)) for name in ranking))


@dataclass(frozen=True)
class Duel:
    """Two networks across the data sets on which both were trained under the same conditions.

    Attributes:
        first, second: the networks.
        wins, losses: number of data sets on which the first has the higher, or the lower mean score.
        across: see `signed_rank`.
    """

    first: str
    second: str
    wins: int
    losses: int
    across: Across


def duels(groups: Sequence[Trainings]) -> list[Duel]:
    """All pairs of networks that share at least two data sets on which one of them has learned something.

    Args:
        groups: of one protocol, of any task; see `one_for_each_set`.
    """
    scores = [mean_scores(trainings) for trainings in groups]
    least = [least_of(trainings) for trainings in groups]
    names = list(dict.fromkeys(name for known in scores for name in known))
    found = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            differences = [
                known[first] - known[second]
                for known, limit in zip(scores, least, strict=True)
                if first in known and second in known and max(known[first], known[second]) >= limit
            ]
            if len(differences) > 1:
                wins, losses = sum(value > 0 for value in differences), sum(value < 0 for value in differences)
                found.append(Duel(first, second, wins, losses, signed_rank(differences)))
    return found
