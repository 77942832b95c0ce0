"""`python -m detection.eval`: score a trained or published detector with COCO's twelve numbers."""

from __future__ import annotations

from detection.config import EvalConfig
from engine.cli import command


def evaluate(config: EvalConfig) -> dict:
    """Score as configured; returns the metrics."""
    from detection.task import DetectionTask
    from engine import commands

    return commands.evaluate(DetectionTask, config)


main = command("detection.eval", EvalConfig, evaluate, __doc__)

if __name__ == "__main__":
    main()
