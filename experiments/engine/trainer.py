"""`fit`: one training run from a task and its loaders to a run folder with checkpoints, curves and `record.json`."""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

from backbones.errors import UserError
from experiments.engine.checkpoint import AtomicCheckpointIO, find_checkpoint
from experiments.engine.progress import TrainingProgress
from experiments.engine.record import cost, peak_memory_mb, surroundings, write_json
from experiments.engine.task import Task

PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class EMA(WeightAveraging):
    """Exponential moving average of weights and buffers, which validation uses and checkpoints hold.

    Early in a run the decay is (1 + n) / (10 + n) at update n, as in TensorFlow's ExponentialMovingAverage: a constant
    0.9998 would still be 86% initial weights after 750 steps.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self._average)
        self.decay = decay

    @torch.no_grad()
    def _average(self, averages: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
        decay = min(self.decay, (1 + int(updates)) / (10 + int(updates)))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, current, 1 - decay)
        else:
            torch._foreach_copy_(averages, current)


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators. Order and augmentation have their own, keyed by the same seed."""
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    pl.seed_everything(seed, workers=True, verbose=False)


def device_of(name: str) -> torch.device:
    """The device called `auto`, `cpu`, `cuda`, `cuda:N` or `mps`. Raises UserError where there is none such."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The arithmetic called `fp32`, `bf16` or `fp16`, as a context for inference."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype if precision != "fp32" else torch.bfloat16, enabled=precision != "fp32")


def accelerator(device: torch.device) -> dict[str, Any]:
    """`device` in the words of Lightning's Trainer."""
    return {"accelerator": device.type, "devices": [device.index or 0] if device.type == "cuda" else 1}


class Best(Callback):
    """Remembers the scores of the best evaluation so far, and its epoch (from 1)."""

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self.scores: dict[str, float] = {}

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        scores = dict(module.scores, epoch=trainer.current_epoch + 1)  # type: ignore[arg-type]
        if not self.scores or scores[self.monitor] > self.scores[self.monitor]:
            self.scores = scores

    def state_dict(self) -> dict[str, Any]:
        return self.scores

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.scores = state_dict


class LastEpochValidation(Callback):
    """Evaluates after the last epoch as well where the interval does not fall on it."""

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1


def fit(
    task: Task, train_loader: Any, val_loader: Any, output: Path, resume: bool = False, if_interrupted: str = ""
) -> dict[str, Any]:
    """Train, evaluate, and write the run folder; returns the record.

    Raises Diverged where the loss stops being finite, BadInput where nothing can be written.
    """
    config = task.config
    device = device_of(config.device)
    (output / "config.yaml").write_text(yaml.safe_dump(asdict(config), sort_keys=False))
    checkpoints: dict[str, Any] = {"dirpath": output / "checkpoints", "enable_version_counter": False}
    best = Best(task.monitor)
    callbacks: list[Callback] = [
        *([EMA(config.ema_decay)] if config.ema_decay else []),
        LastEpochValidation(),
        TrainingProgress(task.monitor),
        best,
        ModelCheckpoint(monitor=task.monitor, mode="max", filename="best", **checkpoints),
        ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **checkpoints),
    ]
    task.freeze_parts()
    task.model.to(memory_format=torch.channels_last)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    _quiet()
    trainer = pl.Trainer(
        **accelerator(device),
        precision=PRECISION[config.precision],  # type: ignore[arg-type]
        max_epochs=config.epochs,
        gradient_clip_val=config.clip or None,
        accumulate_grad_batches=config.accumulate,
        check_val_every_n_epoch=config.eval_every or max(1, round(config.epochs / 6)),
        num_sanity_val_steps=0,
        callbacks=callbacks,
        logger=[CSVLogger(output, name="", version=""), TensorBoardLogger(output, name="", version="")],
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        default_root_dir=output,
    )
    started = time.monotonic()
    try:
        trainer.fit(
            task, train_loader, val_loader, ckpt_path=find_checkpoint(output) if resume else None, weights_only=True
        )
    except SystemExit as stop:  # how Lightning leaves after Ctrl-C
        raise KeyboardInterrupt(if_interrupted) from stop
    record = {
        "task": task.info.task,
        "dataset": task.info.dataset,
        "backbone": config.backbone,
        "neck": task.info.extra.get("neck"),
        "pretrained": task.info.provenance,
        "config": task.info.config,
        "seed": config.seed,
        "metrics": task.scores,
        "best": best.scores,
        **cost(task.model.to(device), tuple(task.info.preprocessing["size"]), device),
        "peak_memory_mb": peak_memory_mb(device),
        "train_seconds": time.monotonic() - started,
        **surroundings(device),
    }
    write_json(output / "record.json", record)
    return record


def _quiet() -> None:
    """Lightning's own notices are about its defaults, not about the run."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*num_workers.*",
        ".*LeafSpec.*",
        ".*does not have many workers.*",
        ".*ModelCheckpoint.*",
        ".*sync_dist.*",
        ".*in eval mode at the start.*",
        ".*Experiment logs directory.*",
    ):
        warnings.filterwarnings("ignore", message)
