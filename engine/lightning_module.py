"""A task as Lightning's Trainer takes it. Only training imports Lightning, which takes seconds."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from data.batch import Batch
from engine.task import Task


class TaskModule(LightningModule):
    """Passes Lightning's hooks on to a task. It has the task's modules under their names, so checkpoints do too.

    Args:
        task: the task. It can read the epoch and the step of the training from now on.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self._tasks = (task,)  # in a tuple: as a module of its own, the task would prefix the names in checkpoints
        for name, module in task.named_children():
            self.add_module(name, module)

    def __getstate__(self) -> dict[str, Any]:
        """For copies of the modules, such as an average of the weights: without the task."""
        return super().__getstate__() | {"_tasks": ()}

    @property
    def task(self) -> Task:
        return self._tasks[0]

    @property
    def step_losses(self) -> Any:
        return self.task.step_losses

    @property
    def scores(self) -> dict[str, float]:
        return self.task.scores

    @property
    def total_steps(self) -> int:
        return self.task.total_steps

    def setup(self, stage: str) -> None:
        self.task.trainer = self.trainer

    def train(self, mode: bool = True) -> TaskModule:
        self.training = mode
        self.task.train(mode)
        return self

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.task.on_train_batch_start(batch, batch_idx)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.task.training_step(batch, batch_idx)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        self.task.optimizer_zero_grad(epoch, batch_idx, optimizer)

    def configure_gradient_clipping(self, optimizer: Any, *limits: Any, **more: Any) -> None:
        self.task.configure_gradient_clipping(optimizer)

    def on_validation_epoch_start(self) -> None:
        self.task.on_validation_epoch_start()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.task.score(batch)

    def on_validation_epoch_end(self) -> None:
        self.task.on_validation_epoch_end()

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device, non_blocking=True)

    def configure_optimizers(self) -> Any:
        return self.task.configure_optimizers()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.task.on_save_checkpoint(checkpoint)
