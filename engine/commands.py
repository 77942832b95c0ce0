"""The `train` and `eval` commands of all tasks. `predict` is in engine/predict.py."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.progress import track
from rich.table import Table

from backbones.errors import UserError
from backbones.weight_files import weight_file
from data.batch import collate
from data.loader import Source, default_workers, eval_loader, train_loader
from data.reader import LabelledDataset
from engine import distributed
from engine.cached_features import cached_features
from engine.checkpoint import (
    begin_run,
    find_checkpoint,
    has_checkpoint,
    latest_run,
    make_folder,
    new_run_folder,
)
from engine.config import EvalConfig, TrainConfig
from engine.console import err, log_to_terminal, out, silence
from engine.error_files import write_errors
from engine.execution import device_of, execution_for
from engine.launch import adopt_srun, devices_of, launch, raise_unless_launchable
from engine.leaderboard import print_leaderboard, read_records
from engine.plots import curves
from engine.record import command_line, write_json
from engine.restore import restore_task
from engine.resume import check_data, check_resume, if_stopped
from engine.spec import TaskSpec
from engine.task import Task
from engine.trainer import fit, seed_everything, training_device

PICTURES = 8  # validation images to draw after training
MAX_LISTED = 10  # class weights to print
MAX_CLASSES = 25  # with more classes, the table of classes is not printed


def train(spec: TaskSpec, config: TrainConfig, is_program: bool = False) -> dict[str, Any]:
    """Train a new run or resume one. Returns the record.

    Args:
        spec: the task.
        config: its settings.
        is_program: whether this program was started for the training. Only then it can be started once for each device.
    """
    config.check()
    if config.resume == "auto":
        config, record = if_stopped(config)
        if record is not None:
            err.print(f"{config.output} is complete: there is nothing to resume", markup=False)
            return record
    adopt_srun()
    processes = devices_of(config)
    if processes * config.num_nodes > 1 and not distributed.is_launched():
        raise_unless_launchable(config, is_program)
        code = launch([sys.executable, *command_line()[1:]], processes)
        if code:
            sys.exit(code)
        return {}
    device = training_device(config)
    with distributed.joined(device):
        if distributed.rank():
            silence()
        return _start(spec, config)


def _start(spec: TaskSpec, config: TrainConfig) -> dict[str, Any]:
    """Train a new run or resume one, in this process of the training."""
    log_to_terminal(spec.name)
    config = config.with_files()
    if config.resume:
        check_resume(spec, config)
    if isinstance(config.pretrained, str):
        config = replace(config, pretrained=str(weight_file(config.pretrained)))
    output = (
        Path(config.resume) if config.resume else _in_first(new_run_folder, spec.name, config.backbone, config.output)
    )
    resume = bool(config.resume) and has_checkpoint(output)
    device = training_device(config)
    execution = execution_for(device.type, config.precision, "train")
    execution.begin()
    root = spec.data_root(config)
    seed_everything(config.seed)
    task, train_set, val_set = spec.load_task().prepare(replace(config, resume=None), root)
    if resume:
        check_data(task, output, root)
    where = f"{distributed.world()} processes on {device.type}" if distributed.world() > 1 else str(device)
    err.print(
        f"{spec.name}: {config.backbone}, weights {task.info.provenance['source']}; {len(train_set)} training and "
        f"{len(val_set)} validation images of {root}; {_count(config.epochs, 'epoch')} on {where} "
        f"({execution}) -> {output}"
    )
    with nullcontext() if config.resume or distributed.rank() else begin_run(output):
        return _train(spec, task, train_set, val_set, output, resume)


def _train(
    spec: TaskSpec, task: Task, train_set: LabelledDataset, val_set: LabelledDataset, output: Path, resume: bool
) -> dict[str, Any]:
    """Train a task in the folder `output`, which exists, and write all results. Returns the record."""
    config = task.config
    device = training_device(config)
    rank, world = distributed.rank(), distributed.world()
    command = f"python -m {spec.name}.train --resume {output}"
    if task.channels is not None:
        err.print(str(task.channels), markup=False)
    if (weights_by_class := task.info.extra.get("class_weights")) is not None:
        err.print(f"class weights: {_listed(weights_by_class)}", markup=False)
    if (draws := task.expected_draws) is not None:
        err.print(
            f"balanced sampling draws each image {draws.min():.2g} to {draws.max():.2g} times per epoch on average"
        )
    sources: tuple[Source, Source] = (train_set, val_set)
    started = time.perf_counter()
    if config.data.cached_augmentations:
        for turn in range(min(world, 2)):  # the first process computes them, the others read them afterwards
            if min(rank, 1) == turn:
                sources = cached_features(task.to(device), train_set, val_set, err)
            distributed.from_first(None)
    workers = default_workers(distributed.local_processes()) if config.data.workers is None else config.data.workers
    record = fit(
        task,
        train_loader(sources[0], config.batch_size, config.seed, workers, True, task.expected_draws, rank, world),
        eval_loader(sources[1], config.batch_size, workers, rank, world),
        output,
        resume=resume,
        if_interrupted=f"stopped. To resume, run: {command}",
        feature_seconds=time.perf_counter() - started if config.data.cached_augmentations else 0.0,
        recipe=spec.recipe,
    )
    if rank:
        return record
    task.to(device).eval()
    task.write_results(output)
    write_errors(output, task.what_went_wrong())
    pictures = output / "pictures"
    pictures.mkdir(exist_ok=True)
    for name, index in task.picture_indices(val_set, PICTURES).items():
        _picture(task, val_set, index, device).save(pictures / f"{name}.jpg", quality=90)
    curves(output / "metrics.csv", task.monitor, pictures / "curves.png")
    _print_scores(task, record["metrics"])
    best = record["best"]
    epoch = record["stopped_early"]
    waited = _count(config.patience, "evaluation")
    stopped = f"stopped early after epoch {epoch}, {waited} without a new best; " if epoch else ""
    features = f", features in {record['feature_seconds']:.0f} s" if config.data.cached_augmentations else ""
    out.print(
        f"best {task.monitor} {_percent(best[task.monitor])} after epoch {best['epoch']} of {config.epochs}; {stopped}"
        f"trained in {record['train_seconds']:.0f} s{features}; {record['params'] / 1e6:.2f} M parameters, "
        f"{record['macs'] / 1e9:.2f} G multiply-adds, {record['latency_ms']:.0f} ms per image\n"
        f"run folder {output}, pictures in {pictures}"
    )
    print_leaderboard(out, record, spec, task.info.classes, output)
    return record


def _in_first(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in the first process, in all processes. Its UserError is raised in all of them."""
    found: Any = None
    if distributed.rank() == 0:
        try:
            found = function(*arguments)
        except UserError as error:
            found = error
    found = distributed.from_first(found)
    if isinstance(found, UserError):
        raise found
    return found


