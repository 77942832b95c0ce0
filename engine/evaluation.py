"""The `eval` command of all tasks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import track
from rich.table import Table

from data.loader import eval_loader
from data.protocols import LabelledDataset
from engine.checkpoint import find_checkpoint, latest_run, make_folder
from engine.config import EvalConfig
from engine.console import err, log_to_terminal, out
from engine.error_files import write_errors
from engine.execution import device_of, execution_for
from engine.hub import local_checkpoint
from engine.leaderboard import print_leaderboard, read_records
from engine.record import write_json
from engine.restore import data_root, restore_task
from engine.runtimes.files import images_at_once, ran_on
from engine.spec import TaskSpec
from engine.task import Task

MAX_CLASSES = 25  # with more classes, the table of classes is not printed


def evaluate(spec: TaskSpec, config: EvalConfig) -> dict[str, float]:
    """Evaluate a run or published weights. Returns the metrics."""
    log_to_terminal(spec.name)
    device = device_of(config.device)
    execution = execution_for(device.type, config.precision, "eval")
    execution.begin()
    task = restore_task(spec, config)
    root = data_root(task, spec, config.data.root)
    dataset = task.eval_dataset(root, config.data)
    if task.runtime is None:
        execution.place(task.to(device).eval().model)
    loader = eval_loader(dataset, images_at_once(task.runtime, config.batch_size), config.data.workers)
    tracked = track(loader, f"evaluating {len(dataset)} images", console=err, transient=True)
    metrics = task.eval().evaluate(tracked, config.precision if task.runtime is None else "fp32")
    out.print(f"{dataset.columns.source}, {len(dataset)} images; on {ran_on(task.runtime, device, execution)}")
    print_scores(task, metrics)
    errors = task.what_went_wrong()
    _print_errors(spec, errors)
    _print_leaderboard(task, spec, config, dataset, metrics)
    if config.output:
        folder = make_folder(config.output)
        write_json(folder / "metrics.json", metrics)
        task.write_results(folder)
        write_errors(folder, errors)
        out.print(f"metrics.json and the results of each image in {folder}")
    return metrics


def _print_leaderboard(
    task: Task, spec: TaskSpec, config: EvalConfig, dataset: LabelledDataset, metrics: dict[str, float]
) -> None:
    """Print the leaderboard.

    It includes other runs if a run was evaluated on its own validation split. Otherwise it has published scores only.
    """
    is_run = task.runtime is None and not (config.backbone and not config.checkpoint)
    folder = _run_folder(task, config) if is_run else None
    record = next(iter(read_records([folder / "record.json"], spec.train_config)), None) if folder is not None else None
    if record is None or record["dataset"]["fingerprint"]["val"] != dataset.fingerprint:
        record, folder = {"task": task.name, "backbone": task.config.backbone}, None
    scored = {"metrics": metrics, "config": asdict(task.config)}  # with the settings of `eval` that scores depend on
    print_leaderboard(out, record | scored, spec, dataset.classes, folder)


def _run_folder(task: Task, config: EvalConfig) -> Path:
    """The folder of the evaluated run."""
    place = local_checkpoint(config.checkpoint) if config.checkpoint else latest_run(task.name)
    return find_checkpoint(place).parent.parent


def print_scores(task: Task, metrics: dict[str, float]) -> None:
    """Print the headline metrics of the last evaluation, and the scores of the classes unless there are many."""
    table = Table(*task.headline, title=f"{task.name}, percent", title_justify="left")
    table.add_row(*(percent(metrics[name]) for name in task.headline))
    out.print(table)
    by_class, rows = task.per_class(), task.class_table()
    if 1 < len(rows) <= MAX_CLASSES:
        columns = next(iter(rows.values()))
        table = Table("class", *columns)
        for name in sorted(rows, key=lambda name: -by_class[name] if by_class[name] == by_class[name] else 1):
            table.add_row(name.replace("[", r"\["), *(_cell(value) for value in rows[name].values()))
        out.print(table)


def _print_errors(spec: TaskSpec, files: dict[str, dict[str, Any]]) -> None:
    row = spec.error_row(files)
    table = Table(*row, title=f"{spec.name}, {spec.error_title}, percent", title_justify="left")
    table.add_row(*map(percent, row.values()))
    out.print(table)


def _cell(value: float) -> str:
    """A count as it is, or a fraction in percent."""
    return str(value) if isinstance(value, int) else percent(value)


def percent(value: float | None) -> str:
    """A fraction in percent, with one decimal; two dashes if it is undefined."""
    return "--" if value is None or value != value else f"{100 * value:.1f}"
