"""What the readers of the three tasks return: the scored files of each name, and notes about them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.image_results import ImageResults


@dataclass(frozen=True)
class ScoredFile:
    """The results in one file, or in one folder of masks.

    Attributes:
        file: the file or folder.
        images: the results of each image.
        by_class: class name -> score, a fraction; NaN for a class that the truth does not contain.
        facts: column of results.csv -> value, such as the number of detections.
    """

    file: Path
    images: ImageResults
    by_class: Mapping[str, float]
    facts: Mapping[str, float | int | None] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The metric over all images, a fraction; NaN if it is undefined."""
        return float(self.images.score(np.ones((1, len(self.images.keys)), np.int64))[0])


@dataclass(frozen=True)
class Side:
    """The results of one network: a file for each seed."""

    name: str
    files: tuple[ScoredFile, ...]

    @property
    def scores(self) -> list[float]:
        """The score of each file, a fraction."""
        return [file.score for file in self.files]

    @property
    def mean(self) -> float:
        """Mean score of the files, a fraction."""
        return statistics.fmean(self.scores)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the score; None for one file, and where a score is undefined."""
        return statistics.stdev(self.scores) if len(self.files) > 1 and self.mean == self.mean else None

    @property
    def by_class(self) -> dict[str, float]:
        """Mean score of each class."""
        return {name: statistics.fmean(file.by_class[name] for file in self.files) for name in self.files[0].by_class}


@dataclass(frozen=True)
class Compared:
    """All results of a comparison, scored against the same truth.

    Attributes:
        task, metric: names. The metric is that of the comparison.
        class_metric: the metric of single classes.
        truth: a sentence about the truth.
        sides: the results of each name.
        notes: sentences about how the files were read, and what they contain.
        warnings: sentences about what makes the comparison unfair.
    """

    task: str
    metric: str
    class_metric: str
    truth: str
    sides: Sequence[Side]
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
