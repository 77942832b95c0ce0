"""`fit` trains a task and writes checkpoints and `metrics.csv`; it returns the content of `record.json`."""

from __future__ import annotations

import logging
import math
import os
import warnings
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from backbones.base import adaptation_of
from backbones.errors import UserError
from backbones.lora import merge_low_rank
from data.loader import Loader
from engine import distributed
from engine.checkpoint import find_checkpoint, occupied, read_run, sweep
from engine.checkpoint_callback import BestCheckpoint, LastCheckpoint
from engine.checkpoint_io import AtomicCheckpointIO
from engine.compat import copy_all_, lerp_all_
from engine.config import TrainConfig
from engine.console import err
from engine.draws import draw_for_whole_batch
from engine.early_stopping import EarlyStopping
from engine.execution import device_of, execution_for
from engine.history import History
from engine.lightning_module import TaskModule
from engine.loggers import Trackers
from engine.memory_fit import divisors, images_that_fit
from engine.progress import TrainingProgress
from engine.record import cost, peak_memory_mb, surroundings, write_text
from engine.schema import SCHEMA
from engine.system_errors import fitted_batch, out_of_memory, smaller_batch
from engine.task import Task


class EMA(WeightAveraging):
    """Exponential moving average of weights and buffers. Validation uses the average, and checkpoints contain it.

    Early in a run the decay is smaller: (1 + n) / (10 + n) at update n, as in TensorFlow's ExponentialMovingAverage.
    With a constant decay of 0.9998 the average would still be 86% initial weights after 750 steps.

    Args:
        decay: largest decay, in 0..1.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self._average)
        self.decay = decay

    @torch.no_grad()
    def _average(self, averages: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
        decay = min(self.decay, (1 + int(updates)) / (10 + int(updates)))
        if averages[0].is_floating_point():
            lerp_all_(averages, current, 1 - decay)
        else:
            copy_all_(averages, current)


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, numpy and torch.

    Order of images and augmentation have generators of their own, which depend on the same seed.
    """
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    pl.seed_everything(seed, workers=True, verbose=False)


def training_device(config: TrainConfig) -> torch.device:
    """The device of this process of a training. Each process of a distributed training has a GPU of its own."""
    device = device_of(config.device)
    if distributed.is_launched() and device.type == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return device


def accelerator(device: torch.device, plugin: Any) -> dict[str, Any]:
    """The arguments of Lightning's Trainer that select `device`, and the other processes of a distributed training.

    Args:
        device: of this process.
        plugin: for all trainings, in addition to those that the processes need.
    """
    if distributed.world() == 1:
        # Without the environment, Lightning would start its SLURM support wherever SLURM's variables are set.
        devices = [device.index or 0] if device.type == "cuda" else 1
        return {"accelerator": device.type, "devices": devices, "plugins": [plugin, LightningEnvironment()]}
    return {
        "accelerator": device.type,
        "devices": distributed.local_processes(),
        "num_nodes": distributed.machines(),
        "strategy": DDPStrategy(gradient_as_bucket_view=True),
        "plugins": [plugin, TorchElasticEnvironment()],
    }


def synchronised_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with batch norm over the images of all processes. Raises UserError without a GPU."""
    if device.type != "cuda":
        raise UserError(
            f"`sync_batchnorm=True` needs GPUs, and this training runs on {device.type}: leave it out",
            settings=("sync_batchnorm",),
        )
    return convert_sync_batchnorm(model)


class LastEpochValidation(Callback):
    """Evaluates after the last epoch, also if `check_val_every_n_epoch` would skip it."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.on_train_epoch_start(trainer, module)  # an epoch that is resumed does not start

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1


