"""`python -m detection.predict`: find objects in images; writes pictures and COCO result JSON."""

from __future__ import annotations

from detection.config import PredictConfig
from engine.cli import command


def predict(config: PredictConfig) -> None:
    """Predict as configured."""
    from detection.task import DetectionTask
    from engine import commands

    commands.predict(DetectionTask, config)


main = command("detection.predict", PredictConfig, predict, __doc__)

if __name__ == "__main__":
    main()