def _count(number: int, noun: str) -> str:
    """Such as "1 epoch" or "2 epochs"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def evaluate(spec: TaskSpec, config: EvalConfig) -> dict[str, float]:
    """Evaluate a run or published weights. Returns the metrics."""
    log_to_terminal(spec.name)
    device = device_of(config.device)
    execution = execution_for(device.type, config.precision, "eval")
    execution.begin()
    task = restore_task(spec, config)
    root = _data_root(task, spec, config.data.root)
    dataset = task.eval_dataset(root, config.data)
    execution.place(task.to(device).eval().model)
    loader = eval_loader(dataset, config.batch_size, config.data.workers)
    tracked = track(loader, f"evaluating {len(dataset)} images", console=err, transient=True)
    metrics = task.evaluate(tracked, config.precision)
    out.print(f"{dataset.columns.source}, {len(dataset)} images; on {device} ({execution})")
    _print_scores(task, metrics)
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
    folder = None if config.backbone and not config.checkpoint else _run_folder(task, config)
    record = next(iter(read_records([folder / "record.json"], spec.train_config)), None) if folder is not None else None
    if record is None or record["dataset"]["fingerprint"]["val"] != dataset.fingerprint:
        record, folder = {"task": task.name, "backbone": task.config.backbone}, None
    scored = {"metrics": metrics, "config": asdict(task.config)}  # with the settings of `eval` that scores depend on
    print_leaderboard(out, record | scored, spec, dataset.classes, folder)


def _run_folder(task: Task, config: EvalConfig) -> Path:
    """The folder of the evaluated run."""
    return find_checkpoint(config.checkpoint or latest_run(task.name)).parent.parent


def _data_root(task: Task, spec: TaskSpec, root: str | None) -> Path:
    """Root folder of the evaluation data: `root`, else the data that the run was trained on."""
    if root:
        return Path(root)
    trained_on = task.info.config.get("data", {})
    if trained_on.get("root") is None and task.info.dataset.get("published"):
        raise UserError("--data.root FOLDER is required to evaluate published weights")
    return spec.root_of(trained_on.get("root"), trained_on.get("train"))


def _picture(task: Task, dataset: LabelledDataset, index: int, device: torch.device) -> Image.Image:
    """Draw ground truth and prediction of one image side by side."""
    sample = dataset.with_transform(None)[index]
    batch = collate([dataset[index]]).to(device)
    with torch.inference_mode():
        predictions = task.predictions(task.normalised(batch), batch)
    return Image.fromarray(task.picture(sample.image, predictions, truth=sample))


def _print_scores(task: Task, metrics: dict[str, float]) -> None:
    table = Table(*task.headline, title=f"{task.name}, percent", title_justify="left")
    table.add_row(*(_percent(metrics[name]) for name in task.headline))
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
    table.add_row(*map(_percent, row.values()))
    out.print(table)


def _cell(value: float) -> str:
    """A count as it is, or a fraction in percent."""
    return str(value) if isinstance(value, int) else _percent(value)


def _listed(values: Mapping[str, float]) -> str:
    """Some of the values by name, the smallest and largest among them."""
    ordered = sorted(values, key=lambda name: values[name])
    shown = ordered if len(ordered) <= MAX_LISTED else [*ordered[: MAX_LISTED // 2], *ordered[-MAX_LISTED // 2 :]]
    rest = f" and {len(ordered) - len(shown)} between them" if len(shown) < len(ordered) else ""
    return ", ".join(f"{name} {values[name]:.3g}" for name in shown) + rest


def _percent(value: float | None) -> str:
    return "--" if value is None or value != value else f"{100 * value:.1f}"
