"""Measures finished runs in several runtimes: score, time of one image, throughput, memory and size of the file."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.progress import Progress
from rich.table import Table

from engine.console import err, log_to_terminal, out
from engine.execution import execution_for
from engine.export.build import describe
from engine.export.check import score, some_images
from engine.export.quantise import quantised
from engine.export.write import write_file
from engine.predictor import Predictor
from engine.record import peak_memory_mb
from engine.restore import data_root, restore_task
from engine.runtimes.description import Dynamic
from engine.runtimes.files import Network, images_at_once, raise_unless_installed
from engine.task import Task
from experiments.costs.deployed import BATCH, COLUMNS, NAME, Deployed, best_trades
from experiments.profile.config import ProfileConfig
from experiments.profile.files import write_costs
from experiments.runs import load_run
from experiments.tasks import task_spec

WARM_UP = 3


def profile_runs(config: ProfileConfig) -> list[Deployed]:
    """Measure the runs of `config`, print one table, and write `deployed.csv` and `deployed.png`."""
    log_to_terminal("profile")
    for name in config.formats:
        raise_unless_installed(name.partition("-")[0])
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    execution_for("cpu", "fp32", "predict").begin()
    with tempfile.TemporaryDirectory() as folder, Progress(console=err, transient=True) as progress:
        bar = progress.add_task("scoring", total=len(config.runs) * len(config.formats))
        prepared: list[_Prepared] = []
        for run in config.runs:
            for format in config.formats:
                progress.update(bar, description=f"{format} of {run}")
                prepared.append(_Prepared(run, format, Path(folder) / str(len(prepared))))
                progress.advance(bar)
        progress.update(bar, description="timing", total=None)
        rows = _timed(prepared, config.repeats)
    title = f"{torch.get_num_threads()} threads, one image, {config.repeats} interleaved rounds, times in ms"
    _print(rows, title)
    write_costs(rows, Path(config.output), NAME, partial(draw, rows, title))
    return rows


class _Prepared:
    """A run in one runtime: scored, its memory measured, and ready to be timed."""

    def __init__(self, run: str, format: str, folder: Path) -> None:
        self.run, self.format = run, format
        runtime, _, kind = format.partition("-")
        precision = "bf16" if kind == "bf16" else "fp32"
        info = load_run(run).info
        spec = task_spec(info.task)
        self.task: Task = restore_task(spec, spec.predict_config(checkpoint=run, device="cpu"))
        dataset = self.task.eval_dataset(data_root(self.task, spec, None), spec.eval_config().data)
        graphs = spec.load_graphs()(self.task)
        self.network: Network | None = None
        self.file_mb = sum(p.numel() for p in self.task.model.parameters()) * 4 / 1e6
        place = run
        if runtime != "torch":
            dynamic: Dynamic = "none" if kind == "int8" else "batch"
            description = describe(graphs, dynamic, preprocess=False, postprocess=False)
            quantise = partial(quantised, graphs, dataset, None) if kind == "int8" else None
            folder.mkdir()
            file, self.network = write_file(graphs, description, runtime, folder, quantise, precision)  # type: ignore[arg-type]
            self.file_mb = sum(part.stat().st_size for part in folder.iterdir()) / 1e6
            place = str(file)
        self.score = score(self.task, self.network, dataset, BATCH, lambda loader: loader)[self.task.metric]
        batch = some_images(dataset, BATCH)
        self.images = self.task.normalised(batch)
        self.photo = dataset.with_transform(None)[0].image
        self.peak_memory_mb = _in_new_process(_peak_memory, place, self.photo, torch.get_num_threads())
        if self.network is not None:
            self.task.run_by(self.network)
        self.predictor = Predictor(self.task, torch.device("cpu"))

    def compute(self, count: int) -> Any:
        """The outputs for some images, computed at once if the file takes several."""
        size = images_at_once(self.network, count)
        return [self.task.computed(self.images[start : start + size]) for start in range(0, count, size)]

    def predict(self) -> Any:
        """The predictions for one image."""
        return self.predictor(self.predictor.prepare(self.photo))


def _timed(prepared: Sequence[_Prepared], repeats: int) -> list[Deployed]:
    """Time all of them in turns, so that a load of the machine affects all alike."""
    network, call, several = ({id(each): [] for each in prepared} for _ in range(3))  # type: ignore[var-annotated]
    with torch.inference_mode():
        for turn in range(-WARM_UP, repeats):
            for each in prepared:
                times = (
                    _seconds(partial(each.compute, 1)),
                    _seconds(each.predict),
                    _seconds(partial(each.compute, BATCH)),
                )
                for found, taken in zip((network, call, several), times, strict=True):
                    if turn >= 0:
                        found[id(each)].append(taken)
    rows = []
    for each in prepared:
        p50, p95, p99 = (1000 * float(value) for value in np.percentile(network[id(each)], (50, 95, 99)))
        row = Deployed(
            each.run, each.task.config.backbone, each.format, each.task.metric, each.score, p50, p95, p99,
            1000 * float(np.median(call[id(each)])), len(each.images) / float(np.median(several[id(each)])),
            each.peak_memory_mb, each.file_mb, torch.get_num_threads(),
        )  # fmt: skip
        rows.append(row)
    return rows


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _peak_memory(place: str, photo: np.ndarray, threads: int) -> float:
    """The largest resident memory of this process after some predictions, in MB."""
    torch.set_num_threads(threads)
    run = load_run(place)
    for _ in range(WARM_UP):
        run.predict(photo)
    return peak_memory_mb(torch.device("cpu"))


def _in_new_process(function: Callable[..., float], *arguments: Any) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _print(rows: Sequence[Deployed], title: str) -> None:
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for heading in COLUMNS.values():
        table.add_column(heading, justify="left" if heading in ("run", "format") else "right")
    for row in rows:
        texts = row.texts(f"{row.backbone}, {Path(row.run).name}")
        table.add_row(*(text.replace("[", r"\[") for text in texts))
    out.print(table)


def draw(rows: Sequence[Deployed], title: str, file: Path) -> None:
    """Draw score against time of the network, with a line through the best trades; a panel for each metric."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    figure = Figure(figsize=(6.5 * len(metrics), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        shown = [row for row in rows if row.metric == metric]
        best = best_trades(shown)
        for some, plot in ((best, partial(panel.plot, color="#8c8c8c")), (shown, partial(panel.scatter, zorder=2))):
            plot([row.network_p50_ms for row in some], [100 * row.score for row in some])
        for row in shown:
            place = row.network_p50_ms, 100 * row.score
            text = f"{row.backbone}\n{row.format}"
            panel.annotate(text, place, xytext=(5, 4), textcoords="offset points", fontsize=7)
        panel.set_xscale("log")
        panel.set_xlabel("network, one image: median, ms")
        panel.set_ylabel(f"{metric}, percent")
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    figure.savefig(file, dpi=120)
