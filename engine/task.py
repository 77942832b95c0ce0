"""The base class of all tasks: training step, evaluation and checkpoint content.

A task implements how its model is built, its losses, its predictions, and how predictions are drawn and stored.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from backbones.base import CachedFeatures, trunk_of
from backbones.errors import BadInput, UserError
from data.balance import effective_number_weights, repeat_factors, scaled
from data.batch import Batch, Sample, collate
from data.channels import Channels, normalised
from data.checks import left_out_files
from data.findings import warn_or_raise
from data.loader import draw_seed, eval_loader, train_loader
from data.open import read_scored, read_split
from data.reader import ImageReader, LabelledDataset, Transform
from data.resizing import Fill
from data.scan import evenly_spaced
from engine import distributed, micro_batches
from engine.checkpoint import RunInfo
from engine.compat import BatchNorm
from engine.config import EvalData, TrainConfig
from engine.data_changes import data_changes
from engine.divergence import StepLosses
from engine.draws import Part
from engine.execution import execution_for
from engine.memory import release_freed_memory
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
from engine.record import write_class_table, write_json
from engine.runtimes.files import Network
from engine.schema import SCHEMA
from engine.setting_files import in_order
from engine.single_values import SingleValueNorms
from engine.system_errors import out_of_memory

if TYPE_CHECKING:
    from scipy.sparse import csr_array

log = logging.getLogger(__name__)


def unchanged(sample: Sample, seed: int) -> Sample:
    """The transform that changes nothing."""
    return sample


class Evaluator(Protocol):
    """Accumulates the predictions for a data set and computes scores from them."""

    def reset(self) -> None:
        """Discard all predictions."""

    def update(self, predictions: Any, batch: Batch) -> None:
        """Add the predictions of one batch."""

    @property
    def per_class(self) -> dict[str, float]:
        """The headline metric of each class, a fraction in 0..1."""

    def class_table(self) -> dict[str, dict[str, float]]:
        """Scores of each class, fractions in 0..1, and its number of labels."""

    def compute(self) -> dict[str, float]:
        """Metric name -> fraction in 0..1 over all images since `reset`; NaN if the metric is undefined."""

    def state(self) -> Any:
        """All predictions since `reset`, as plain values and arrays, for another process."""

    def merge(self, states: Sequence[Any]) -> None:
        """Replace the predictions by those of these states, in this order."""


class Task(nn.Module):
    """A model with its losses and its evaluator. `engine.lightning_module` passes it to Lightning's Trainer.

    Args:
        model: a network with the attribute `backbone`.
        config: settings of the run.
        info: description of the run for its checkpoints.
        evaluator: computes the scores.
    """

    name: ClassVar[str]
    metric: ClassVar[str]  # the headline metric, which `per_class` has for each class
    headline: ClassVar[tuple[str, ...]]  # the metrics to print
    dataset_class: ClassVar[type[ImageReader]]
    outputs: ClassVar[tuple[str, ...]]  # names of `network_outputs`
    evaluator: Any
    criterion: Any  # a module; its buffer `class_weights`, (K,) or None, weighs the classes

    def __init__(self, model: nn.Module, config: TrainConfig, info: RunInfo, evaluator: Evaluator | None = None):
        super().__init__()
        self.model = model
        self.config = config
        self.info = info
        self.evaluator = evaluator
        self._frozen_modules: list[nn.Module] = []
        self.step_losses = StepLosses()
        self._single_value_norms = SingleValueNorms(model)
        self.trainer: Any = None  # Lightning's, once a training has begun
        self.with_errors = True  # whether this evaluation can be the last, whose errors are stored
        self._max_images = 0  # number of images that fit in memory in evaluation; 0 while no limit is known
        self.expected_draws: np.ndarray | None = None  # (N,) of each training image in an epoch; None: each once
        self.runtime: Network | None = None  # computes the outputs in place of `model`, which then has no values
        self.micro_batch = 0  # number of images of a batch that are processed at once; 0 for all of them
        self.part = Part()  # of the batch that is processed now
        self._has_gradients = False  # of earlier parts of the batch
        self.total_steps = 0  # Lightning's own count would set up its loaders before it restores their state
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.momentum = config.norm_momentum

    @property
    def device(self) -> torch.device:
        """Where the model is, or where its runtime computes: on the CPU."""
        return next(self.model.parameters()).device if self.runtime is None else torch.device("cpu")

    @property
    def current_epoch(self) -> int:
        """The epoch of the training, counted from 0."""
        return 0 if self.trainer is None else self.trainer.current_epoch

    @property
    def global_step(self) -> int:
        """Number of optimiser steps so far."""
        return 0 if self.trainer is None else self.trainer.global_step

    # --- building a task: for a new run, from a run, from published weights

    @classmethod
    def prepare(cls, config: Any, root: Path) -> tuple[Task, LabelledDataset, LabelledDataset]:
        """The task of a new run, and the training and validation images in the folder `root`.

        There are four steps. Each needs the results of earlier ones: `read` finds files, labels and classes; `build`
        creates the model, which needs the classes; `balance` computes what depends on the counts of labels; `datasets`
        adds the transforms, which need the normalisation of the model's weights.
        """
        config = config.with_files()
        train, val = cls.read(config, root)
        task = cls.build(config, root, train, val)
        task.balance(train)
        return task, *task.datasets(train, val)

    @classmethod
    def read(cls, config: Any, root: Path) -> tuple[Any, Any]:
        """Training images and images to score, without transforms, see `ImageReader.open_train_val`."""
        return cls.dataset_class.open_train_val(root, config.data, config.seed)

    @classmethod
    def build(cls, config: Any, root: Path, train: Any, val: Any, model: Any = None) -> Task:
        """The task of a new run, for the data that `read` returned. `model`: the network; by default a new one."""
        raise NotImplementedError

    def datasets(self, train: Any, val: Any) -> tuple[LabelledDataset, LabelledDataset]:
        """The data that `read` returned, with the transforms for training and evaluation."""
        raise NotImplementedError

    @classmethod
    def from_run(cls, info: RunInfo, state: dict[str, Tensor] | None, config: Any, model: Any = None) -> Task:
        """The task of a finished run.

        Args:
            info: description of the run, from its checkpoint.
            state: weights of the model, from its checkpoint. None to leave the model as it is built, for a task whose
                outputs a `runtime` computes.
            config: settings of `eval` or `predict`.
            model: the network, if it is built already; then `state` is not used.
        """
        raise NotImplementedError

    @classmethod
    def from_published(cls, file: Path, config: Any) -> Task:
        """The task for a weight file in a published format. Raises BadInput for any other file."""
        raise BadInput(f"{file} is not a checkpoint of this package")

    @classmethod
    def from_backbone(cls, name: str, config: Any) -> Task:
        """The task with a network's published weights. Raises UserError if a task has no published weights by name."""
        raise UserError(
            f"there are no published {cls.name} weights by name: pass a weight file as `checkpoint`",
            settings=("checkpoint",),
        )

    def eval_dataset(self, root: Path, data: EvalData) -> LabelledDataset:
        """The images that `data` selects in `root`, with the transform. Also sets `self.evaluator` for them.

        Without a split, they are the images that the training was scored on if `root` is the root of the training, else
        the validation split. Settings of reading that `data` does not have are those of the training.

        Raises BadInput if the data cannot be read or have a class that the model does not know.
        """
        stored, kind = self.config.data, self.dataset_class
        trained_on = self.info.dataset.get("root")
        same = trained_on is not None and root.resolve() == Path(trained_on).resolve()
        options = kind.options.of(data).over(kind.options.of(stored), same)
        levels, channels = self.info.preprocessing.get("levels"), Channels.to_score(self.info.preprocessing, options)
        if data.split is None and same:
            columns = read_scored(kind.kind, root, options, stored.holdout, self.config.seed)
        else:
            columns = read_split(kind.kind, root, data.split or "val", options, data.split is not None)
        warn_or_raise(left_out_files(columns))
        dataset = kind(columns, self.input_transform(), data.skip_bad, options, tuple(levels) if levels else None)
        dataset.channels = channels
        dataset.check_headers()
        dataset.check_scored()
        return self.score_on(dataset)

    def balance(self, train: ImageReader) -> None:
        """Compute the class weights and the expected draws of the images that `read` returned, if they are set.

        Raises BadInput if the setting `class_weights` does not have exactly the classes of the data.
        """
        weights = self.config.class_weights
        if weights == "none" and not self.config.data.balance:
            return
        labels = train.label_counts()
        if weights != "none":
            classes = self.info.classes
            listed = None if isinstance(weights, str) else np.array(in_order(weights, classes), np.float64)
            by_class = scaled(self.automatic_weights(labels) if listed is None else listed, labels)
            self.criterion.class_weights = torch.from_numpy(by_class).float()
            self.info.extra["class_weights"] = dict(zip(classes, by_class.tolist(), strict=True))
        if self.config.data.balance:
            self.expected_draws = self.draws_of(labels)

    def automatic_weights(self, labels: csr_array) -> np.ndarray:
        """(K,) class weights for `class_weights="auto"`, from the label counts, of any scale."""
        return effective_number_weights(labels)

    def draws_of(self, labels: csr_array) -> np.ndarray:
        """(N,) expected number of draws of each image in an epoch with `data.balance`, from the label counts."""
        return repeat_factors(labels)

    # --- training and scoring

    def losses(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Loss terms by name, scalars. Training minimises their sum.

        Args:
            images: (B, 3, H, W) normalised.
            batch: with labels.
        """
        return self.losses_of(self.model(images), (images.shape[-2], images.shape[-1]), batch)

    def losses_of(self, outputs: Any, size: tuple[int, int], batch: Batch) -> dict[str, Tensor]:
        """`losses` from what the model returns for the batch's images, whose (height, width) is `size`."""
        raise NotImplementedError

    def loaders(self, train: Any, val: Any, workers: int, rank: int, world: int) -> tuple[Any, Any]:
        """The batches for training and evaluation of process `rank` of `world`."""
        config = self.config
        return (
            train_loader(train, config.batch_size, config.seed, workers, True, self.expected_draws, rank, world),
            eval_loader(val, config.batch_size, workers, rank, world),
        )

    def data_changes(self, stored: RunInfo) -> list[str]:
        """What differs between this task's data and those of a stored run, in words."""
        return data_changes(stored, self.info)

    def take_over(self, stored: RunInfo) -> None:
        """Take from a stored run, which is resumed, what this task cannot know: the origin of its initial weights."""
        self.info.provenance = stored.provenance

    def mixed(self, images: Any, batch: Batch) -> tuple[Any, Batch]:
        """Normalised images and their batch, with images combined as in MixUp. By default they are unchanged."""
        return images, batch

    def loss_factors(self, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """The share of each part of a batch in each loss: loss name -> (P,) factors for P parts.

        The losses of the batch are the sums of the losses of its parts, multiplied by these factors. In losses that are
        not named each image has an equal share. In a distributed training, the parts are those of all processes.
        """
        return {}

    def with_most_labels(self, batch: Batch, train: Any) -> Batch:
        """A batch that needs the memory of the one with most labels in the training images. By default the batch."""
        return batch

    def predictions(self, images: Tensor, batch: Batch) -> Any:
        """Predictions for normalised images (B, 3, H, W), in original pixels, as the evaluator takes them."""
        raise NotImplementedError

    def predictions_to_score(self, images: Tensor, batch: Batch) -> Any:
        """The same for the evaluator, which may need more if `self.with_errors`."""
        return self.predictions(images, batch)

    def network_outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the network computes from normalised images (B, C, H, W), in the order of `outputs`."""
        raise NotImplementedError

    def computed(self, images: Tensor) -> tuple[Tensor, ...]:
        """The same, from the runtime if the task has one."""
        return self.network_outputs(images) if self.runtime is None else self.runtime(images)

    def run_by(self, network: Network) -> None:
        """Let a runtime compute the network's outputs. Raises UserError if the settings need other inputs than its."""
        self.runtime = network

    @property
    def has_results(self) -> bool:
        """Whether the runtime's outputs are results, see `Description.postprocess`."""
        return self.runtime is not None and self.runtime.description.postprocess

    @property
    def takes_photographs(self) -> bool:
        """Whether the runtime resizes and normalises images itself, see `Description.preprocess`."""
        return self.runtime is not None and self.runtime.description.preprocess

    def input_transform(self) -> Transform:
        """`transform`; or a transform that changes nothing, if the runtime takes photographs."""
        return unchanged if self.takes_photographs else self.transform()

    def final_layer(self) -> list[nn.Module]:
        """The modules that the protocol "linear" trains."""
        raise NotImplementedError

    def transform(self) -> Transform:
        """The transform from an image to the network's input in evaluation."""
        raise NotImplementedError

    def score_on(self, dataset: Any) -> Any:
        """The data set with the model's class indices. Also sets `self.evaluator` for it.

        Raises BadInput for a class that the model does not know.
        """
        raise NotImplementedError

    # --- results for people and scripts

    @property
    def monitor(self) -> str:
        """The metric that selects the best epoch."""
        return self.config.monitor or self.metric

    def per_class(self) -> dict[str, float]:
        """The headline metric of each class in the last evaluation, in 0..1."""
        return self.evaluator.per_class

    def class_table(self) -> dict[str, dict[str, float]]:
        """Scores of each class in the last evaluation, in 0..1, and its number of labels, an integer."""
        return self.evaluator.class_table()

    def write_results(self, folder: Path) -> None:
        """Write the results of the last evaluation for each class and each image.

        `per_class.json` has the headline metric of each class, `per_class.csv` the table of `class_table`.
        """
        write_json(folder / "per_class.json", self.per_class())
        write_class_table(folder / "per_class.csv", self.class_table())

    def what_went_wrong(self) -> dict[str, dict[str, Any]]:
        """The content of the result files on the errors of the last evaluation, by file name.

        `calibration.json` is `Reliability.document`. `errors.json` differs by task.
        """
        return {}

    def result(self, image: np.ndarray, predictions: Any) -> Any:
        """The predictions for one image, (H, W, 3) uint8 RGB, as a result object for use in Python."""
        raise NotImplementedError

    def prediction_records(self, predictions: Any, image_id: int) -> list[dict[str, Any]]:
        """The predictions for one image as plain values, for `predictions.json`."""
        raise NotImplementedError

    def picture(
        self, image: np.ndarray, predictions: Any, truth: Sample | None = None, config: Any = None
    ) -> np.ndarray:
        """Draw the predictions on one image, next to the ground truth if there is one. Returns (H, W, 3) uint8 RGB."""
        raise NotImplementedError

    def picture_indices(self, dataset: LabelledDataset, count: int) -> dict[str, int]:
        """File name -> index, for `count` validation images to draw after training. By default evenly spaced."""
        return {f"val-{index:05d}": index for index in evenly_spaced(len(dataset), count).tolist()}

    def pictures(self, dataset: LabelledDataset, count: int) -> Iterator[tuple[str, np.ndarray]]:
        """File name and picture (H, W, 3) uint8 RGB of validation images: ground truth and prediction, after training.

        The model is in evaluation mode.
        """
        for name, index in self.picture_indices(dataset, count).items():
            sample = dataset.with_transform(None)[index]
            batch = collate([dataset[index]]).to(self.device)
            with torch.inference_mode():
                predictions = self.predictions(self.normalised(batch), batch)
            yield name, self.picture(sample.image, predictions, truth=sample)

    def save(self, predictions: Any, path: Path) -> None:
        """Write further files that `predict` saves for one image. `path` has no suffix. By default none."""

    # --- shared by all tasks

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

    @property
    def channels(self) -> Channels | None:
        """How images other than 8-bit RGB are read, see `data.channels`; None for 8-bit RGB."""
        return Channels.stored(self.info.preprocessing)

    @property
    def fill(self) -> Fill:
        """The normalisation's mean as a pixel, RGB in 0..255 or in stored values. It is zero in the network's input."""
        if self.channels is not None:
            return self.channels.fill
        r, g, b = (round(255 * mean) for mean in self.info.preprocessing["mean"])
        return r, g, b

    def normalised(self, batch: Batch) -> Any:
        """The batch's images, normalised, (B, C, H, W) float32. Cached features are returned unchanged.

        So are photographs, if the runtime normalises them.
        """
        if isinstance(batch.images, CachedFeatures) or self.takes_photographs:
            return batch.images
        return normalised(batch.images, self.info.preprocessing)

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

    def score(self, batch: Batch) -> None:
        """Predict a batch and pass the predictions to the evaluator.

        If memory is too small, halve the number of images that are predicted at once, until they fit.
        """
        assert self.evaluator is not None
        while len(batch):
            part = batch[: self._max_images] if self._max_images else batch
            try:
                predictions = self.predictions_to_score(self.normalised(part), part)
            except (RuntimeError, MemoryError) as error:
                if len(part) == 1 or not out_of_memory(error):
                    raise
                predictions = None
            # Outside the except clause, where the traceback would keep the failed attempt's tensors alive.
            if predictions is None:
                self._max_images = len(part) // 2
                log.warning("out of memory with %d images at a time: continuing with %d", len(part), self._max_images)
                release_freed_memory()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            self.evaluator.update(predictions, part)
            batch = batch[len(part) :]

    @torch.inference_mode()
    def evaluate(self, loader: Iterable[Batch], precision: str = "fp32") -> dict[str, float]:
        """Score all batches of `loader` in `precision`: "fp32", "bf16" or "fp16". Returns the scores by metric."""
        assert self.evaluator is not None
        self.eval()
        self.evaluator.reset()
        self.with_errors = True
        with execution_for(self.device.type, precision, "eval").arithmetic(self.device.type):
            for batch in loader:
                self.score(batch.to(self.device))
        self._compute_scores()
        return self.scores

    def on_validation_epoch_start(self) -> None:
        assert self.evaluator is not None
        self.with_errors = self.current_epoch + 1 == self.config.epochs or self.config.patience > 0
        self.evaluator.reset()

    def on_validation_epoch_end(self) -> None:
        self._compute_scores()

    def _compute_scores(self) -> None:
        """Set `scores`. The first of several processes collects the predictions of all of them."""
        assert self.evaluator is not None
        if distributed.world() == 1:
            self.scores = self.evaluator.compute()
            return
        states = distributed.in_first(self.evaluator.state())
        error = None
        if states:
            self.evaluator.merge(states)
            try:
                self.scores = self.evaluator.compute()
            except BadInput as found:  # the others must not wait for scores
                error = found
        self.scores, error = distributed.from_first((getattr(self, "scores", {}), error))
        if error is not None:
            raise error

    def train(self, mode: bool = True) -> Task:
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
