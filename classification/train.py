"""`python -m classification.train`: train a classifier on folders of classes, or on the demo scenes."""

from __future__ import annotations

from classification.config import PRESETS, TrainConfig
from engine.cli import command, demo_unless_root


def train(config: TrainConfig) -> dict:
    """Train as configured; returns the record."""
    from classification.task import ClassificationTask
    from engine import commands

    return commands.train(ClassificationTask, config)


main = command("classification.train", TrainConfig, train, __doc__, PRESETS, demo_unless_root)

if __name__ == "__main__":
    main()
