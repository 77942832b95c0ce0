"""The `train` command of all tasks. `eval` is in engine/evaluation.py, `predict` in engine/predict.py."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from backbones.errors import UserError
from backbones.weight_files import weight_file
from data.loader import default_workers
from data.protocols import LabelledDataset
from engine import distributed
from engine.cached_features import cached_features
from engine.checkpoint import begin_run, has_checkpoint, new_run_folder
from engine.config import TrainConfig
from engine.console import err, log_to_terminal, out, silence
from engine.error_files import write_errors
from engine.evaluation import percent, print_scores
from engine.execution import execution_for
from engine.launch import adopt_srun, devices_of, launch, raise_unless_launchable
from engine.leaderboard import print_leaderboard
from engine.plots import curves
from engine.record import command_line
from engine.resume import check_data, check_resume, if_stopped
from engine.spec import CommandSpec, TaskSpec
from engine.task import Task
from engine.trainer import fit, seed_everything, training_device

PICTURES = 8  # validation images to draw after training
MAX_LISTED = 10  # class weights to print


def train(spec: CommandSpec, config: TrainConfig, is_program: bool = False) -> dict[str, Any]:
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


def _start(spec: CommandSpec, config: TrainConfig) -> dict[str, Any]:
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
        f"{len(val_set)} validation images of {task.info.dataset['root']}; {_count(config.epochs, 'epoch')} on {where} "
        f"({execution}) -> {output}"
    )
    with nullcontext() if config.resume or distributed.rank() else begin_run(output):
        return _train(spec, task, train_set, val_set, output, resume)


def _train(
    spec: CommandSpec, task: Task, train_set: LabelledDataset, val_set: LabelledDataset, output: Path, resume: bool
) -> dict[str, Any]:
    """Train a task in the folder `output`, which exists, and write all results. Returns the record."""
    config = task.config
    device = training_device(config)
    rank, world = distributed.rank(), distributed.world()
    command = f"python -m {spec.program}.train --resume {output}"
    if task.channels is not None:
        err.print(str(task.channels), markup=False)
    if (weights_by_class := task.info.extra.get("class_weights")) is not None:
        err.print(f"class weights: {_listed(weights_by_class)}", markup=False)
    if (draws := task.expected_draws) is not None:
        err.print(
            f"balanced sampling draws each image {draws.min():.2g} to {draws.max():.2g} times per epoch on average"
        )
    sources: tuple[Any, Any] = (train_set, val_set)
    started = time.perf_counter()
    if config.data.cached_augmentations:
        for turn in range(min(world, 2)):  # the first process computes them, the others read them afterwards
            if min(rank, 1) == turn:
                sources = cached_features(task.to(device), train_set, val_set, err)
            distributed.from_first(None)
    workers = default_workers(distributed.local_processes()) if config.data.workers is None else config.data.workers
    record = fit(
        task,
        *task.loaders(*sources, workers, rank, world),
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
    for name, picture in task.pictures(val_set, PICTURES):
        Image.fromarray(picture).save(pictures / f"{name}.jpg", quality=90)
    curves(output / "metrics.csv", task.monitor, pictures / "curves.png")
    task.write_record(output, record)  # last: a run with a record is complete
    print_scores(task, record["metrics"])
    best = record["best"]
    epoch = record["stopped_early"]
    waited = _count(config.patience, "evaluation")
    stopped = f"stopped early after epoch {epoch}, {waited} without a new best; " if epoch else ""
    features = f", features in {record['feature_seconds']:.0f} s" if config.data.cached_augmentations else ""
    out.print(
        f"best {task.monitor} {percent(best[task.monitor])} after epoch {best['epoch']} of {config.epochs}; {stopped}"
        f"trained in {record['train_seconds']:.0f} s{features}; {record['params'] / 1e6:.2f} M parameters, "
        f"{record['macs'] / 1e9:.2f} G multiply-adds, {record['latency_ms']:.0f} ms per image\n"
        f"run folder {output}, pictures in {pictures}"
    )
    if isinstance(spec, TaskSpec):
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


def _listed(values: Mapping[str, float]) -> str:
    """Some of the values by name, the smallest and largest among them."""
    ordered = sorted(values, key=lambda name: values[name])
    shown = ordered if len(ordered) <= MAX_LISTED else [*ordered[: MAX_LISTED // 2], *ordered[-MAX_LISTED // 2 :]]
    rest = f" and {len(ordered) - len(shown)} between them" if len(shown) < len(ordered) else ""
    return ", ".join(f"{name} {values[name]:.3g}" for name in shown) + rest