def fit(
    task: Task,
    train_loader: Any,
    val_loader: Any,
    output: Path,
    resume: bool = False,
    if_interrupted: str = "",
    feature_seconds: float = 0.0,
    recipe: int = 1,
) -> dict[str, Any]:
    """Train and evaluate a task and write the run folder. Returns the record. The task keeps the saved weights.

    Of several processes, the first one writes and returns the record; the others return an empty one.

    Args:
        task: a new task. To resume, its settings must be those of the run.
        train_loader, val_loader: batches for training and evaluation.
        output: the run folder, which exists.
        resume: continue from the last checkpoint in `output`.
        if_interrupted: message for an interrupted run, which names the command that resumes it.
        feature_seconds: time that `data.cached_augmentations` took to compute features, for the record.
        recipe: version of the task's recipe, for the record.

    Raises Diverged if the loss or a gradient is not finite, BadInput if a file cannot be written or a training step
    does not fit in memory, and KeyboardInterrupt with the message `if_interrupted` if the run is interrupted.
    """
    config = task.config
    device = training_device(config)
    execution = execution_for(device.type, config.precision, "train")
    checkpoints = output / "checkpoints"
    is_first = distributed.rank() == 0
    settings, settings_file = yaml.safe_dump(asdict(config), sort_keys=False), output / "config.yaml"
    if is_first and not settings_file.exists():
        write_text(settings_file, settings)
    history, last_checkpoint = History(output, task.monitor), LastCheckpoint(checkpoints / "last.ckpt")
    callbacks: list[Callback] = [
        *([EMA(config.ema_decay)] if config.ema_decay else []),
        LastEpochValidation(),
        history,
        # After the history, so that metrics.csv has the epoch of each line that is printed.
        *([TrainingProgress(task.monitor, may_stop=config.patience > 0)] if is_first else []),
        EarlyStopping(history, config.patience),
        *([Trackers(config.logger, history, task.info.task, task.info.config)] if is_first else []),
        BestCheckpoint(checkpoints / "best.ckpt", history),
        last_checkpoint,
    ]
    task.total_steps = config.epochs * math.ceil(len(train_loader) / config.batches_per_step)
    task.freeze_parts()
    execution.place(task.model)
    stored = find_checkpoint(output) if resume else None
    before = None if stored is None else read_run(stored)[0].extra
    if config.accumulate == "auto":
        _fit_to_memory(task, train_loader, device, before)
    if distributed.world() > 1 or task.micro_batch:
        task.part = draw_for_whole_batch(task.model)
    if config.sync_batchnorm:
        task.model = synchronised_batch_norm(task.model, device)
    if config.compile:
        task.model.compile()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    _quiet()
    trainer = pl.Trainer(
        **accelerator(device, AtomicCheckpointIO()),
        precision=execution.lightning,  # type: ignore[arg-type]
        max_epochs=config.epochs,
        accumulate_grad_batches=config.batches_per_step,
        check_val_every_n_epoch=config.eval_every or max(1, round(config.epochs / 6)),
        num_sanity_val_steps=0,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        default_root_dir=output,
    )
    # A training that an earlier version of the recipe began keeps that version.
    task.info.extra["recipe"] = recipe if before is None else before.get("recipe", 1)
    try:
        with occupied(output) if is_first else nullcontext(), last_checkpoint.handle_signals():
            if is_first:
                if settings_file.read_text() != settings:  # the data have moved; in place, because this file is locked
                    settings_file.write_text(settings)
                sweep(checkpoints)
            trainer.fit(TaskModule(task), train_loader, val_loader, ckpt_path=stored, weights_only=True)
    except SystemExit as stop:  # Lightning raises it after Ctrl-C
        saved = last_checkpoint.file.exists()
        message = if_interrupted if saved else "stopped before the first checkpoint: nothing is saved"
        raise KeyboardInterrupt(message) from stop
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        if task.micro_batch:
            raise fitted_batch(task.micro_batch) from error
        raise smaller_batch(config.batch_size, config.batches_per_step) from error
    trained = sum(p.numel() for p in task.model.parameters() if p.requires_grad)
    merge_low_rank(task.model)  # records and later predictions use the merged weights
    if stored is not None and not hasattr(task, "scores"):  # killed between the last epoch and the record
        task.model.load_state_dict(read_run(stored)[1])
        task.to(device).evaluate(val_loader, config.precision)
    if not is_first:
        return {}
    return {
        "schema": SCHEMA,
        "task": task.info.task,
        "recipe": task.info.extra["recipe"],
        "dataset": task.info.dataset,
        "backbone": config.backbone,
        "neck": task.info.extra.get("neck"),
        "pretrained": task.info.provenance,
        **({"adaptation": adapted} if (adapted := adaptation_of(task.model.backbone)) else {}),  # type: ignore[arg-type]
        "preprocessing": task.info.preprocessing,
        "config": task.info.config,
        "seed": config.seed,
        **({"micro_batch": task.micro_batch} if task.micro_batch else {}),
        "setting": str(execution),
        "class_weights": task.info.extra.get("class_weights"),
        "metrics": history.scores,
        "best": history.best,
        "stopped_early": history.epochs if history.epochs < config.epochs else None,
        **cost(task.model.to(device), tuple(task.info.preprocessing["size"]), device),
        "trained_params": trained,
        "peak_memory_mb": peak_memory_mb(device),
        "train_seconds": history.seconds,
        "feature_seconds": feature_seconds,
        **surroundings(device),
    }


def _fit_to_memory(task: Task, loader: Loader, device: torch.device, before: dict[str, Any] | None) -> None:
    """Set and print the size of the task's micro-batches: that of the run to resume, else what fits in memory.

    A run may be resumed with another number of devices, whose parts of a batch the stored size may not divide.
    """
    share = len(next(iter(loader.batch_sampler)))  # type: ignore[arg-type]
    stored = (before or {}).get("micro_batch")
    found = images_that_fit(task, loader, device) if stored is None else stored
    task.micro_batch = next(size for size in divisors(share) if size <= found)
    task.info.extra["micro_batch"] = found
    devices = f" on each of {distributed.world()} devices" if distributed.world() > 1 else ""
    chosen = "as before" if stored else "the most that fit in memory"
    err.print(
        f"--accumulate auto: {task.micro_batch} of the {share} images of a step at once{devices}, "
        f"{'all of them' if task.micro_batch == share else chosen}",
        markup=False,
    )


def _quiet() -> None:
    """Silence Lightning's messages about its own defaults, which say nothing about the run."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*num_workers.*",
        ".*LeafSpec.*",
        ".*does not have many workers.*",
        ".*ModelCheckpoint.*",
        ".*exists and is not empty.*",
        ".*sync_dist.*",
        ".*in eval mode at the start.*",
        ".*Experiment logs directory.*",
        ".*`srun` command is available.*",  # on the login node of a cluster
    ):
        warnings.filterwarnings("ignore", message)
