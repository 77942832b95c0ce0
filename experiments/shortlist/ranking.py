"""The order of the candidates, by published facts, by a score of features, or by what the corpus says."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from backbones.errors import UserError
from experiments.corpus.rows import Corpus
from experiments.shortlist import evidence, stored
from experiments.shortlist.config import ShortlistConfig
from experiments.shortlist.static import Candidate
from experiments.shortlist.stored import CHOSEN, CORPUS, SCORES, SIZE, STATIC, Scored

log = logging.getLogger(__name__)


def order(config: ShortlistConfig, found: Sequence[Candidate], scored: Sequence[Scored]) -> list[str]:
    """Names of the candidates in the order that `rank_by` asks for; only scored ones where it is a score of features.

    Without scores, a score of features leaves the static order.

    Args:
        config: settings.
        found: the candidates in the static order.
        scored: the scores of those that were scored.

    Raises UserError if the corpus that the order needs has no data sets.
    """
    rank_by = chosen_list(config) if config.rank_by == CHOSEN else config.rank_by
    if rank_by == SIZE:
        return [one.name for one in sorted(found, key=lambda one: -(one.params or 0.0))]
    if rank_by == CORPUS:
        ranks = evidence.mean_ranks(_cases(config))
        if unknown := [one.name for one in found if one.name not in ranks]:
            log.warning("%d candidates have no trainings in the corpus and come last", len(unknown))
        return _by(found, ranks)
    if rank_by == STATIC or not config.score:
        return [one.name for one in found]
    return ranked(scored, rank_by)


def ranked(scored: Sequence[Scored], by: str) -> list[str]:
    """Names by a score, the highest first; those without it last."""
    return [one.backbone for one in sorted(scored, key=lambda one: -one.scores.get(by, float("-inf")))]


def chosen_list(config: ShortlistConfig) -> str:
    """The list that had the lowest regret on the data sets of the corpus. Raises UserError if it cannot be used."""
    found = _cases(config)
    name = evidence.lowest_regret(found, config.first, evidence.shared_lists(found))
    log.warning("--rank_by %s: %s had the lowest regret on the corpus", CHOSEN, name)
    if name in SCORES and not config.score:
        raise UserError(f"--rank_by {CHOSEN} is {name} here, which needs features: leave --score false out")
    return name


def _cases(config: ShortlistConfig) -> list[evidence.Case]:
    folder = Path(config.corpus)
    found = evidence.cases(Corpus(folder).rows(), stored.read(folder), config.task, config.protocol)
    if not found:
        raise UserError(
            f"--rank_by {config.rank_by} needs a corpus with trainings of two pretrained networks on a data set, and "
            f"{folder} has none for {config.task} with --protocol {config.protocol}"
        )
    return found


def _by(found: Sequence[Candidate], values: Mapping[str, float]) -> list[str]:
    """The candidates by a value, the highest first; those without it last, in the static order."""
    return [one.name for one in sorted(found, key=lambda one: -values.get(one.name, float("-inf")))]
