"""`python -m segmentation.train`: train a segmentation network on ADE20K, on folders like it, or on the demo scenes."""

from __future__ import annotations

from engine.cli import command, demo_unless_root
from segmentation.config import PRESETS, TrainConfig


def train(config: TrainConfig) -> dict:
    """Train as configured; returns the record."""
    from engine import commands
    from segmentation.task import SegmentationTask

    return commands.train(SegmentationTask, config)


main = command("segmentation.train", TrainConfig, train, __doc__, PRESETS, demo_unless_root)

if __name__ == "__main__":
    main()
