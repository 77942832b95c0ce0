"""The trainings of a comparison, and what they have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backbones.errors import BadInput, NoPublishedWeights, UserError
from backbones.weight_files import weight_file
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
        Cell(task, (*shared[task], *held_out, *backbone_arguments(config, backbone), "--seed", str(seed)))
        for seed in range(config.resplit or config.seeds)
        for task in config.tasks
        for backbone in config.backbones
    ]
    for cell in cells:
        _ = cell.config  # raises for wrong settings
    published = {cell.config.backbone: None for cell in cells if cell.config.uses_published_weights}
    check_backbones(config.backbones, config.weights_by_backbone, tuple(published))
    budgets: list[int | None] = [budget for budget in config.budgets for _ in cells] or [None] * len(cells)
    cells = [with_settings(cell, epochs=budget) for budget in config.budgets for cell in cells] or cells
    return with_equal_cost(cells, config.baseline_name, config.equal, folder), budgets


def tuned_cells(cells: Sequence[Cell], budgets: Sequence[int | None]) -> list[tuple[Cell, int | None]]:
    """The trainings whose settings are chosen: the first of each backbone on each task and budget, with its budget."""
    first: dict[tuple[str, str, int | None], Cell] = {}
    for cell, budget in zip(cells, budgets, strict=True):
        first.setdefault((cell.task, cell.config.backbone, budget), cell)
    return [(cell, budget) for (_, _, budget), cell in first.items()]


def backbone_arguments(config: CompareConfig, backbone: str) -> tuple[str, ...]:
    """The arguments of trainings that select a backbone and, if the comparison names one, its weight file.

    Raises BadInput for a folder without a weight file.
    """
    file = config.weights_by_backbone.get(backbone)
    weights = () if file is None else ("--pretrained", str(weight_file(file)))
    return ("--backbone", backbone, *weights)


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


def check_backbones(
    names: Sequence[str], weights: Mapping[str, str] | None = None, published: Sequence[str] = ()
) -> None:
    """Raise an error for an unknown backbone or weights that cannot be loaded, before hours are spent on the others.

    Args:
        names: the backbones.
        weights: backbone -> weight file, or a folder with one.
        published: the backbones that start from their published weights. These are downloaded if necessary.

    Raises UserError for an unknown name, BadInput for a file that is absent or belongs to another network, and for
    published weights that do not exist, cannot be downloaded or are behind a licence page.
    """
    import torch

    from backbones import create_backbone

    for name in names:
        with torch.device("meta"):
            create_backbone(name)
    for name, file in (weights or {}).items():
        try:
            create_backbone(name, Path(file))
        except UserError as error:
            raise type(error)(f"--weights {name}={file}: {error}", settings=error.settings) from error
    for name in published:
        try:
            create_backbone(name, pretrained=True)
        except NoPublishedWeights as error:
            raise BadInput(
                f"no weights are published for '{name}': name its file with --weights {name}=FILE, leave it out, or "
                "train all networks with --protocol scratch"
            ) from error
