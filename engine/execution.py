"""How networks are run: one table by device, precision and purpose. Nothing is tried out at run time.

`make bench` measures the rows against what else could stand there, see docs/performance.md. What is the same everywhere
is no column: images and weights are channels-last, optimisers are fused.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from backbones.errors import UserError
from backbones.inference import DTYPES, prepare_for_inference
from engine.memory import keep_freed_memory

Purpose = Literal["train", "eval", "predict"]


@dataclass(frozen=True)
class Execution:
    """A row of the table.

    precision: what was asked for.
    mixed: operations that bear it compute in that precision, and weights stay float32.
    folded: batch norms are part of the convolutions before them, and weights are stored in that precision. Evaluation
        leaves them alone: scores of a run are to come out the same, to the last digit, whenever it is scored again.
    keeps_memory: large blocks that are freed are kept for the next step, see `keep_freed_memory`.
    """

    precision: str
    mixed: bool
    folded: bool
    keeps_memory: bool

    def begin(self) -> None:
        """Set the process up; once, before the work."""
        if self.keeps_memory:
            keep_freed_memory()

    def place(self, model: nn.Module) -> nn.Module:
        """The model as it is run: itself in another memory format, or a folded copy."""
        if self.folded:
            return prepare_for_inference(model, self.precision)
        return model.to(memory_format=torch.channels_last)

    def arithmetic(self, device: str) -> AbstractContextManager:
        """A context for the network's work on a device of that type."""
        # Folded networks convert what they are called with, but some work goes through other methods of theirs.
        return nullcontext() if self.precision == "fp32" else torch.autocast(device, DTYPES[self.precision])

    @property
    def lightning(self) -> str:
        """`precision` of Lightning's Trainer."""
        return {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[self.precision]

    def __str__(self) -> str:
        parts = [
            f"{self.precision}{' where it suffices' if self.mixed else ''}",
            "channels-last",
            *(["batch norms folded"] if self.folded else []),
            *(["freed memory kept"] if self.keeps_memory else []),
        ]
        return ", ".join(parts)


PLAIN, MIXED, FOLDED = (False, False), (True, False), (False, True)  # mixed, folded
GLIBC, OWN = True, False  # whose memory: a process's own, or the device's, whose allocator keeps it anyway

# fmt: off
TABLE = {
    # device, precision:  train               eval                predict
    ("cpu", "fp32"):  ((*PLAIN, GLIBC),   (*PLAIN, GLIBC),   (*FOLDED, GLIBC)),
    ("cpu", "bf16"):  ((*MIXED, GLIBC),   (*MIXED, GLIBC),   (*FOLDED, GLIBC)),
    ("cuda", "fp32"): ((*PLAIN, OWN),     (*PLAIN, OWN),     (*FOLDED, OWN)),
    ("cuda", "bf16"): ((*MIXED, OWN),     (*MIXED, OWN),     (*FOLDED, OWN)),
    ("cuda", "fp16"): ((*MIXED, OWN),     (*MIXED, OWN),     (*FOLDED, OWN)),
    ("mps", "fp32"):  ((*PLAIN, OWN),     (*PLAIN, OWN),     (*FOLDED, OWN)),
    ("mps", "fp16"):  ((*MIXED, OWN),     (*MIXED, OWN),     (*FOLDED, OWN)),
}
# fmt: on


def execution_for(device: str, precision: str, purpose: Purpose) -> Execution:
    """The row for a type of device. Raises UserError where there is none."""
    row = TABLE.get((device, precision))
    if row is None:
        known = " or ".join(other for kind, other in TABLE if kind == device)
        if not known:
            raise UserError(f"--device {device}: nothing is known of such devices, use cpu, cuda or mps")
        raise UserError(f"--precision {precision} is not for --device {device}: use {known}")
    return Execution(precision, *row[("train", "eval", "predict").index(purpose)])
