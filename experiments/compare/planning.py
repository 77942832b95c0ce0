"""Prints how many seeds and images a difference takes, from finished trainings of the same task."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from backbones.errors import BadInput, UserError
from engine.checkpoint import RUNS
from engine.console import out
from experiments.jobs.progress import duration
from experiments.report.results import FinishedRun
from experiments.statistics.planning import MOST_SEEDS, POWER, Pilot

log = logging.getLogger(__name__)

POINTS = (1, 2, 5, 10)  # differences that are planned for
MORE_IMAGES = 4


def print_plan(
    task: str, metric: str, places: Sequence[Path], backbones: int, seconds_per_seed: float, images: int | None = None
) -> None:
    """Print the table for one task, or why there is none.

    Args:
        task: name of the task.
        metric: the metric to compare.
        places: folders to search for finished trainings; the first one that has enough of them is used.
        backbones: number of backbones of the comparison.
        seconds_per_seed: time of one training of each of them.
        images: number of images to score on; by default that of the finished trainings.
    """
    for place in places:
        pilot = pilot_in(place, task, metric)
        if pilot is not None:
            break
    else:
        out.print(
            f"{task}: to plan the number of seeds, two trainings of each of two backbones are needed. There are none "
            f"in {', '.join(map(str, places))}; others can be named with --pilot FOLDER"
        )
        return
    comparisons = max(1, backbones - 1)
    images = images or pilot.images
    seeds_sd, images_sd = (100 * variance**0.5 for variance in (pilot.seed_variance, pilot.image_variance))
    table = Table("difference", *(f"seeds, {count} images" for count in (images, MORE_IMAGES * images)), "time")
    for points in POINTS:
        seeds = [pilot.seeds_for(points / 100, count, comparisons) for count in (images, MORE_IMAGES * images)]
        time = duration(seeds[0] * seconds_per_seed) if seeds[0] else ""
        table.add_row(f"{points} points", *(str(n) if n else f"over {MOST_SEEDS}" for n in seeds), time)
    out.print(
        f"{task}: seeds for each backbone to find a difference in {metric} with a probability of {100 * POWER:.0f}%"
        + (f", corrected for {comparisons} comparisons" if comparisons > 1 else "")
    )
    out.print(table)
    out.print(
        f"Estimated from {pilot.trainings} trainings of {', '.join(pilot.backbones)} in {place}. Standard deviation of "
        f"one training: {seeds_sd:.1f} points; of a difference, due to the choice of {pilot.images} images: "
        f"{images_sd:.1f} points. Time: of the trainings of all {backbones} backbones with {images} images"
    )


def pilot_in(folder: Path, task: str, metric: str) -> Pilot | None:
    """What the finished trainings of a task in a folder, or in folders below it, show; None if they are too few.

    Only trainings that were scored on the same images count: those of the most frequent set of images.
    """
    runs = []
    for file in sorted(folder.rglob("record.json")):
        try:
            run = FinishedRun.of(file.parent, metric)
            if run.record["task"] == task:
                _ = run.images
                runs.append(run)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, BadInput, UserError) as error:
            log.warning("%s is not used for planning: %s", file.parent, error)
    data = Counter(run.images.keys for run in runs)
    if not data:
        return None
    same = [run for run in runs if run.images.keys == data.most_common(1)[0][0]]
    sides: dict[str, list[FinishedRun]] = defaultdict(list)
    for run in same:
        sides[run.record["backbone"]].append(run)
    return Pilot.of({name: [run.images for run in found] for name, found in sides.items()})


def places(output: Path, task: str, pilot: str | None) -> list[Path]:
    """Where finished trainings are searched: the named folder, or this comparison's and the default run folder."""
    return [Path(pilot)] if pilot else [output / "cells" / task, RUNS / task]
