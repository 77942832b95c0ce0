"""The base task: optimisation, protocols, evaluation and checkpoint content, shared by all three tasks.

A task fills in how it is built, what it minimises, and how its predictions are scored and shown.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from backbones.base import Backbone, CachedFeatures, early_parameters
from backbones.errors import BadInput, UserError
from data.batch import Batch, Sample, normalise
from data.loader import draw_seed
from data.reader import LabelledDataset, Transform
from engine.checkpoint import RunInfo
from engine.compat import BatchNorm
from engine.config import TrainConfig
from engine.execution import execution_for
from engine.memory import give_back_freed_memory
from engine.schema import SCHEMA
from engine.system_errors import out_of_memory

log = logging.getLogger(__name__)


class Diverged(UserError):
    """The loss is no longer a finite number."""

    exit_code = 4


class Evaluator(Protocol):
    """Collects predictions over a data set and turns them into scores, once."""

    def reset(self) -> None:
        """Forget all predictions."""

    def update(self, predictions: Any, batch: Batch) -> None:
        """Add the predictions of one batch."""

    def compute(self) -> dict[str, float]:
        """Metric name -> fraction in 0..1 (NaN where undefined), over all images seen since `reset`."""


class Task(LightningModule):
    """A model in training or evaluation.

    Args:
        model: has a `backbone` attribute.
        config: settings of the run.
        info: what its checkpoints say about the run.
        evaluator: fed by validation.
    """

    name: ClassVar[str]
    monitor: ClassVar[str]  # the metric that chooses the best epoch
    headline: ClassVar[tuple[str, ...]]  # the metrics that are printed
    evaluator: Any

    def __init__(self, model: nn.Module, config: TrainConfig, info: RunInfo, evaluator: Evaluator | None = None):
        super().__init__()
        self.model = model
        self.config = config
        self.info = info
        self.evaluator = evaluator
        self._still: list[nn.Module] = []
        self._seen: list[Tensor] = []  # ids of the images that the gradients so far are of
        self._most = 0  # images that memory suffices for at once in evaluation; 0 for any number
        self.step_losses: dict[str, Tensor] = {}  # the last step's
        self.total_steps = 0  # of the run; asking Lightning would set up its loaders before their state is restored
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.momentum = config.norm_momentum

    # --- building: from settings, from a run of ours, from published weights

    @classmethod
    def prepare(cls, config: Any, root: Path) -> tuple[Task, LabelledDataset, LabelledDataset]:
        """A new run: the task, the training images and the validation images under `root`.

        Three steps, since each needs the one before: what is on disk; the model, which needs the classes; and the data
        sets with their transforms, which need the normalisation of the model's weights.
        """
        train, val = cls.read(config, root)
        task = cls.build(config, root, train, val)
        return task, *task.datasets(train, val)

    @classmethod
    def read(cls, config: Any, root: Path) -> tuple[Any, Any]:
        """Files, labels, classes and sizes of the training and the validation images under `root`."""
        raise NotImplementedError

    @classmethod
    def build(cls, config: Any, root: Path, train: Any, val: Any) -> Task:
        """The task of a new run on the data that `read` returned."""
        raise NotImplementedError

    def datasets(self, train: Any, val: Any) -> tuple[LabelledDataset, LabelledDataset]:
        """What `read` returned, with the transforms of training and evaluation."""
        raise NotImplementedError

    @classmethod
    def restore(cls, info: RunInfo, state: dict[str, Tensor], config: Any) -> Task:
        """The task of a finished run, with the weights it was evaluated with."""
        raise NotImplementedError

    @classmethod
    def published(cls, file: Path, config: Any) -> Task:
        """The task of a checkpoint in a published format. Raises BadInput for any other file."""
        raise BadInput(f"{file} is not a checkpoint of this suite")

    @classmethod
    def of_backbone(cls, name: str, config: Any) -> Task:
        """The task of a network's published weights. Raises UserError where a task has none."""
        raise UserError(f"no published {cls.name} weights are known by name: give a file with --checkpoint")

    # --- training and scoring

    def losses(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Terms whose sum is minimised, from normalised images and their labels."""
        raise NotImplementedError

    def predictions(self, images: Tensor, batch: Batch) -> Any:
        """What the evaluator takes, from normalised images; in original pixels."""
        raise NotImplementedError

    def final_layer(self) -> list[nn.Module]:
        """What `--protocol linear` trains."""
        raise NotImplementedError

    def transform(self) -> Transform:
        """How an image becomes the network's input in evaluation."""
        raise NotImplementedError

    def eval_dataset(self, root: Path, split: str, skip_bad: int) -> LabelledDataset:
        """The images of `split`; sets `self.evaluator` to score them."""
        raise NotImplementedError

    # --- results for people and scripts

    def per_class(self) -> dict[str, float]:
        """`monitor` of each class in the last evaluation."""
        raise NotImplementedError

    def write_results(self, folder: Path) -> None:
        """Write the last evaluation's per-class and per-image results."""
        raise NotImplementedError

    def result(self, image: np.ndarray, predictions: Any) -> Any:
        """One image's predictions as arrays with names, for use in Python; `image` is (H, W, 3) uint8 RGB."""
        raise NotImplementedError

    def records(self, predictions: Any, image_id: int) -> list[dict[str, Any]]:
        """One image's predictions as plain values."""
        raise NotImplementedError

    def picture(
        self, image: np.ndarray, predictions: Any, truth: Sample | None = None, config: Any = None
    ) -> np.ndarray:
        """One image's predictions drawn on it, beside the ground truth where there is one: (H, W, 3) uint8 RGB."""
        raise NotImplementedError

    def pictured(self, dataset: LabelledDataset, count: int) -> dict[str, int]:
        """File name -> index of the validation images that are drawn after training; evenly spaced by default."""
        indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int).tolist()
        return {f"val-{index:05d}": index for index in indices}

    def save(self, predictions: Any, path: Path) -> None:
        """Write what `predict` leaves of one image besides records and picture; `path` has no suffix yet."""

    # --- what all tasks share

    def freeze_parts(self) -> None:
        """Hold still what `--protocol` and `--freeze_stride` do not train, and go to training mode."""
        apply_protocol(self, self.config.protocol)
        self._still = freeze_early(self.model.backbone, self.config)  # type: ignore[arg-type]
        self.train()  # Lightning keeps the modes that it finds: what is frozen has to be in evaluation mode by now

    @property
    def fill(self) -> tuple[int, int, int]:
        """The normalisation's mean as RGB in 0..255: padding of this colour is zero to the network."""
        r, g, b = (round(255 * mean) for mean in self.info.preprocessing["mean"])
        return r, g, b

    def normalised(self, batch: Batch) -> Any:
        """The batch's images as the weights expect them, (B, 3, H, W) float32; maps in their place as they are."""
        if isinstance(batch.images, CachedFeatures):
            return batch.images
        return normalise(batch.images, self.info.preprocessing["mean"], self.info.preprocessing["std"])

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed what the networks draw, such as stochastic depth, by place in the run: a resumed run draws the same."""
        torch.manual_seed(draw_seed(self.config.seed, self.current_epoch, batch_idx))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if batch_idx % self.config.accumulate == 0:
            self._seen = []
        self._seen.append(batch.image_ids)
        losses = self.losses(self.normalised(batch), batch)
        total = torch.stack(list(losses.values())).sum()
        terms = {f"loss_{name}": value.detach() for name, value in losses.items()}
        if not torch.isfinite(total):
            told = ", ".join(f"{name} {float(value):.3g}" for name, value in terms.items())
            raise self._diverged("the loss", f" ({told})")
        self.step_losses = {"loss": total.detach()} | (terms if len(terms) > 1 else {})
        return total

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Scale the gradients down to `--clip`; raises Diverged before any that is not finite can reach the weights."""
        found = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in found])
        if self.config.precision != "fp16" and not torch.isfinite(norm):  # which fp16's loss scaler expects, and skips
            raise self._diverged("the gradient")
        if self.config.clip:
            nn.utils.clip_grads_with_norm_(found, self.config.clip, norm)

    def _diverged(self, what: str, terms: str = "") -> Diverged:
        ids = ", ".join(str(i) for i in torch.cat(self._seen).tolist())
        return Diverged(
            f"{what} is not finite at step {self.global_step}{terms}, images {ids}. The last checkpoint is kept. Lower "
            "--lr, lengthen --warmup_epochs, or look at these images."
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.score(batch)

    def score(self, batch: Batch) -> None:
        """Predict a batch and hand it to the evaluator; in halves where memory does not suffice for all of it."""
        assert self.evaluator is not None
        while len(batch):
            part = batch[: self._most] if self._most else batch
            try:
                found = self.predictions(self.normalised(part), part)
            except (RuntimeError, MemoryError) as error:
                if len(part) == 1 or not out_of_memory(error):
                    raise
                found = None
            if found is None:  # outside of the except clause, which would keep what fills the memory
                self._most = len(part) // 2
                log.warning("memory does not suffice for %d images at a time: %d from now on", len(part), self._most)
                give_back_freed_memory()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            self.evaluator.update(found, part)
            batch = batch[len(part) :]

    @torch.inference_mode()
    def evaluate(self, loader: Iterable[Batch], precision: str = "fp32") -> dict[str, float]:
        """Score all batches of `loader` in the arithmetic called `precision`; returns the scores."""
        assert self.evaluator is not None
        self.eval()
        self.evaluator.reset()
        with execution_for(self.device.type, precision, "eval").arithmetic(self.device.type):
            for batch in loader:
                self.score(batch.to(self.device))
        self.scores = self.evaluator.compute()
        return self.scores

    def on_validation_epoch_start(self) -> None:
        assert self.evaluator is not None
        self.evaluator.reset()

    def on_validation_epoch_end(self) -> None:
        assert self.evaluator is not None
        self.scores = self.evaluator.compute()
        self.log_dict({name: value for name, value in self.scores.items() if value == value}, batch_size=1)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device, non_blocking=True)

    def train(self, mode: bool = True) -> Task:
        """Training mode, but for what is frozen: its batch norms keep their statistics."""
        super().train(mode)
        for module in self._still:
            module.eval()
        if self.config.protocol in ("frozen", "linear"):
            self.model.backbone.eval()  # type: ignore[union-attr]
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser is given: parameters with their learning rate and decay."""
        config = self.config
        learned = self.info.provenance["source"] != "random"  # there is something to go easy on
        factor = config.backbone_lr if learned else 1.0
        return list(parameter_groups(self.model, config.lr, factor, config.weight_decay))

    def configure_optimizers(self) -> Any:
        config = self.config
        groups = self.parameter_groups()
        if config.optimizer == "adamw":
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, fused=True)
        elif config.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, momentum=0.9, fused=True)
        else:
            # tensorflow/tpu models/official/efficientnet/utils.py: decay 0.9, momentum 0.9, epsilon 1e-3.
            optimizer = torch.optim.RMSprop(groups, alpha=0.9, momentum=0.9, eps=1e-3)
        steps = self.total_steps
        warmup = min(round(config.warmup_epochs * steps / config.epochs), max(steps - 1, 1))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.lr_factor(step, warmup, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_factor(self, step: int, warmup: int, steps: int) -> float:
        """Factor on the learning rate at `step` of `steps`, of which the first `warmup` are warm-up."""
        return warmup_cosine(step, warmup, steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = {"schema": SCHEMA, **vars(self.info)}


def warmup_cosine(step: int, warmup: int, steps: int) -> float:
    """Factor on the learning rate: linear from 1/warmup to 1, then along half a cosine to 0 at `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup)))


def parameter_groups(model: nn.Module, lr: float, backbone_lr: float, decay: float) -> Iterator[dict[str, Any]]:
    """Trainable parameters by learning rate and decay; biases, norms and fusion weights never decay."""
    backbone = {id(p) for p in model.backbone.parameters()}  # type: ignore[union-attr]
    for of_backbone in (True, False):
        for decays in (True, False):
            chosen = [
                p for p in model.parameters()
                if p.requires_grad and (id(p) in backbone) == of_backbone and (p.ndim > 1) == decays
            ]  # fmt: skip
            if chosen:
                yield {
                    "params": chosen,
                    "lr": lr * backbone_lr if of_backbone else lr,
                    "weight_decay": decay if decays else 0.0,
                }


def freeze_early(backbone: Backbone, config: TrainConfig) -> list[nn.Module]:
    """Freeze the stages up to `config.freeze_stride`, if it is asked for; returns the modules that lie still."""
    if config.protocol != "finetune" or not config.pretrained or not config.freeze_stride:
        return []
    early = {id(p) for p in early_parameters(backbone, config.freeze_stride)}
    for parameter in backbone.parameters():
        parameter.requires_grad_(id(parameter) not in early)
    owned = {module: list(module.parameters(recurse=False)) for module in backbone.modules()}
    return [module for module, own in owned.items() if own and all(id(p) in early for p in own)]


def apply_protocol(task: Task, protocol: str) -> None:
    """Freeze what the protocol does not train."""
    if protocol == "frozen":
        task.model.backbone.requires_grad_(False)
    elif protocol == "linear":
        task.model.requires_grad_(False)
        for module in task.final_layer():
            module.requires_grad_(True)
