"""How a task is trained: frozen parts, steps, gradients, optimiser and checkpoint content."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from backbones.base import trunk_of
from data.batch import Batch
from data.sampling import draw_seed
from engine import distributed, micro_batches
from engine.optimization import (
    apply_checkpointing,
    apply_protocol,
    by_block,
    by_depth,
    create_optimizer,
    freeze_early,
    freeze_unused,
    parameter_groups,
    warmup_cosine,
)
from engine.schema import SCHEMA
from engine.task_base import TaskBase


class TaskTraining(TaskBase):
    """The training of a task. `engine.lightning_module` passes it to Lightning's Trainer."""

    def freeze_parts(self) -> None:
        """Freeze what `protocol` and `freeze_stride` do not train, and set training mode.

        Also adds low-rank updates and gradient checkpointing.
        """
        backbone: Any = self.model.backbone
        self._frozen_modules = apply_protocol(self.model, self.final_layer(), self.config)
        self._frozen_modules += freeze_early(backbone, self.config)
        if distributed.world() > 1:
            freeze_unused(backbone)
        if self.config.checkpointing:
            apply_checkpointing(backbone, self.config.backbone)
        self.train()  # now, because Lightning keeps each module's mode, and frozen modules need evaluation mode

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the network's random draws, such as stochastic depth, by epoch and batch.

        A resumed run then draws the same numbers as an uninterrupted run.
        """
        torch.manual_seed(draw_seed(self.config.seed, self.current_epoch, batch_idx))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, batch = self.mixed(self.normalised(batch), batch)
        self._has_gradients = 0 < self.micro_batch < len(batch)
        if self._has_gradients:
            seed = draw_seed(self.config.seed, self.current_epoch, batch_idx)
            loss, losses = micro_batches.backward_all_but_last(self, images, batch, seed)
            total = torch.stack(list(losses.values())).sum()
        else:
            losses = self.losses_at_once(images, batch)
            total = loss = torch.stack(list(losses.values())).sum()
        self.step_losses.add(total, losses, batch.image_ids, batch_idx % self.config.batches_per_step == 0)
        return loss

    def losses_at_once(self, images: Any, batch: Batch) -> dict[str, Tensor]:
        """The losses of images that the network processes at once, see `losses`."""
        with self._single_value_norms.in_evaluation_mode(images):
            return self.losses(images, batch)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """Discard the gradients of the step before. Lightning calls this between forward and backward pass.

        In micro-batches, the gradients are those of the earlier parts of this step.
        """
        if not self._has_gradients:
            optimizer.zero_grad()

    def configure_gradient_clipping(self, optimizer: Any) -> None:
        """Clip the gradient norm to `config.clip`.

        Raises Diverged for a loss or a gradient that is not finite, before it changes the weights.
        """
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in trained])
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None:  # fused optimisers divide gradients by the loss scale in their step, which comes later
            norm = norm / scaler.scale(torch.ones_like(norm))
        self.step_losses.check(norm, self.global_step, scaled=scaler is not None)
        if self.config.clip:
            nn.utils.clip_grads_with_norm_(trained, self.config.clip, norm)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except in frozen modules, whose batch norm statistics must not change."""
        super().train(mode)
        for module in self._frozen_modules:
            module.eval()
        if self.config.protocol in ("frozen", "linear"):
            trunk_of(self.model.backbone).eval()  # type: ignore[arg-type]
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters with their learning rate and weight decay.

        `backbone_lr` applies to pretrained backbones only, `first_layer_lr` to all.
        """
        config = self.config
        pretrained = self.info.provenance["source"] != "random"
        factor = config.backbone_lr if pretrained else 1.0
        groups = list(parameter_groups(self.model, config.lr, factor, config.weight_decay))
        if config.first_layer_lr == 1:
            return groups
        return list(by_depth(groups, by_block(self.model.backbone), config.first_layer_lr))  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        config = self.config
        optimizer = create_optimizer(config.optimizer, self.parameter_groups())
        steps = self.total_steps
        warmup = min(round(config.warmup_epochs * steps / config.epochs), max(steps - 1, 1))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.lr_factor(step, warmup, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_factor(self, step: int, warmup: int, steps: int) -> float:
        """Factor on the learning rate at `step` of `steps`. The first `warmup` steps are warm-up."""
        return warmup_cosine(step, warmup, steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = {"schema": SCHEMA, **vars(self.info)}
