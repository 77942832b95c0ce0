"""Measures one finished training of each backbone in several runtimes, for the report."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from backbones.errors import BadInput
from engine.console import err
from experiments.costs.deployed import NAME, TABLE, read_deployed
from experiments.jobs.cell import Cell
from experiments.jobs.local import failure_reason


def measure_formats(cells: Sequence[Cell], folder: Path, formats: Sequence[str]) -> None:
    """Measure the first training of each backbone and task. Call it when no training runs.

    `python -m experiments.profile` does it in a process of its own, whose memory is not that of the comparison. Nothing
    is measured again if the table has these runs and formats already and no run is newer.

    Args:
        cells: finished trainings.
        folder: of the comparison.
        formats: names of `DeployedFormat`.

    Raises BadInput if a run cannot be measured.
    """
    first: dict[tuple[str, str], Path] = {}
    for cell in cells:
        first.setdefault((cell.task, cell.config.backbone), cell.folder_in(folder / "cells"))
    if not first or _is_measured(list(first.values()), folder / NAME / TABLE, formats):
        return
    err.print(f"measuring {len(first)} trainings in {', '.join(formats)}")
    command = [sys.executable, "-m", "experiments.profile", "--runs", *map(str, first.values())]
    command += ["--formats", *formats, "--output", str(folder / NAME)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        reason = failure_reason(process.stderr.splitlines(), process.returncode)
        raise BadInput(f"the runtimes could not be measured: {reason}", settings=("formats",))


def _is_measured(runs: Sequence[Path], table: Path, formats: Sequence[str]) -> bool:
    wanted = {(str(run), format) for run in runs for format in formats}
    if {(row.run, row.format) for row in read_deployed(table)} != wanted:
        return False
    return all((run / "record.json").stat().st_mtime <= table.stat().st_mtime for run in runs)
