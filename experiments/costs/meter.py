"""What a training's network costs, known before it is trained."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from engine.record import cost
from engine.trainer import device_of
from experiments.jobs.cell import Cell
from experiments.tasks import task_spec


class Meter:
    """Measures the models of trainings that share data and input size with `cell`, as their `record.json` will.

    Args:
        cell: one of them; its data are read, for the number of classes.
        timed: whether to measure latency as well, in milliseconds, on the device that the cell names.

    Raises UserError where there is no such device, BadInput where data are absent or bad.
    """

    def __init__(self, cell: Cell, timed: bool) -> None:
        self.device, self.timed = device_of(cell.config.device), timed
        spec = task_spec(cell.task)
        info = spec.load_task().prepare(cell.config, spec.data_root(cell.config))[0].info
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
        return task_spec(cell.task).build_model(cell.config, self.classes)
