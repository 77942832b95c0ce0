"""Cross entropy, with MixUp and CutMix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classification.transforms import seeded
from engine import distributed


class ClassificationLoss(nn.Module):
    """Cross entropy with label smoothing, MixUp (arXiv:1710.09412) and CutMix (arXiv:1905.04899).

    Args:
        num_classes: number of classes K.
        label_smoothing: fraction of the target that is spread evenly over all classes, in 0..1.
        mixup, cutmix: alpha of the beta distribution of the mixing ratio; 0 disables the method. If both are enabled,
            each batch uses one of them at random.

    Attributes:
        class_weights: (K,) weights of the classes, or None. With weights the loss is a weighted mean over the images.
    """

    class_weights: Tensor | None

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, mixup: float = 0.0, cutmix: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", None, persistent=False)
        self._mixes = []
        if mixup or cutmix:
            from torchvision.transforms import v2  # takes a second to import

            self._mixes = [
                mix(alpha=alpha, num_classes=num_classes)
                for mix, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix))
                if alpha
            ]

    @property
    def mixes(self) -> bool:
        """Whether MixUp or CutMix is enabled."""
        return bool(self._mixes)

    def mix(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Apply MixUp or CutMix to a batch. If both are disabled, return the arguments unchanged.

        Args:
            images: (B, 3, H, W).
            labels: (B,) class indices.
            seed: determines all random draws.

        Returns:
            Images (B, 3, H, W) and class probabilities (B, K).
        """
        if not self.mixes:
            return images, labels
        if distributed.world() > 1:
            # Each image is mixed with the one before it in the batch. That of the first one is in another process.
            images, labels = (torch.cat([_before(values), values]) for values in (images, labels))
        with seeded(seed):
            images, labels = self._mixes[int(torch.randint(len(self._mixes), ()))](images, labels)
        return (images[1:], labels[1:]) if distributed.world() > 1 else (images, labels)

    def forward(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Logits (B, K) and class indices (B,) or class probabilities (B, K) -> `cross_entropy`, a scalar."""
        weights = self.class_weights
        loss = F.cross_entropy(logits, targets, weights, label_smoothing=self.label_smoothing)
        if weights is not None:
            total = self.count(targets)
            if targets.is_floating_point():
                # torch divides by the sum of the targets' weights for class indices, but by the number of images here.
                loss = loss * len(targets) / total
            loss = loss * distributed.share(total)
        return {"cross_entropy": loss}

    def count(self, targets: Tensor) -> Tensor:
        """What a batch adds to the number that the loss is divided by: the sum of its images' weights."""
        weights = self.class_weights
        if weights is None:
            return targets.new_tensor(len(targets), dtype=torch.float32)
        return (targets @ weights if targets.is_floating_point() else weights[targets]).sum()


def _before(values: Tensor) -> Tensor:
    """The last value of the process before this one, whose values precede this process's; (1, ...)."""
    return distributed.whole_batch(values[-1:])[distributed.rank() - 1][None]
