"""A scaling study at work: a grid of coefficients, one dimension against all three, and the family that comes of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from rich.table import Table

from backbones.architecture import FOLDER, LARGEST, VARIANTS, Architecture, architecture_of, counts, save
from backbones.errors import BadInput, UserError
from engine.commands import out
from engine.record import write_json
from experiments.costs.coefficients import DIMENSIONS, PHIS, Coefficients, at_cost, candidates, fits
from experiments.costs.meter import Meter
from experiments.jobs.cell import HOLDOUT, Cell
from experiments.jobs.local import finished, run
from experiments.jobs.lock import only_one
from experiments.jobs.progress import Board
from experiments.jobs.study import training_arguments
from experiments.records import read_record
from experiments.report.formatting import billions, percent
from experiments.report.statistics import Difference, bootstrap, read_images
from experiments.scaling.config import ScalingConfig
from experiments.scaling.report import ALL, NAN, Trained, draw_growth, print_family, table_of, write_rows
from experiments.tasks import TASKS

ROUNDS = 3  # of making a whole model's cost equal, whose neck and head cost something as well
ALIKE = 0.1  # share by which costs may differ that are compared as equal


def scale(config: ScalingConfig, asked: Sequence[str]) -> None:
    """Run the study, or what is left of it. `asked` are arguments of the task's train command.

    Raises UserError or BadInput before anything is trained where arguments or data are wrong; BadInput where the whole
    grid fails, and at the end, all files written, where single trainings did.
    """
    grid = [] if config.coefficients else list(candidates(config.depths, config.widths))
    if not grid and not config.coefficients:
        raise UserError("the grid is empty, as depth * width^2 is above 2: try smaller --depths and --widths")
    study = Study(config, training_arguments(config, asked, "scaling"))
    if config.dry_run:
        study.print_plan(grid)
        return
    with only_one(study.folder) as lock:
        try:
            study.run(grid, lock)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; the same command continues where it was") from None


class Study:
    """A scaling study in the folder `config.output`. Images are square; other ones of a recipe keep their area.

    Args:
        config: of the study.
        shared: arguments of all trainings.
    """

    def __init__(self, config: ScalingConfig, shared: Sequence[str]) -> None:
        self.config, self.shared = config, shared
        self.folder, self.metric = Path(config.output), TASKS[config.task].metric
        self.networks = self.folder.resolve()  # so that names are found from any folder
        self.meter = Meter(Cell(config.task, (*shared, "--backbone", config.base)), timed=False)
        side = round(math.sqrt(math.prod(self.meter.size)))
        self.base = replace(architecture_of(config.base), image_size=side)
        self.known: dict[Architecture, dict[str, float]] = {}
        self.macs = self.whole(self.base)["macs"]

    def cell(self, name: str, network: Architecture, holdout: float = 0.0) -> Cell:
        """The training of a network."""
        held = ("--data.holdout", str(holdout)) if holdout else ()
        sized = "--image_size", str(network.image_size)
        return Cell(self.config.task, (*self.shared, *held, "--backbone", name, *sized))

    def whole(self, network: Architecture) -> dict[str, float]:
        """`params` and `macs` of the model that is trained with a network, counted without arithmetic."""
        if network not in self.known:
            with TemporaryDirectory() as place:
                self.meter.size = network.image_size, network.image_size
                self.known[network] = self.meter(self.cell(save(Path(place), "network", network), network))
        return self.known[network]

    def equal(self, coefficients: Coefficients, times: int) -> Architecture:
        """The member of a family whose whole model costs most nearly so many times what the base's does."""
        rest = self.macs - counts(self.base, self.base.image_size)[1]
        for _ in range(ROUNDS):
            network = at_cost(self.base, coefficients, times * self.macs - rest)
            rest, before = self.whole(network)["macs"] - counts(network, network.image_size)[1], rest
            if rest == before:
                break
        return network

    def planned(self, group: str, key: str, network: Architecture, given: Coefficients | None = None) -> Trained:
        """A network before it is trained."""
        base, end = self.base, network.stages[-1].channels
        blocks = sum(stage.repeats for stage in network.stages) / sum(stage.repeats for stage in base.stages)
        made = Coefficients(blocks, end / base.stages[-1].channels, network.image_size / base.image_size)
        factors, cost = given or made, self.whole(network)
        sizes = network.image_size, cost["macs"], cost["params"]
        return Trained(group, key, factors.depth, factors.width, factors.resolution, *sizes)

    def of_grid(self, grid: Sequence[Coefficients]) -> list[tuple[Trained, Architecture]]:
        """The networks of the grid."""
        keyed = [(f"grid-d{c.depth:g}-w{c.width:g}", c, c.of(self.base, 1)) for c in grid]
        return [(self.planned("grid", key, network, c), network) for key, c, network in keyed]

    def of_dimensions(self, dimensions: Mapping[str, Coefficients]) -> list[tuple[Trained, Architecture]]:
        """The networks of equal cost."""
        sized = [
            (name, f"{name.replace(' ', '-')}-{2**phi}x", self.equal(c, 2**phi))
            for phi in self.config.phis
            for name, c in dimensions.items()
        ]
        return [(self.planned(name, key, network), network) for name, key, network in sized]

    def print_plan(self, grid: Sequence[Coefficients]) -> None:
        """List the trainings."""
        known = {ALL: Coefficients(*self.config.coefficients)} if self.config.coefficients else {}
        compared = [self.planned("base", "base", self.base), *(t for t, _ in self.of_dimensions(DIMENSIONS | known))]
        rows = [*(t for t, _ in self.of_grid(grid)), *compared]
        out.print(self.listed(rows, "to train"))
        if not known and self.config.phis:
            costs = " and ".join(billions(2**phi * self.macs) for phi in self.config.phis)
            out.print(f"and all three at once, as the grid tells, with {costs}")

    def run(self, grid: Sequence[Coefficients], lock: IO[str]) -> None:
        """Train the grid, then the comparison, and report."""
        single = self.of_dimensions(DIMENSIONS)  # which all can be built, or it is told before the first training
        with Board(len(grid) + 1 + len(single) + len(self.config.phis)) as board:
            tried = [self.train(board, lock, *pair, HOLDOUT) for pair in self.of_grid(grid)]
            if tried:
                write_rows([asdict(t) for t in tried], self.folder / "grid.csv")
            chosen = Coefficients(*self.config.coefficients) if self.config.coefficients else self.best(tried)
            family = self.register(chosen)
            planned = [(self.planned("base", "base", self.base), self.base), *single]
            planned += self.of_dimensions({ALL: chosen})
            compared = [self.train(board, lock, *pair) for pair in planned]
        differences = self.differences(compared)
        write_rows([asdict(t) for t in compared], self.folder / "dimensions.csv")
        title = f"{self.config.task}: {self.config.base} made larger in one dimension, and in all"
        draw_growth(compared, self.metric, title, self.folder / "scaling.png")
        rows = self.rows(chosen, family)
        write_rows(rows, self.folder / "family.csv")
        told = {
            "base": self.config.base,
            "task": self.config.task,
            "coefficients": asdict(chosen),
            "grid": [asdict(t) for t in tried],
            "dimensions": [asdict(t) for t in compared],
            "differences": {key: asdict(difference) for key, difference in differences.items()},
            "family": {f"phi{phi}": f"{self.networks}#phi{phi}" for phi in family},
        }
        write_json(self.folder / "scaling.json", {"version": 1} | told)
        if tried:
            out.print(self.listed(tried, f"grid, on the {100 * HOLDOUT:.0f}% of training images kept out"))
        out.print(self.listed(compared, "one dimension or all, on the validation split", differences))
        out.print(
            "One training each; intervals are of images alone. `times` are of the base's multiply-adds: blocks and "
            f"maps are whole. Where costs differ by more than {100 * ALIKE:.0f}%, scores are not compared.\n"
        )
        print_family(chosen, rows)
        out.print(f"{self.folder / 'scaling.png'}; grid.csv, dimensions.csv and family.csv beside it")
        if failed := [t for t in (*tried, *compared) if t.error]:
            lines = "\n".join(f"  {t.key}: {t.error}" for t in failed)
            raise BadInput(
                f"{len(failed)} of {board.total} trainings failed. Their logs are in {self.folder / 'cells'}; the same "
                f"command trains them again.\n{lines}"
            )

    def train(
        self, board: Board, lock: IO[str], planned: Trained, network: Architecture, holdout: float = 0.0
    ) -> Trained:
        """Train a network, or take what an earlier process made of it."""
        cell = self.cell(save(self.networks, planned.key, network), network, holdout)
        place = self.folder / "cells" / cell.key[:12]
        outcome = finished(cell, place)
        board.start(planned.key, known=outcome is not None)
        outcome = outcome or run(cell, place, lock, board.line)
        told = replace(planned, folder=str(place.relative_to(self.folder)), error=outcome.error or "")
        if not told.error:
            record = read_record(place)
            score = record["metrics"][self.metric]
            told = replace(told, macs=record["macs"], params=record["params"], score=NAN if score is None else score)
        result = f"{self.metric} {percent(told.score)}, {billions(told.macs)}"
        board.end(outcome.seconds, f"failed: {told.error}" if told.error else result)
        return told

    def best(self, tried: Sequence[Trained]) -> Coefficients:
        """Those of the grid whose network scored best. Raises BadInput where none has a score."""
        scored = [t for t in tried if t.score == t.score]
        if not scored:
            raise BadInput(f"no network of the grid has a score: {tried[-1].error or f'{self.metric} is undefined'}")
        best = max(scored, key=lambda t: t.score)
        return Coefficients(best.depth, best.width, best.resolution)

    def register(self, chosen: Coefficients) -> dict[int, Architecture]:
        """Give phi 0 to 7 their names, as far as they can be built. Raises BadInput where others have them."""
        family = {phi: member for phi in PHIS if _can_be_built(member := chosen.of(self.base, phi))}
        try:
            for phi, member in family.items():
                save(self.networks, f"phi{phi}", member)
        except BadInput as error:
            raise BadInput(
                f"{self.folder} holds a family of other coefficients, and runs may be made of it: choose another "
                f"--output, or delete phi* and all-three* in {self.folder / FOLDER}; finished trainings are kept"
            ) from error
        return family

    def differences(self, compared: Sequence[Trained]) -> dict[str, Difference]:
        """By key of a network, how much better all three at its cost are, with the interval over images."""
        scored = {t.key: t for t in compared if t.score == t.score}
        found = {}
        for t in scored.values():
            whole = scored.get(f"{ALL.replace(' ', '-')}-{t.key.rpartition('-')[2]}", t)
            if whole is not t and abs(whole.macs / t.macs - 1) <= ALIKE:
                ours, theirs = (read_images(self.folder / side.folder) for side in (whole, t))
                found[t.key] = bootstrap([ours], [theirs])
        return found

    def rows(self, chosen: Coefficients, family: Mapping[int, Architecture]) -> list[dict[str, Any]]:
        """The family as `family.csv` has it; of B0, beside the published network that is most like each, at 224 px."""
        b0, found = VARIANTS["efficientnet_b0"], []
        known = fits(b0, chosen) if self.base.stages == b0.stages else []
        for phi, member in family.items():
            params, macs = counts(member, member.image_size)
            row = {"phi": phi, "backbone": f"{self.folder}#phi{phi}", "image_size": member.image_size}
            row |= {"params": params, "macs": macs}
            if known:
                name = min(known, key=lambda fit: abs(fit.phi - phi)).name
                size = VARIANTS[name].image_size
                params, macs = counts(VARIANTS[name], size)
                row |= {"published": name, "published_image_size": size}
                row |= {"published_params": params, "published_macs": macs}
            found.append(row)
        return found

    def listed(self, rows: Iterable[Trained], title: str, differences: Mapping[str, Difference] | None = None) -> Table:
        """A table of networks."""
        return table_of(rows, title, self.metric, self.macs, differences)


def _can_be_built(network: Architecture) -> bool:
    widest = max(network.head, network.image_size, *(stage.channels for stage in network.stages))
    return widest <= LARGEST["channels"] and max(stage.repeats for stage in network.stages) <= LARGEST["repeats"]
