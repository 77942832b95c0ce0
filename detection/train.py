"""`python -m detection.train`: train a detector on a COCO-style data set, or on the demo scenes."""

from __future__ import annotations

from detection.config import PRESETS, TrainConfig
from engine.cli import command, demo_unless_root


def train(config: TrainConfig) -> dict:
    """Train as configured; returns the record."""
    from detection.task import DetectionTask
    from engine import commands

    return commands.train(DetectionTask, config)


main = command("detection.train", TrainConfig, train, __doc__, PRESETS, demo_unless_root)

if __name__ == "__main__":
    main()
