"""The trainings of a comparison, and what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.schema import flat
from experiments.compare.config import CompareConfig
from experiments.compare.equal_cost import with_equal_cost
from experiments.jobs.cell import HOLDOUT, Cell, with_settings


def comparison_cells(
    config: CompareConfig, shared: dict[str, tuple[str, ...]], folder: Path
) -> tuple[list[Cell], list[int | None]]:
    """All trainings of a comparison, and the budget of each: the epochs of the baseline; None without `budgets`.

    Args:
        config: settings of the comparison.
        shared: arguments that all trainings of a task share.
        folder: the comparison's folder, where measured costs are kept.

    Raises UserError for wrong settings and unknown backbones, before the first training.
    """
    held_out = ("--data.holdout", str(HOLDOUT)) if config.resplit else ()
    cells = [
        Cell(task, (*shared[task], *held_out, "--backbone", backbone, "--seed", str(seed)))
        for seed in range(config.resplit or config.seeds)
        for task in config.tasks
        for backbone in config.backbones
    ]
    for cell in cells:
        _ = cell.config  # raises for wrong settings
    check_backbones(config.backbones)
    budgets: list[int | None] = [budget for budget in config.budgets for _ in cells] or [None] * len(cells)
    cells = [with_settings(cell, epochs=budget) for budget in config.budgets for cell in cells] or cells
    return with_equal_cost(cells, config.baseline_name, config.equal, folder), budgets


def tuned_cells(cells: Sequence[Cell], budgets: Sequence[int | None]) -> list[tuple[Cell, int | None]]:
    """The trainings whose settings are chosen: the first of each backbone on each task and budget, with its budget."""
    first: dict[tuple[str, str, int | None], Cell] = {}
    for cell, budget in zip(cells, budgets, strict=True):
        first.setdefault((cell.task, cell.config.backbone, budget), cell)
    return [(cell, budget) for (_, _, budget), cell in first.items()]


def shared_settings(cells: Sequence[Cell]) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """Return for each task the settings that all its cells share, and the names of those that differ.

    The names do not include backbone and seed.
    """
    same: dict[str, dict[str, Any]] = {}
    differing: dict[str, list[str]] = {}
    for task in dict.fromkeys(cell.task for cell in cells):
        settings = [dict(flat(cell.settings)) for cell in cells if cell.task == task]
        first = settings[0]
        equal = {name for name in first if all(other[name] == first[name] for other in settings)}
        same[task] = {name: value for name, value in first.items() if name in equal}
        differing[task] = [name for name in first if name not in equal | {"backbone", "seed"}]
    return same, differing


def check_backbones(names: Sequence[str]) -> None:
    """Raise UserError for an unknown backbone, before hours are spent on the others."""
    import torch

    from backbones import create_backbone

    with torch.device("meta"):
        for name in names:
            create_backbone(name)
