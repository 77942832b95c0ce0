"""Measures the cost of the model that a cell trains, before it is trained."""

from __future__ import annotations

import math

import torch
from torch import nn

from backbones.base import blank_images
from backbones.compat import multiply_adds
from engine.execution import device_of
from engine.record import cost
from experiments.jobs.cell import Cell
from experiments.tasks import task_spec


class Meter:
    """Measures models as the `record.json` of their trainings will. The trainings share data and input size.

    Args:
        cell: one of the trainings. Its data are read to find the number of classes.
        timed: whether to measure latency too, on the device that the cell names.

    Raises UserError if there is no such device, BadInput if data are absent or bad.

    Attributes:
        size: height and width of the input in pixels. It may be set.
    """

    def __init__(self, cell: Cell, timed: bool) -> None:
        self.device, self.timed = device_of(cell.config.device), timed
        spec = task_spec(cell.task)
        info = spec.load_task().prepare(cell.config, spec.data_root(cell.config))[0].info
        self.classes = len(info.classes)
        height, width = info.preprocessing["size"]
        self.size = height, width

    @property
    def side(self) -> int:
        """Side in pixels of the square with the input's area."""
        return round(math.sqrt(math.prod(self.size)))

    def measure(self, cell: Cell) -> dict[str, float]:
        """Return `params` and `macs` of the cell's model for one image, and `latency_ms` if it is timed."""
        with torch.device("meta"):
            model = self.build(cell).eval()
            macs = multiply_adds(model, blank_images(model, *self.size))
        costs: dict[str, float] = {
            "params": sum(p.numel() for p in model.parameters()),
            "macs": macs,
        }
        if self.timed:
            model = self.build(cell).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            costs["latency_ms"] = cost(model, self.size, self.device)["latency_ms"]
        return costs

    def build(self, cell: Cell) -> nn.Module:
        """Build the model that a cell trains, with random weights."""
        return task_spec(cell.task).build_model(cell.config, self.classes)
