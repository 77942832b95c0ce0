"""The scores of a run on resamples of its images. Each run is scored once for all comparisons that it takes part in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbones.errors import BadInput, UserError
from engine.image_results import ImageResults
from engine.schema import read_record
from experiments.records import config_of
from experiments.tasks import task_spec

CHUNK = 256  # resamples in memory at once
GROUPS = 200  # most groups of images that are left out in turn; with fewer images, each image is a group


@dataclass(frozen=True)
class Resampled:
    """The scores of all runs of a backbone, one run for each seed.

    Attributes:
        images: number of images N.
        digests: of the results of each run; runs with the same digest have the same results. None if it is unknown.
        scores: (seeds,) on all images.
        resampled: (seeds, R) on R resamples of the images, drawn with replacement.
        without: (seeds, G) on all images but those of one group.
    """

    images: int
    digests: tuple[str | None, ...]
    scores: np.ndarray
    resampled: np.ndarray
    without: np.ndarray

    @property
    def seeds(self) -> int:
        """Number of runs."""
        return len(self.scores)

    def select(self, runs: Sequence[int]) -> Resampled:
        """Some of the runs."""
        digests = tuple(self.digests[i] for i in runs)
        rows = list(runs)
        return Resampled(self.images, digests, self.scores[rows], self.resampled[rows], self.without[rows])


def resample(sides: Mapping[str, Sequence[ImageResults]], resamples: int = 1000, seed: int = 0) -> dict[str, Resampled]:
    """Score every run on the same resamples of the images.

    Args:
        sides: results by image of each backbone's runs, all on the same images.
        resamples: number of resamples.
        seed: of the random numbers.

    Raises BadInput if the runs were not scored on the same images, or with different metrics.
    """
    runs = [run for side in sides.values() for run in side]
    if any(run.keys != runs[0].keys or run.metric != runs[0].metric for run in runs):
        raise BadInput("the runs to compare were not scored on the same images: evaluate them on the same split")
    images = len(runs[0].keys)
    random = np.random.default_rng(seed)
    drawn = [
        random.multinomial(images, np.full(images, 1 / images), size=min(CHUNK, resamples - start))
        for start in range(0, resamples, CHUNK)
    ]
    once_each = np.ones((1, images), np.int64)
    groups = min(images, GROUPS)
    # Images are put into the groups in turn. Data sets that are sorted by class have some of each in every group.
    left_out = 1 - (np.arange(images) % groups == np.arange(groups)[:, None]).astype(np.int64)
    found: dict[str, Resampled] = {}
    for name, side in sides.items():
        tables = []
        for counts in (once_each, left_out):
            tables.append(np.stack([run.score(counts) for run in side]))
        resampled = np.stack([np.concatenate([run.score(counts) for counts in drawn]) for run in side])
        found[name] = Resampled(images, tuple(run.digest for run in side), tables[0][:, 0], resampled, tables[1])
    return found


def read_images(run: Path, metric: str | None = None, results: Path | None = None) -> ImageResults:
    """Read the results by image from the folder of a finished run, for a metric; by default the headline metric.

    Args:
        run: the run folder.
        metric: name of the metric.
        results: folder with the results of each image, if they are not in the run folder: that of an evaluation.

    Raises BadInput if they are absent or damaged, and UserError if they are not sufficient to compute the metric.
    """
    try:
        record = read_record(run / "record.json", config_of)
        spec = task_spec(record["task"])
        if metric is not None and metric not in spec.image_metrics:
            raise UserError(
                f"{metric} cannot be computed from the stored results of each image of {spec.name}: use "
                f"{', '.join(spec.image_metrics)}"
            )
        found = spec.read_images(results or run, record, metric or spec.metric)
        if not found.keys:
            raise ValueError("they name no image")
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{run} has no results by image that can be read ({error}): train it again") from error
