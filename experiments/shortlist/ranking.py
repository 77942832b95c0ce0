"""The order of the candidates, by published facts, by a score of features, or by what the corpus says."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from backbones.errors import UserError
from backbones.weight_facts import sha256
from backbones.weight_files import weight_file
from experiments.corpus.rows import Corpus
from experiments.shortlist import evidence, stored
from experiments.shortlist.config import ShortlistConfig
from experiments.shortlist.static import Candidate, is_published
from experiments.shortlist.stored import CHOSEN, CORPUS, SCORES, SIZE, STATIC, Scored

log = logging.getLogger(__name__)


def cases_of(config: ShortlistConfig) -> list[evidence.Case]:
    """The data sets of the corpus for the task and protocol. Raises UserError if the order needs some, and has none."""
    folder = Path(config.corpus)
    found = evidence.cases(Corpus(folder).rows(), stored.read(folder), config.task, config.protocol)
    if not found and config.rank_by in (CORPUS, CHOSEN):
        raise UserError(
            f"--rank_by {config.rank_by} needs a corpus with trainings of two pretrained networks on a data set, and "
            f"{folder} has none for {config.task} with --protocol {config.protocol}"
        )
    return found


def order(
    config: ShortlistConfig, found: Sequence[Candidate], scored: Sequence[Scored], cases: Sequence[evidence.Case]
) -> list[str]:
    """Names of the candidates in the order that `rank_by` asks for; only scored ones where it is a score of features.

    Without scores, a score of features leaves the static order.

    Args:
        config: settings.
        found: the candidates in the static order.
        scored: the scores of those that were scored.
        cases: the data sets of the corpus, see `cases_of`.

    Raises UserError if `rank_by` chooses a score of features and there are no scores.
    """
    rank_by = chosen_list(config, cases) if config.rank_by == CHOSEN else config.rank_by
    if rank_by == SIZE:
        return [one.name for one in sorted(found, key=lambda one: -(one.params or 0.0))]
    if rank_by == CORPUS:
        values = of_candidates(found, cases)
        if unknown := [one.name for one in found if one.name not in values]:
            log.warning("no trainings in the corpus, so these come last: %s", ", ".join(unknown))
        return [one.name for one in sorted(found, key=lambda one: -values.get(one.name, float("-inf")))]
    if rank_by == STATIC or not config.score:
        return [one.name for one in found]
    return ranked(scored, rank_by)


def ranked(scored: Sequence[Scored], by: str) -> list[str]:
    """Names by a score, the highest first; those without it last."""
    return [one.backbone for one in sorted(scored, key=lambda one: -one.scores.get(by, float("-inf")))]


def of_candidates(found: Sequence[Candidate], cases: Sequence[evidence.Case]) -> dict[str, float]:
    """Candidate -> its mean rank on the corpus, for those that the corpus has with the same weights."""
    ranks = evidence.mean_ranks(cases)
    rows = {name: row for case in cases for name, row in case.rows.items()}
    values = {}
    for one in found:
        digest = None if one.file is None else sha256(Path(weight_file(one.file)))
        for name, row in rows.items():
            is_same = is_published(row.weights) if digest is None else row.weights_sha256 == digest
            if row.backbone == one.name and is_same:
                values[one.name] = ranks[name]
    return values


def chosen_list(config: ShortlistConfig, cases: Sequence[evidence.Case]) -> str:
    """The list that had the lowest regret on the data sets of the corpus. Raises UserError if it cannot be used."""
    name = evidence.lowest_regret(cases, config.first, evidence.shared_lists(cases))
    log.warning("--rank_by %s: %s had the lowest regret on the corpus", CHOSEN, name)
    if name in SCORES and not config.score:
        raise UserError(f"--rank_by {CHOSEN} is {name} here, which needs features: leave --score false out")
    return name
