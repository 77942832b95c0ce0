"""`python -m experiments.joint.eval`: score each head of a joint network on its data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.entry import task_command
from experiments.joint.config import JointEvalConfig
from experiments.joint.spec import SPEC


def load() -> Callable[..., Any]:
    """The function of the command."""
    from experiments.joint.evaluation import evaluate

    return evaluate


main = task_command(SPEC, "eval", JointEvalConfig, load, __doc__, for_good=False)

if __name__ == "__main__":
    main()
