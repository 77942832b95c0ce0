"""The rows of `engine.execution` for this machine, compared with alternatives, on D0."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from backbones import prepare_for_inference
from detection.model import create_detector
from engine.execution import Purpose, execution_for
from engine.memory import keep_freed_memory
from tests.benchmarks.common import Work, compare_apart

BATCHES = {"train": (8, 256), "eval": (8, 512), "predict": (1, 512)}  # images, and their side in px


@dataclass(frozen=True)
class Way:
    """One way to run D0."""

    purpose: Purpose
    precision: str = "fp32"
    channels_last: bool = True
    folded: bool = False
    keeps_memory: bool = True

    def build(self) -> Work:
        """One step, or one pass."""
        if self.keeps_memory:
            keep_freed_memory()
        torch.manual_seed(0)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        batch, side = BATCHES[self.purpose]
        images = torch.randn(batch, 3, side, side).to(memory_format=layout)
        model = create_detector("efficientnet_b0", 20).to(memory_format=layout)
        mixed = torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16" and not self.folded)
        if self.purpose == "train":
            boxes, labels = torch.tensor([[[10.0, 10, 100, 100]]]).repeat(batch, 1, 1), torch.zeros(batch, 1).long()
            optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

            def step() -> None:
                optimizer.zero_grad()
                with mixed:
                    losses = model.loss(images, boxes, labels)
                torch.stack(list(losses.values())).sum().backward()
                optimizer.step()

            return step
        network = prepare_for_inference(model, self.precision) if self.folded else model.eval()
        network.to(memory_format=layout)

        def see() -> None:
            with torch.inference_mode(), mixed:
                network(images)

        return see


def table() -> list[str]:
    """Lines of Markdown: each row of the table, and the time of each alternative relative to it."""
    lines = ["| cpu | settings | time | time of alternatives, relative to ours |", "|---|---|---|---|"]
    for purpose, (batch, side) in BATCHES.items():
        for precision in ("fp32", "bf16"):
            setting = execution_for("cpu", precision, purpose)
            ours = Way(purpose, precision, folded=setting.folded, keeps_memory=setting.keeps_memory)
            others = {
                "not channels-last": replace(ours, channels_last=False),
                "freed memory returned to the system": replace(ours, keeps_memory=False),
            }
            if setting.folded:
                others["batch norms not folded"] = replace(ours, folded=False)
            if precision == "bf16":
                others["fp32"] = replace(ours, precision="fp32")
            ratios, seconds = [], 0.0
            for name, other in others.items():
                row = compare_apart(
                    f"settings, {purpose}, {precision}", name, None, partial(Way.build, ours),
                    partial(Way.build, other), rounds=3 if purpose == "train" else 5,
                )  # fmt: skip
                ratios.append(f"{row.ratio:.2f} {name}")
                seconds = row.ours
            lines.append(
                f"| {purpose}, {precision}, batch {batch} at {side} px | {setting} | {1e3 * seconds:.0f} ms | "
                f"{', '.join(ratios)} |"
            )
    return lines
