"""A scaling study at work: a grid of coefficients, one dimension against all three, and the family that comes of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from backbones.architecture import VARIANTS, Architecture, architecture_of, counts, save
from backbones.errors import BadInput
from experiments.board import Board
from experiments.cells import Cell, finished, run
from experiments.engine.commands import out
from experiments.engine.config import parse_size
from experiments.engine.record import write_json, write_text
from experiments.grid import HOLDOUT, only_one
from experiments.growth import DIMENSIONS, PHIS, Coefficients, at_cost, candidates, fits
from experiments.scaling import ScalingConfig
from experiments.statistics import METRIC
from experiments.variants import training_arguments
from experiments.wording import billions, millions, percent

ALL = "all three"


@dataclass(frozen=True)
class Trained:
    """A network of the study and what its training gave.

    Attributes:
        group: "grid", "base", one of DIMENSIONS, or "all three".
        key: of the network in the study's folder.
        depth, width, resolution: coefficients.
        image_size: px.
        macs, params: of the whole trained model, one image; NaN where the training failed.
        score: a fraction; NaN where the training failed.
        error: why.
    """

    group: str
    key: str
    depth: float
    width: float
    resolution: float
    image_size: int
    macs: float = float("nan")
    params: float = float("nan")
    score: float = float("nan")
    error: str = ""


def scale(config: ScalingConfig, asked: Sequence[str]) -> None:
    """Run the study, or what is left of it. `asked` are arguments of the task's train command.

    Raises UserError before anything is trained where arguments are wrong, BadInput where the whole grid fails.
    """
    shared = training_arguments(config, asked, "scaling")
    size = Cell(config.task, shared).config.image_size
    base = architecture_of(config.base)
    if size is not None:
        base = replace(base, image_size=max(parse_size(size)))
    grid = [] if config.coefficients else list(candidates(config.depths, config.widths))
    if config.dry_run:
        out.print(_plan(base, grid))
        return
    folder = Path(config.output)
    with only_one(folder) as lock:
        try:
            Study(config, shared, base, lock).run(grid)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; the same command continues where it was") from None


class Study:
    """A scaling study that runs in the folder `config.output`.

    Args:
        config: of the study.
        shared: arguments of all trainings.
        base: the network of phi 0, with the image size it is trained at.
        lock: an open file that is locked.
    """

    def __init__(self, config: ScalingConfig, shared: Sequence[str], base: Architecture, lock: IO[str]) -> None:
        self.config, self.shared, self.base, self.lock = config, shared, base, lock
        self.folder, self.metric = Path(config.output), METRIC[config.task]
        self.networks = self.folder.resolve()  # so that names are found from any folder

    def run(self, grid: Sequence[Coefficients]) -> None:
        """Train the grid, then the comparison, and report."""
        of_dimensions = len(self.config.phis) * (len(DIMENSIONS) + 1) + 1
        with Board(len(grid) + of_dimensions) as board:
            tried = [
                self.train(board, "grid", f"grid-d{c.depth:g}-w{c.width:g}", c, c.of(self.base, 1), HOLDOUT)
                for c in grid
            ]
            self.table(tried, "grid.csv")
            chosen = self.choose(tried)
            compared = [self.train(board, "base", "base", Coefficients(1, 1, 1), self.base)]
            macs = counts(self.base, self.base.image_size)[1]
            for phi in self.config.phis:
                for name, c in {**DIMENSIONS, ALL: chosen}.items():
                    key = f"{name.replace(' ', '-')}-{2**phi}x"
                    compared.append(self.train(board, name, key, c, at_cost(self.base, c, macs * 2**phi)))
        self.table(compared, "dimensions.csv")
        self.draw(compared)
        family = {phi: chosen.of(self.base, phi) for phi in PHIS}
        names = {phi: save(self.networks, f"phi{phi}", member) for phi, member in family.items()}
        self.write_family(family)
        write_json(
            self.folder / "scaling.json",
            {
                "version": 1,
                "base": self.config.base,
                "task": self.config.task,
                "coefficients": asdict(chosen),
                "grid": [asdict(t) for t in tried],
                "dimensions": [asdict(t) for t in compared],
                "family": {f"phi{phi}": names[phi] for phi in family},
            },
        )
        self.print(tried, compared, chosen, family)

    def train(
        self, board: Board, group: str, key: str, c: Coefficients, network: Architecture, holdout: float = 0.0
    ) -> Trained:
        """Train a network, or take what an earlier process made of it."""
        told = Trained(group, key, c.depth, c.width, c.resolution, network.image_size)
        name = save(self.networks, key, network)
        held = ("--data.holdout", str(holdout)) if holdout else ()
        sized = ("--image_size", str(network.image_size))
        cell = Cell(self.config.task, (*self.shared, *held, "--backbone", name, *sized))
        place = self.folder / "cells" / cell.key[:12]
        outcome = finished(cell, place)
        board.start(key, known=outcome is not None)
        outcome = outcome or run(cell, place, self.lock, board.line)
        if outcome.error:
            board.end(outcome.seconds, f"failed: {outcome.error}")
            return replace(told, error=outcome.error)
        record = json.loads((place / "record.json").read_text())
        score = record["metrics"][self.metric]
        told = replace(told, macs=record["macs"], params=record["params"])
        told = told if score is None else replace(told, score=score)
        board.end(outcome.seconds, f"{self.metric} {percent(score)}, {billions(told.macs)}")
        return told

    def choose(self, tried: Sequence[Trained]) -> Coefficients:
        """The coefficients asked for, or those whose network scored best. Raises BadInput where none has a score."""
        if self.config.coefficients:
            return Coefficients(*self.config.coefficients)
        scored = [t for t in tried if t.score == t.score]
        if not scored:
            why = tried[-1].error if tried else "there is nothing in it: try smaller --depths and --widths"
            raise BadInput(f"no network of the grid has a score: {why}")
        best = max(scored, key=lambda t: t.score)
        return Coefficients(best.depth, best.width, best.resolution)

    def table(self, rows: Iterable[Trained], name: str) -> None:
        """Write rows as CSV."""
        write_text(self.folder / name, _csv(Trained.__annotations__, (asdict(row) for row in rows)))

    def write_family(self, family: dict[int, Architecture]) -> None:
        """Write `family.csv`."""
        rows = []
        for phi, member in family.items():
            params, macs = counts(member, member.image_size)
            rows.append({"phi": phi, "backbone": f"{self.folder}#phi{phi}", "image_size": member.image_size,
                         "params": params, "macs": macs})  # fmt: skip
        write_text(self.folder / "family.csv", _csv(rows[0], rows))

    def draw(self, compared: Sequence[Trained]) -> None:
        """`scaling.png`: score against multiply-adds, a line for each way to grow."""
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        panel = figure.subplots()
        base = compared[0]
        for name, mark in zip((*DIMENSIONS, ALL), "^s.o", strict=True):
            line = [base, *(t for t in compared if t.group == name)]
            style: dict[str, Any] = {"marker": mark, "lw": 2.5 if name == ALL else 1.2, "label": name}
            panel.plot([t.macs / 1e9 for t in line], [100 * t.score for t in line], **style)
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        panel.set_xlabel("multiply-adds of an image, billions")
        panel.set_ylabel(f"{self.metric}, percent")
        panel.set_title(f"{self.config.task}: {self.config.base} made larger in one dimension, and in all", loc="left",
                        fontsize=10)  # fmt: skip
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
        panel.legend(frameon=False, fontsize=9)
        figure.savefig(self.folder / "scaling.png", dpi=120)

    def print(
        self,
        tried: Sequence[Trained],
        compared: Sequence[Trained],
        chosen: Coefficients,
        family: dict[int, Architecture],
    ) -> None:
        """The tables."""
        if tried:
            out.print(_trained(tried, self.metric, f"grid, on the {100 * HOLDOUT:.0f}% of training images kept out"))
        out.print(_trained(compared, self.metric, "one dimension or all, on the validation split"))
        told = f"depth {chosen.depth:g}^phi, width {chosen.width:g}^phi, resolution {chosen.resolution:.3g}^phi"
        table = Table("backbone", "image", "parameters", "multiply-adds", box=SIMPLE_HEAD, title=f"family: {told}",
                      title_justify="left")  # fmt: skip
        for phi, member in family.items():
            params, macs = counts(member, member.image_size)
            name = f"{self.folder}#phi{phi}".replace("[", r"\[")
            table.add_row(name, f"{member.image_size} px", millions(params), billions(macs))
        out.print(table)
        if self.base.stages == VARIANTS["efficientnet_b0"].stages and self.base.image_size == 224:
            for fit in fits(self.base, chosen):
                out.print(
                    f"nearest to {fit.name}: phi {fit.phi:.2f}, with {100 * fit.params:.0f}% of its parameters and "
                    f"{100 * fit.macs:.0f}% of its multiply-adds"
                )
        out.print(f"{self.folder / 'scaling.png'}, grid.csv, dimensions.csv and family.csv beside it")


def _plan(base: Architecture, grid: Sequence[Coefficients]) -> Table:
    table = Table("depth", "width", "resolution", "image", "parameters", "multiply-adds", box=SIMPLE_HEAD)
    for c in (Coefficients(1, 1, 1), *grid):
        network = c.of(base, 1)
        params, macs = counts(network, network.image_size)
        cells = f"{c.depth:g}", f"{c.width:g}", f"{c.resolution:.3f}", f"{network.image_size} px"
        table.add_row(*cells, millions(params), billions(macs))
    return table


def _trained(rows: Sequence[Trained], metric: str, title: str) -> Table:
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    for head in ("scaled", "depth", "width", "resolution", "image", "multiply-adds", f"{metric}, %"):
        table.add_column(head, justify="left" if head == "scaled" else "right")
    for row in rows:
        cells = f"{row.depth:g}", f"{row.width:.3g}", f"{row.resolution:.3g}", f"{row.image_size} px"
        table.add_row(row.group, *cells, billions(row.macs), "failed" if row.error else percent(row.score))
    return table


def _csv(names: Iterable[str], rows: Iterable[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, list(names), lineterminator="\n")
    table.writeheader()
    table.writerows({name: "" if value != value else value for name, value in row.items()} for row in rows)
    return text.getvalue()
