"""`python -m classification.predict`: name what is in images; writes pictures and the likeliest classes as JSON."""

from __future__ import annotations

from classification.config import PredictConfig
from engine.cli import command


def predict(config: PredictConfig) -> None:
    """Predict as configured."""
    from classification.task import ClassificationTask
    from engine import commands

    commands.predict(ClassificationTask, config)


main = command("classification.predict", PredictConfig, predict, __doc__)

if __name__ == "__main__":
    main()
