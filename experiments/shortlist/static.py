"""The static ranking of candidates: published ImageNet accuracy, size and licence. Nothing is downloaded or built.

`imagenet.csv` has top-1 in percent and parameters in millions of the published weights of timm, each at the size that
timm evaluates it at. Source: `results/results-imagenet.csv` of huggingface/pytorch-image-models at commit 4e5207c7
(2025-10-30), which has measured them on ImageNet's validation images.
"""

from __future__ import annotations

import csv
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from backbones.compat import pretrained_config
from backbones.errors import UserError, unknown_name
from backbones.factory import list_backbones
from backbones.names import is_custom, split_tag

FILE = Path(__file__).with_name("imagenet.csv")
SOURCE = "timm's results-imagenet.csv of 2025-10-30"


@dataclass(frozen=True)
class Candidate:
    """A network with weights.

    Attributes:
        name: as `backbone` of a training takes it.
        top1: published ImageNet top-1, a fraction; None if the table does not have it.
        params: parameters as ImageNet classifier; None if the table does not have them.
        license: of the weights; None if not stated.
        file: weight file of the user's; None for published weights.
    """

    name: str
    top1: float | None
    params: float | None
    license: str | None
    file: str | None = None


@cache
def table() -> dict[str, tuple[float, float]]:
    """`NAME.TAG` -> top-1 as a fraction, and number of parameters."""
    with FILE.open(newline="") as file:
        return {row["name"]: (float(row["top1"]) / 100, 1e6 * float(row["params_m"])) for row in csv.DictReader(file)}


def candidates(patterns: Sequence[str], files: Mapping[str, str] | None = None) -> tuple[list[Candidate], list[str]]:
    """The networks that match any of the patterns, the best published accuracy first, those without it last.

    Args:
        patterns: names, or shell patterns such as 'resnet*', of networks that can be backbones. A pattern selects the
            default weights of a network. `NAME.TAG` selects others, and 'NAME.*' all of them.
        files: network -> weight file. Each is a candidate.

    Returns the candidates, and the names of matching networks without published weights.

    Raises UserError for a name or pattern that matches nothing.
    """
    files = dict(files or {})
    names: dict[str, None] = dict.fromkeys(files)
    for pattern in patterns:
        names |= dict.fromkeys(_matching(pattern))
    found, without = [], []
    for name in names:
        candidate = _candidate(name, files.get(name))
        if candidate is None:
            without.append(name)
        else:
            found.append(candidate)
    return sorted(found, key=lambda one: (one.top1 is None, -(one.top1 or 0.0), one.params or 0.0)), without


def static_score(name: str, weights: str) -> float:
    """Published top-1 of a network's published weights, a fraction; minus infinity without one.

    Args:
        name: the backbone.
        weights: source of its weights, as in `experiments.corpus.rows.CorpusRow`.
    """
    if is_custom(name) or not is_published(weights):
        return float("-inf")
    config = pretrained_config(name)
    top1 = None if config is None else _facts(name, config.tag)[0]
    return float("-inf") if top1 is None else top1


def is_published(weights: str) -> bool:
    """Whether a source of weights is not a file or run of the user's."""
    return not weights.startswith(("file:", "run:"))


def _facts(name: str, tag: str | None) -> tuple[float, float] | tuple[None, None]:
    """Published top-1 and parameters of a network with the weights `tag`; None where the table lacks them."""
    return table().get(f"{split_tag(name)[0]}.{tag}", (None, None))


def _matching(pattern: str) -> list[str]:
    if is_custom(pattern):
        return [pattern]
    if "." not in pattern:
        known = list_backbones(pattern)
        if not known:
            raise unknown_name("backbone", pattern, list_backbones())
        return known
    import timm

    backbones = set(list_backbones(split_tag(pattern)[0] if "." in pattern else "*"))
    tagged = [name for name in timm.list_pretrained() if fnmatch.fnmatchcase(name, pattern)]
    known = [name for name in tagged if split_tag(name)[0] in backbones]
    if not known:
        raise UserError(f"no published weights of a backbone match `backbones={pattern}`", settings=("backbones",))
    return known


def _candidate(name: str, file: str | None) -> Candidate | None:
    """None for a network without published weights and without a file."""
    if file is not None:
        return Candidate(name, None, None, None, file)
    if is_custom(name):
        return None
    config = pretrained_config(name)
    if config is None or not config.tag or not config.has_weights:
        return None
    top1, params = _facts(name, config.tag)
    return Candidate(name, top1, params, None if config.license in (None, "unknown") else config.license)
