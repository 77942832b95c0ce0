"""Cross-entropy, and the mixing of images that goes with it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from classification.transforms import seeded


class ClassificationLoss(nn.Module):
    """Cross-entropy with label smoothing, on images that MixUp (arXiv:1710.09412) or CutMix (arXiv:1905.04899) blends.

    Args:
        num_classes: K.
        label_smoothing: share of the target that is spread over all classes, in 0..1.
        mixup, cutmix: alpha of the beta distribution that shares are drawn from; 0 turns one off. Where both are on,
            each batch takes one of them at random.
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, mixup: float = 0.0, cutmix: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self._mixes = [
            mix(alpha=alpha, num_classes=num_classes)
            for mix, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix))
            if alpha
        ]

    def mix(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and class indices (B,) -> blended images and shares of classes (B, K), by `seed` alone.

        Both are returned as they are where nothing is to be blended.
        """
        if not self._mixes:
            return images, labels
        with seeded(seed):
            return self._mixes[int(torch.randint(len(self._mixes), ()))](images, labels)

    def forward(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Logits (B, K) and class indices (B,) or shares (B, K) -> `cross_entropy`, a scalar."""
        return {"cross_entropy": F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)}
