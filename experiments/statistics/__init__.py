"""Statistics of a comparison: intervals and verdicts from both sources of variance, images and trainings."""

from experiments.statistics.compare import compare_to_baseline
from experiments.statistics.difference import Difference
from experiments.statistics.images import read_images
from experiments.statistics.resplits import compare_resplits

__all__ = ["Difference", "compare_resplits", "compare_to_baseline", "read_images"]
