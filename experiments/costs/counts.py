"""Parameters and multiply-adds of published networks, counted without weights or arithmetic."""

from __future__ import annotations

from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from classification.model import create_classifier


@cache
def classifier_counts(backbone: str, image_size: int) -> dict[str, float]:
    """`params` and `macs` of a network as ImageNet classifier, counted without weights or arithmetic."""
    with torch.device("meta"), torch.no_grad():
        model = create_classifier(backbone, 1000).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, image_size, image_size))
    return {"params": sum(p.numel() for p in model.parameters()), "macs": counter.get_total_flops() / 2}
