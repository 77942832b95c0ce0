"""`python -m classification.eval`: score a trained or published classifier by top-1, top-5 and class."""

from __future__ import annotations

from classification.config import EvalConfig
from engine.cli import command


def evaluate(config: EvalConfig) -> dict:
    """Score as configured; returns the metrics."""
    from classification.task import ClassificationTask
    from engine import commands

    return commands.evaluate(ClassificationTask, config)


main = command("classification.eval", EvalConfig, evaluate, __doc__)

if __name__ == "__main__":
    main()
