"""`python -m experiments.joint.export`: write a joint network with all heads as one file for another runtime."""

from __future__ import annotations

from typing import Any

from engine.cli import command
from engine.entry import without_collection
from engine.export.config import ExportConfig
from experiments.joint.spec import SPEC


def run(config: Any) -> Any:
    """Export."""
    with without_collection():
        from experiments.joint.exporting import export
    return export(config)


main = command(f"{SPEC.program}.export", ExportConfig, run, __doc__ or "")

if __name__ == "__main__":
    main()
