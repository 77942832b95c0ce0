"""Training with batches in which a batch norm receives one value per channel.

This happens with one image per batch, where a map has a single pixel: after global pooling, in the coarsest level of a
pyramid, or in a backbone with a small input. A variance cannot be estimated from one value: torch raises an error, or
updates the running statistics with NaN. For such a batch, these norms use their running statistics and do not update
them, as in evaluation. All other norms and batches are computed as usual.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import CachedFeatures
from engine.compat import BatchNorm, without_compilation

log = logging.getLogger(__name__)


class SingleValueNorms:
    """Finds the batch norms of a model that receive one value per channel.

    Args:
        model: takes images (B, 3, H, W) or cached features. Which norms receive one value depends on B, H and W only.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._found: dict[Any, list[nn.Module]] = {}  # by the shape of the batch
        self._warned = False

    def in_evaluation_mode(self, images: Tensor | CachedFeatures) -> AbstractContextManager[None]:
        """A context for a training step on `images`: it sets these norms to evaluation mode, and then back.

        With several images no norm receives one value, and nothing is done.
        """
        return nullcontext() if len(images) > 1 else self._switched(images)

    @contextmanager
    def _switched(self, images: Tensor | CachedFeatures) -> Iterator[None]:
        shape = type(images), tuple(images.shape)
        if shape not in self._found:
            self._found[shape] = self._find(images)
            self._warn(len(self._found[shape]))
        norms = [norm for norm in self._found[shape] if norm.training]
        try:
            for norm in norms:
                norm.training = False
            yield
        finally:
            for norm in norms:
                norm.training = True

    def _warn(self, count: int) -> None:
        if count and not self._warned:
            self._warned = True
            total = sum(isinstance(module, BatchNorm) for module in self.model.modules())
            log.warning(
                "in batches of one image, %d of %d batch norms receive one value per channel. They use their running "
                "statistics for these batches and do not update them. To avoid this, increase --batch_size or "
                "--image_size",
                count,
                total,
            )

    @torch.no_grad()
    def _find(self, images: Tensor | CachedFeatures) -> list[nn.Module]:
        """The norms that are in training mode and receive one value per channel for a batch of this shape.

        Runs the model once in evaluation mode, which changes no statistics and draws no random numbers.
        """
        training = [module for module in self.model.modules() if module.training]
        found = []

        def check(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].numel() == inputs[0].shape[1]:  # B = 1, and one pixel
                found.append(norm)

        handles = [
            module.register_forward_pre_hook(check)
            for module in training
            if isinstance(module, BatchNorm) and module.running_mean is not None
        ]
        self.model.eval()
        try:
            with without_compilation():
                self.model(images)
        finally:
            for handle in handles:
                handle.remove()
            for module in training:
                module.training = True
            torch.clear_autocast_cache()  # it may hold copies of weights that were made without gradients
        return found
