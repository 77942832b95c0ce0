"""Counts parameters and multiply-adds of published networks. Nothing is computed: models are on the meta device."""

from __future__ import annotations

from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from classification.model import create_classifier


@cache
def classifier_counts(backbone: str, image_size: int) -> dict[str, float]:
    """Return `params` and `macs` of a network as ImageNet classifier with 1000 classes.

    Args:
        backbone: name of the network.
        image_size: side of the square image in pixels, of which the multiply-adds are counted.
    """
    with torch.device("meta"), torch.no_grad():
        model = create_classifier(backbone, 1000).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, image_size, image_size))
    return {"params": sum(p.numel() for p in model.parameters()), "macs": counter.get_total_flops() / 2}
