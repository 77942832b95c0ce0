"""How networks are run: one table by device, precision and purpose. Nothing is benchmarked at run time.

`make bench` compares each row with its alternatives, see docs/performance.md. Settings that are the same in all
rows have no column: images and weights are channels-last, and optimisers are fused.
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
    """One entry of the table.

    Attributes:
        precision: "fp32", "bf16" or "fp16".
        mixed: mixed precision. Weights stay float32; operations that tolerate it compute in `precision`.
        folded: batch norm is folded into the convolutions before it, and weights are stored in `precision`. Evaluation
            does not fold, so that scoring a run again returns the same scores to the last digit.
        keeps_memory: large blocks of freed memory are reused, see `keep_freed_memory`.
    """

    precision: str
    mixed: bool
    folded: bool
    keeps_memory: bool

    def begin(self) -> None:
        """Configure the process. Call it once, before the first tensor is allocated."""
        if self.keeps_memory:
            keep_freed_memory()

    def place(self, model: nn.Module) -> nn.Module:
        """The model to run: `model` itself, converted to channels-last, or a folded copy."""
        if self.folded:
            return prepare_for_inference(model, self.precision)
        return model.to(memory_format=torch.channels_last)

    def arithmetic(self, device: str) -> AbstractContextManager:
        """The autocast context for this precision on a device of type `device`, such as "cpu"."""
        # A folded network converts the inputs of its `forward`, but a task may call other methods of the network.
        return nullcontext() if self.precision == "fp32" else torch.autocast(device, DTYPES[self.precision])

    @property
    def lightning(self) -> str:
        """The `precision` argument of Lightning's Trainer."""
        return {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[self.precision]

    def __str__(self) -> str:
        parts = [
            f"{self.precision} mixed precision" if self.mixed else self.precision,
            "channels-last",
            *(["batch norm folded"] if self.folded else []),
            *(["freed memory reused"] if self.keeps_memory else []),
        ]
        return ", ".join(parts)


PLAIN, MIXED, FOLDED = (False, False), (True, False), (False, True)  # mixed, folded
# Tensors on the CPU come from glibc. Those on a GPU come from an allocator of their own, which reuses freed memory.
GLIBC, GPU = True, False  # keeps_memory

# fmt: off
TABLE = {
    # device, precision:  train               eval                predict
    ("cpu", "fp32"):  ((*PLAIN, GLIBC),   (*PLAIN, GLIBC),   (*FOLDED, GLIBC)),
    ("cpu", "bf16"):  ((*MIXED, GLIBC),   (*MIXED, GLIBC),   (*FOLDED, GLIBC)),
    ("cuda", "fp32"): ((*PLAIN, GPU),     (*PLAIN, GPU),     (*FOLDED, GPU)),
    ("cuda", "bf16"): ((*MIXED, GPU),     (*MIXED, GPU),     (*FOLDED, GPU)),
    ("cuda", "fp16"): ((*MIXED, GPU),     (*MIXED, GPU),     (*FOLDED, GPU)),
    ("mps", "fp32"):  ((*PLAIN, GPU),     (*PLAIN, GPU),     (*FOLDED, GPU)),
    ("mps", "fp16"):  ((*MIXED, GPU),     (*MIXED, GPU),     (*FOLDED, GPU)),
}
# fmt: on


def execution_for(device: str, precision: str, purpose: Purpose) -> Execution:
    """The table's entry for a device type, such as "cpu". Raises UserError if the table has none."""
    row = TABLE.get((device, precision))
    if row is None:
        known = " or ".join(other for kind, other in TABLE if kind == device)
        if not known:
            raise UserError(f"`device={device}` is not supported: use cpu, cuda or mps", settings=("device",))
        raise UserError(
            f"`precision={precision}` is not supported with `device={device}`: use {known}",
            settings=("precision", "device"),
        )
    return Execution(precision, *row[("train", "eval", "predict").index(purpose)])


def device_of(name: str) -> torch.device:
    """The device for "auto", "cpu", "cuda", "cuda:N" or "mps". Raises UserError if this machine has no such device."""
    if name == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"`device={name}` is not available: {str(error).splitlines()[0]}", settings=("device",)
        ) from error
    return device
