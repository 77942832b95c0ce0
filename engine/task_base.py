"""The parts of a task that training, scoring and prediction share: its model, settings and hooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from backbones.base import CachedFeatures
from data.batch import Batch, Sample
from data.channels import Channels, normalised
from data.protocols import Transform
from data.reader import ImageReader
from data.resizing import Fill
from engine.checkpoint import RunInfo
from engine.compat import BatchNorm
from engine.config import TrainConfig
from engine.divergence import StepLosses
from engine.draws import Part
from engine.evaluator import Evaluator
from engine.runtimes.files import Network
from engine.single_values import SingleValueNorms


def unchanged(sample: Sample, seed: int) -> Sample:
    """The transform that changes nothing."""
    return sample


class TaskBase(nn.Module):
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

    @property
    def monitor(self) -> str:
        """The metric that selects the best epoch."""
        return self.config.monitor or self.metric

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
