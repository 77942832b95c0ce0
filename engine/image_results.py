"""Results by image of one run, as statistics resample them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ImageResults:
    """One run's results by image.

    Attributes:
        keys: identify the N images.
        metric: name of the headline metric.
        score: counts (R, N), how often each image counts in each of R resamples -> (R,) the metric, fractions in 0..1;
            NaN where it is undefined.
    """

    keys: tuple[str, ...]
    metric: str
    score: Callable[[np.ndarray], np.ndarray]
