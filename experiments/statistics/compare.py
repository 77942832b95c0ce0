"""Compares backbones with a baseline: intervals of the differences, and verdicts that are corrected together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from engine.image_results import ImageResults
from experiments.statistics.correction import corrected
from experiments.statistics.difference import FEWEST_DIFFERING, FEWEST_IMAGES, NEITHER, TOO_LITTLE, Difference
from experiments.statistics.images import Resampled, resample
from experiments.statistics.variance import Spread, spread


def compare_to_baseline(
    sides: Mapping[str, Sequence[ImageResults]],
    baseline: str,
    *,
    seconds: Mapping[str, float] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Difference]:
    """The difference of each backbone to the baseline.

    All verdicts together have an error rate of 1 - `level`: the probability that any of them is `better` or `worse`
    though there is no difference (Holm, Scand. J. Stat. 6, 1979). The intervals are simultaneous, that is, they all
    contain the true differences with probability `level` (Guilbaud, Biom. J. 50, 2008).

    Args:
        sides: results by image of each backbone's runs, one run for each seed, all on the same images.
        baseline: name of the backbone to compare with.
        seconds: time that one training of each backbone took, for the reasons of verdicts.
        resamples: number of resamples of the images.
        seed: of the random numbers.
        level: confidence level, in 0..1.

    Raises BadInput if the runs were not scored on the same images.
    """
    return compare_resampled(resample(sides, resamples, seed), baseline, seconds=seconds, level=level)


def compare_resampled(
    resampled: Mapping[str, Resampled],
    baseline: str,
    *,
    seconds: Mapping[str, float] | None = None,
    level: float = 0.95,
) -> dict[str, Difference]:
    """The same from scores that are computed already."""
    theirs = resampled[baseline]
    others = {name: side for name, side in resampled.items() if name != baseline}
    values = {name: float(side.scores.mean() - theirs.scores.mean()) for name, side in others.items()}
    spreads = {name: spread(side, theirs) for name, side in others.items()}
    same = {name for name, side in others.items() if _same(side, theirs)}
    too_little = {
        name: why
        for name, side in others.items()
        if name not in same and (why := _too_little(values[name], side, theirs, spreads[name]))
    }
    decided = corrected(
        {name: value for name, value in values.items() if name not in same and name not in too_little}, spreads, level
    )
    found = {}
    for name, side in others.items():
        value, part = values[name], spreads[name]
        about = Difference(
            value=value,
            low=value,
            high=value,
            verdict=NEITHER,
            reason="the results are the same",
            images=side.images,
            seeds=(side.seeds, theirs.seeds),
            comparisons=max(1, len(decided)),
            variance=(part.images, part.ours, part.baseline),
        )
        if name in same:
            found[name] = replace(about, value=0.0, low=0.0, high=0.0)
        elif name in too_little:
            width = part.half_width(level)
            reason = too_little[name] + _more_seeds(name, baseline, side, theirs, value, width, seconds)
            found[name] = replace(about, low=value - width, high=value + width, verdict=TOO_LITTLE, reason=reason)
        else:
            outcome = decided[name]
            share = 100 * part.images / (part.images + part.seeds)
            found[name] = replace(
                about,
                low=outcome.low,
                high=outcome.high,
                p_value=outcome.p_value,
                verdict=outcome.verdict,
                reason=f"{outcome.reason}; {share:.0f}% of the variance is due to the choice of images, the rest to "
                "the trainings",
            )
    return found


def _same(ours: Resampled, theirs: Resampled) -> bool:
    """Whether both sides are the same results."""
    return None not in ours.digests and sorted(map(str, ours.digests)) == sorted(map(str, theirs.digests))


def _too_little(value: float, ours: Resampled, theirs: Resampled, part: Spread) -> str:
    """Why there can be no verdict; empty if there can be one."""
    if not np.isfinite([value, part.images, part.seeds]).all():
        return "the metric is undefined for some trainings or choices of images"
    if ours.images < FEWEST_IMAGES:
        return f"{ours.images} images; a verdict needs at least {FEWEST_IMAGES}"
    if part.differing < FEWEST_DIFFERING:
        return (
            f"the two differ on too few of the {ours.images} images: "
            f"the difference rests on about {math.floor(10 * part.differing) / 10:g}, and a verdict needs "
            f"{FEWEST_DIFFERING:.0f}"
        )
    if min(ours.seeds, theirs.seeds) == 1:
        return "one training each" if ours.seeds == theirs.seeds else "one training on one side"
    return ""


def _more_seeds(
    name: str,
    baseline: str,
    ours: Resampled,
    theirs: Resampled,
    value: float,
    width: float,
    seconds: Mapping[str, float] | None,
) -> str:
    """The rest of the sentence where one training is the reason."""
    if min(ours.seeds, theirs.seeds) > 1 or ours.images < FEWEST_IMAGES or not np.isfinite(width):
        return ""
    differs = "differs on these images" if abs(value) > width else "does not differ on these images"
    missing = {side: max(0, 2 - found.seeds) for side, found in ((name, ours), (baseline, theirs))}
    cost = ""
    if seconds and all(np.isfinite(seconds.get(side, np.nan)) for side in missing):
        cost = f" (about {hours(sum(count * seconds[side] for side, count in missing.items()))} here)"
    more = max(missing.values())
    return f": {differs}; a verdict on the backbone needs at least {more} more seed{'' if more == 1 else 's'}{cost}"


def hours(seconds: float) -> str:
    """A duration in hours, or in minutes if it is short."""
    minutes = max(1, round(seconds / 60))
    return f"{seconds / 3600:.1f} hours" if minutes >= 30 else f"{minutes} minute{'' if minutes == 1 else 's'}"
