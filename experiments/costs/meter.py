"""What a training's network costs, known before it is trained."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from classification.model import create_classifier
from data.demo.writer import demo_root
from detection.model import create_detector
from engine.record import cost
from engine.trainer import device_of
from experiments.jobs.cell import Cell
from segmentation.model import create_segmenter


class Meter:
    """Measures the models of trainings that share data and input size with `cell`, as their `record.json` will.

    Args:
        cell: one of them; its data are read, for the number of classes.
        timed: whether to measure latency as well, in milliseconds, on the device that the cell names.

    Raises UserError where there is no such device, BadInput where data are absent or bad.
    """

    def __init__(self, cell: Cell, timed: bool) -> None:
        self.device, self.timed = device_of(cell.config.device), timed
        kind = getattr(import_module(f"{cell.task}.task"), f"{cell.task.capitalize()}Task")
        root = cell.config.data.root
        info = kind.prepare(cell.config, Path(root) if root else demo_root(cell.task))[0].info
        self.classes = len(info.classes)
        height, width = info.preprocessing["size"]
        self.size = height, width

    def __call__(self, cell: Cell) -> dict[str, float]:
        """`params`, `macs` and perhaps `latency_ms` of one image; the first two are counted without arithmetic."""
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            model = self.build(cell).eval()
            model(torch.zeros(1, 3, *self.size))
        found: dict[str, float] = {
            "params": sum(p.numel() for p in model.parameters()),
            "macs": counter.get_total_flops() // 2,
        }
        if self.timed:
            model = self.build(cell).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            found["latency_ms"] = cost(model, self.size, self.device)["latency_ms"]
        return found

    def build(self, cell: Cell) -> nn.Module:
        """The model that a cell trains, with random weights."""
        config: Any = cell.config
        if cell.task == "classification":
            return create_classifier(config.backbone, self.classes, neck=config.neck)
        if cell.task == "detection":
            return create_detector(config.backbone, self.classes, config.phi, config.neck, style=config.style)
        return create_segmenter(config.backbone, self.classes, config.decoder, config.phi)
