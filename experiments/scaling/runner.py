"""Runs a scaling study: trains the grid, stores the best family, and compares one dimension with all three."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

from rich.table import Table

from backbones.architecture import Architecture
from backbones.errors import BadInput, UserError, reason_lines
from engine.console import out
from engine.record import write_json
from experiments.costs.coefficients import DIMENSIONS, Coefficients, candidates
from experiments.jobs.cell import HOLDOUT
from experiments.jobs.local import finished
from experiments.jobs.lock import only_one, resumable
from experiments.jobs.progress import ProgressDisplay
from experiments.jobs.runner import Runner
from experiments.jobs.runners import create_runner
from experiments.jobs.study import StudyFolder, training_arguments
from experiments.records import read_record
from experiments.report.formatting import billions, percent
from experiments.scaling.config import ScalingConfig
from experiments.scaling.networks import StudyNetworks
from experiments.scaling.report import ALL, NAN, NetworkResult, draw_scaling, networks_table, print_family, write_rows
from experiments.statistics import Difference, compare_to_baseline, read_images
from experiments.tasks import TASKS

EQUAL_COST = 0.1  # share by which the costs of two networks may differ if their scores are compared


def scale(config: ScalingConfig, train_arguments: Sequence[str]) -> None:
    """Run the study, except for trainings that are finished already.

    Args:
        config: settings of the study.
        train_arguments: arguments of the task's train command.

    Raises UserError or BadInput before the first training for wrong arguments or bad data. Raises BadInput if the
    whole grid fails, and after all files are written if single trainings failed.
    """
    grid = [] if config.coefficients else list(candidates(config.depths, config.widths))
    if not grid and not config.coefficients:
        raise UserError("the grid is empty because depth * width^2 is above 2: try smaller --depths and --widths")
    study = Study(config, training_arguments(config, train_arguments, "scaling"))
    if config.dry_run:
        study.print_plan(grid)
        return
    with only_one(study.folder.path) as lock, resumable():
        study.run(grid, lock)


class Study:
    """A scaling study in the folder `config.output`.

    Args:
        config: settings of the study.
        shared: arguments of all trainings.
    """

    def __init__(self, config: ScalingConfig, shared: Sequence[str]) -> None:
        self.config = config
        self.metric = TASKS[config.task].metric
        self.folder = StudyFolder(Path(config.output))
        self.networks = StudyNetworks(config, shared)

    def print_plan(self, grid: Sequence[Coefficients]) -> None:
        """List the trainings."""
        known = {ALL: Coefficients(*self.config.coefficients)} if self.config.coefficients else {}
        planned = [
            *self.networks.of_grid(grid),
            self.networks.planned_base(),
            *self.networks.of_dimensions(DIMENSIONS | known),
        ]
        out.print(self.table([result for result, _ in planned], "to train"))
        if not known and self.config.phis:
            costs = " and ".join(billions(2**phi * self.networks.macs) for phi in self.config.phis)
            out.print(f"and all three at once, with the coefficients that the grid finds, with {costs}")

    def run(self, grid: Sequence[Coefficients], lock: IO[str]) -> None:
        """Train the grid, then the networks of equal cost, and report."""
        single = self.networks.of_dimensions(DIMENSIONS)  # raises, if it does, before the first training
        runner = create_runner(self.config.runner, self.config.slots, self.folder.path, lock)
        total = len(grid) + 1 + len(single) + len(self.config.phis)
        with ProgressDisplay(total, self.config.slots) as display:
            tried = self.train_all(runner, display, self.networks.of_grid(grid), HOLDOUT)
            if tried:
                write_rows([asdict(result) for result in tried], self.folder.path / "grid.csv")
            chosen = Coefficients(*self.config.coefficients) if self.config.coefficients else self.best(tried)
            family = self.networks.store_family(chosen, self.folder)
            planned = [self.networks.planned_base(), *single, *self.networks.of_dimensions({ALL: chosen})]
            compared = self.train_all(runner, display, planned)
        self.report(chosen, family, tried, compared)
        if failed := [result for result in (*tried, *compared) if result.error]:
            lines = reason_lines({result.key: result.error or "" for result in failed})
            raise BadInput(
                f"{len(failed)} of {display.total} trainings failed. Their logs are in {self.folder.path / 'cells'}. "
                f"To train them again, run the same command.\n{lines}"
            )

    def train_all(
        self,
        runner: Runner,
        display: ProgressDisplay,
        networks: Sequence[tuple[NetworkResult, Architecture]],
        holdout: float = 0,
    ) -> list[NetworkResult]:
        """Train networks, several at a time if there are slots, and return their results in the same order."""
        results = runner.map(lambda i: self.train(display, runner, *networks[i], holdout), range(len(networks)))
        return [result for _, result in sorted(results, key=lambda pair: pair[0])]

    def train(
        self, display: ProgressDisplay, runner: Runner, planned: NetworkResult, network: Architecture, holdout: float
    ) -> NetworkResult:
        """Train a network, unless its training is finished already; returns `planned` with the result."""
        cell = self.networks.cell(self.folder.save_network(planned.key, network), network, holdout)
        run_folder = self.folder.run_folder(cell)
        outcome = finished(cell, run_folder)
        display.start(planned.key, is_finished=outcome is not None)
        outcome = outcome or runner.train(cell, run_folder, display.show_line)
        result = replace(planned, folder=str(run_folder.relative_to(self.folder.path)), error=outcome.error or "")
        if result.error:
            display.end(outcome.seconds, f"failed: {result.error}")
            return result
        record = read_record(run_folder)
        score = record["metrics"][self.metric]
        result = replace(result, macs=record["macs"], params=record["params"], score=NAN if score is None else score)
        display.end(outcome.seconds, f"{self.metric} {percent(result.score)}, {billions(result.macs)}")
        return result

    def best(self, tried: Sequence[NetworkResult]) -> Coefficients:
        """Return the coefficients of the grid's network with the best score. Raises BadInput if none has one."""
        scored = [result for result in tried if result.score == result.score]
        if not scored:
            raise BadInput(f"no network of the grid has a score: {tried[-1].error or f'{self.metric} is undefined'}")
        best = max(scored, key=lambda result: result.score)
        return Coefficients(best.depth, best.width, best.resolution)

    def differences(self, compared: Sequence[NetworkResult]) -> dict[str, Difference]:
        """Return by a network's key how much better scaling all three is at its cost, with intervals over images."""
        scored = {result.key: result for result in compared if result.score == result.score}
        found = {}
        for result in scored.values():
            whole = scored.get(f"{ALL.replace(' ', '-')}-{result.key.rpartition('-')[2]}", result)
            if whole is not result and abs(whole.macs / result.macs - 1) <= EQUAL_COST:
                sides = {side.key: [read_images(self.folder.path / side.folder)] for side in (whole, result)}
                found[result.key] = compare_to_baseline(sides, result.key)[whole.key]
        return found

    def report(
        self,
        chosen: Coefficients,
        family: Mapping[int, Architecture],
        tried: Sequence[NetworkResult],
        compared: Sequence[NetworkResult],
    ) -> None:
        """Write all files and print the tables.

        Args:
            chosen: coefficients of the family.
            family: its members by phi.
            tried: networks of the grid.
            compared: the base and the networks of equal cost.
        """
        folder = self.folder.path
        differences = self.differences(compared)
        write_rows([asdict(result) for result in compared], folder / "dimensions.csv")
        title = f"{self.config.task}: {self.config.base} scaled in one dimension, and in all three"
        draw_scaling(compared, self.metric, title, folder / "scaling.png")
        family_rows = self.networks.family_rows(chosen, family, self.folder)
        write_rows(family_rows, folder / "family.csv")
        write_json(
            folder / "scaling.json",
            {
                "version": 1,
                "base": self.config.base,
                "task": self.config.task,
                "coefficients": asdict(chosen),
                "grid": [asdict(result) for result in tried],
                "dimensions": [asdict(result) for result in compared],
                "differences": {key: asdict(difference) for key, difference in differences.items()},
                "family": {f"phi{phi}": f"{folder.resolve()}#phi{phi}" for phi in family},
            },
        )
        if tried:
            out.print(self.table(tried, f"grid, on the {100 * HOLDOUT:.0f}% of training images that are held out"))
        out.print(self.table(compared, "one dimension or all three, on the validation split", differences))
        out.print(
            "Each network was trained once: intervals are over images only, and there is no verdict on the networks. "
            "`times` is relative to the base's multiply-adds. Costs are not exactly equal, because numbers of blocks "
            "and sizes of maps are whole. Where "
            f"they differ by more than {100 * EQUAL_COST:.0f}%, scores are not compared.\n"
        )
        print_family(chosen, family_rows)
        out.print(f"{folder / 'scaling.png'}; grid.csv, dimensions.csv and family.csv are in the same folder")

    def table(
        self, results: Iterable[NetworkResult], title: str, differences: Mapping[str, Difference] | None = None
    ) -> Table:
        """Return a table of networks."""
        return networks_table(results, title, self.metric, self.networks.macs, differences)
