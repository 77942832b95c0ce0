"""Counts parameters and multiply-adds of published networks. Nothing is computed: models are on the meta device."""

from __future__ import annotations

from functools import cache

import torch

from backbones.compat import multiply_adds
from classification.build import create_classifier


@cache
def classifier_counts(backbone: str, image_size: int) -> dict[str, float]:
    """Return `params` and `macs` of a network as ImageNet classifier with 1000 classes.

    Args:
        backbone: name of the network.
        image_size: side of the square image in pixels, of which the multiply-adds are counted.
    """
    with torch.device("meta"):
        model = create_classifier(backbone, 1000).eval()
        macs = multiply_adds(model, torch.zeros(1, 3, image_size, image_size))
    return {"params": sum(p.numel() for p in model.parameters()), "macs": macs}
