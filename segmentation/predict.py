"""`python -m segmentation.predict`: the class of every pixel of images; writes palette PNGs, overlays and shares."""

from __future__ import annotations

from engine.cli import command
from segmentation.config import PredictConfig


def predict(config: PredictConfig) -> None:
    """Predict as configured."""
    from engine import commands
    from segmentation.task import SegmentationTask

    commands.predict(SegmentationTask, config)


main = command("segmentation.predict", PredictConfig, predict, __doc__)

if __name__ == "__main__":
    main()
