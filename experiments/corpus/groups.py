"""Groups the rows of the corpus into comparable trainings, and compares the networks of a group."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from experiments.corpus.plan import PRETRAINED, SCRATCH
from experiments.corpus.rows import Corpus, CorpusRow
from experiments.report.results import LEVEL
from experiments.statistics import Difference
from experiments.statistics.compare import compare_resampled
from experiments.statistics.signed_rank import Across, signed_rank


@dataclass(frozen=True)
class Entry:
    """A network of a group with its trainings.

    Attributes:
        backbone: its name.
        rows: its trainings, in the order of their seeds.
        difference: of its mean score to that of the best network of the group; None for that one, and where resamples
            of the images are absent.
    """

    backbone: str
    rows: tuple[CorpusRow, ...]
    difference: Difference | None = None

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

    @cached_property
    def scores(self) -> dict[str, float]:
        """Backbone -> mean score."""
        return {entry.backbone: entry.mean for entry in self.entries}


def grouped(corpus: Corpus, rows: Iterable[CorpusRow]) -> list[Group]:
    """All groups, in the order of their first rows.

    Trainings with random and with pretrained weights are never in one group. Networks with pretraining of different
    kinds are, since the choice of weights is part of the choice of a network here.
    """
    by_conditions: dict[tuple[str, ...], dict[str, list[CorpusRow]]] = {}
    for row in rows:
        start = SCRATCH if row.protocol == SCRATCH else PRETRAINED
        sides = by_conditions.setdefault((row.conditions, start, row.set), defaultdict(list))
        name = row.backbone if not _has_other_weights(row, sides[row.backbone]) else f"{row.backbone} ({row.weights})"
        sides[name].append(row)
    return [_group(corpus, sides) for sides in by_conditions.values()]


def _has_other_weights(row: CorpusRow, known: Sequence[CorpusRow]) -> bool:
    return any(row.cell != other.cell for other in known)


def _group(corpus: Corpus, sides: dict[str, list[CorpusRow]]) -> Group:
    entries = [Entry(name, tuple(sorted(found, key=lambda row: row.seed))) for name, found in sides.items() if found]
    entries.sort(key=lambda entry: -entry.mean)
    resampled = {entry.backbone: corpus.resamples(entry.rows) for entry in entries}
    complete = {name: side for name, side in resampled.items() if side is not None}
    best = entries[0].backbone
    same_shape = len({side.without.shape[1:] for side in complete.values()}) == 1
    if len(entries) < 2 or best not in complete or not same_shape:
        return Group(tuple(entries))
    differences = compare_resampled(complete, best, level=LEVEL)
    return Group(tuple(Entry(entry.backbone, entry.rows, differences.get(entry.backbone)) for entry in entries))


@dataclass(frozen=True)
class Duel:
    """Two networks across the data sets on which both were trained under the same conditions.

    Attributes:
        first, second: the backbones.
        wins, losses: number of data sets on which the first has the higher, or the lower mean score.
        across: see `signed_rank`.
    """

    first: str
    second: str
    wins: int
    losses: int
    across: Across


def duels(groups: Sequence[Group]) -> list[Duel]:
    """All pairs of networks that share at least two groups: sets of one protocol, of any task."""
    names = list(dict.fromkeys(name for group in groups for name in group.scores))
    found = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            differences = [
                group.scores[first] - group.scores[second]
                for group in groups
                if first in group.scores and second in group.scores
            ]
            if len(differences) > 1:
                wins, losses = sum(value > 0 for value in differences), sum(value < 0 for value in differences)
                found.append(Duel(first, second, wins, losses, signed_rank(differences)))
    return found
