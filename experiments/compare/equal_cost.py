"""Epochs that cost each backbone the same: the training of the baseline is the measure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from backbones.errors import BadInput
from engine.record import write_json
from experiments.costs.meter import Meter
from experiments.jobs.cell import Cell, with_settings

COSTS = "costs.json"  # measured times, kept so that the same command has the same epochs


def with_equal_cost(cells: Sequence[Cell], baseline: str, equal: str, folder: Path) -> list[Cell]:
    """The cells with the epochs that the same cost buys: that of the baseline's training with the cell's epochs.

    Args:
        cells: trainings.
        baseline: backbone whose epochs stay as they are.
        equal: "epochs" changes nothing; "macs" takes multiply-adds of an image as the cost, "seconds" the time of a
            training step on this machine, which is measured once and stored in `folder`.
        folder: the comparison's folder.

    Raises BadInput if the stored times are damaged.
    """
    if equal == "epochs":
        return list(cells)
    measure = _multiply_adds if equal == "macs" else _stored(folder / COSTS, _step_seconds)
    costs: dict[tuple[str, str], float] = {}
    for cell in cells:
        costs.setdefault((cell.task, cell.config.backbone), measure(cell))
    found = []
    for cell in cells:
        share = costs[cell.task, baseline] / costs[cell.task, cell.config.backbone]
        found.append(with_settings(cell, epochs=max(1, round(cell.config.epochs * share))))
    return found


def _multiply_adds(cell: Cell) -> float:
    return Meter(cell, timed=False).measure(cell)["macs"]


def _step_seconds(cell: Cell) -> float:
    from experiments.compare.estimate import epoch_seconds

    return epoch_seconds(cell)


def _stored(file: Path, measure: Callable[[Cell], float]) -> Callable[[Cell], float]:
    """The measurement, which is kept in a file by task and backbone."""

    def stored(cell: Cell) -> float:
        try:
            known = json.loads(file.read_text()) if file.exists() else {}
            by_backbone = known.setdefault(cell.task, {})
            if cell.config.backbone not in by_backbone:
                by_backbone[cell.config.backbone] = measure(cell)
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, known)
            return float(by_backbone[cell.config.backbone])
        except (ValueError, TypeError, AttributeError) as error:
            raise BadInput(f"{file} is damaged ({error}): delete it to measure the times again") from error

    return stored
