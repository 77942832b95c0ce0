"""`python -m segmentation.eval`: score a trained segmentation network by mIoU on whole images."""

from __future__ import annotations

from engine.cli import command
from segmentation.config import EvalConfig


def evaluate(config: EvalConfig) -> dict:
    """Score as configured; returns the metrics."""
    from engine import commands
    from segmentation.task import SegmentationTask

    return commands.evaluate(SegmentationTask, config)


main = command("segmentation.eval", EvalConfig, evaluate, __doc__)

if __name__ == "__main__":
    main()
