"""`python -m experiments.joint.eval`: score each head of a joint network on its data."""

from __future__ import annotations

from typing import Any

from engine.cli import command
from engine.entry import without_collection
from experiments.joint.config import JointEvalConfig
from experiments.joint.spec import SPEC


def run(config: Any) -> Any:
    """Evaluate."""
    with without_collection():
        from experiments.joint.evaluation import evaluate
    return evaluate(config)


main = command(f"{SPEC.program}.eval", JointEvalConfig, run, __doc__ or "")

if __name__ == "__main__":
    main()
