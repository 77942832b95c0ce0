"""`python -m experiments.joint.export`: write a joint network with all heads as one file for another runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.entry import task_command
from engine.export.config import ExportConfig
from experiments.joint.spec import SPEC


def load() -> Callable[..., Any]:
    """The function of the command."""
    from experiments.joint.exporting import export

    return export


main = task_command(SPEC, "export", ExportConfig, load, __doc__, for_good=False)

if __name__ == "__main__":
    main()
