"""Limits of the hardware: measured rates, the time of D0 at these rates, and its images/s in several settings."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from backbones import prepare_for_inference
from detection.model import create_detector
from engine.execution import execution_for
from tests.benchmarks.common import timed


def rates() -> dict[str, float]:
    """Rates of this machine: GFLOP/s of matrix products (two operations per multiply-add) and GB/s of copies."""
    side = 2048
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
        a @ b
        seconds = min(timed(lambda a=a, b=b: a @ b) for _ in range(7))
        found[f"GFLOP/s in {name} matrix products"] = 2 * side**3 / seconds / 1e9
    block, target = torch.randn(2**26), torch.empty(2**26)
    target.copy_(block)
    seconds = min(timed(lambda: target.copy_(block)) for _ in range(7))
    found["GB/s read and written in copies"] = 2 * block.nbytes / seconds / 1e9
    return found


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write if nothing stays in caches. Views move no bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        aliases = [value.alias_info for value in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in aliases):
            self.bytes += sum(t.numel() * t.itemsize for t in tree_leaves((args, result)) if isinstance(t, Tensor))
        return result


def bounds(found: dict[str, float]) -> list[str]:
    """For D0 at 512 px: the time of its arithmetic, and of its reads and writes, at the measured rates."""
    lines = []
    for precision in ("fp32", "bf16"):
        model = prepare_for_inference(create_detector("efficientnet_b0", 90).eval(), precision)
        images = torch.randn(1, 3, 512, 512).to(memory_format=torch.channels_last)
        with torch.no_grad(), FlopCounterMode(display=False) as flops:
            model(images)
        with torch.no_grad(), Traffic() as traffic:
            model(images)
        arithmetic = 1e-6 * flops.get_total_flops() / found[f"GFLOP/s in {precision} matrix products"]
        moved = 1e-6 * traffic.bytes / found["GB/s read and written in copies"]
        lines.append(
            f"- {precision}: {flops.get_total_flops() / 1e9:.1f} GFLOP take {arithmetic:.0f} ms as one large matrix "
            f"product. Its operations read and write {traffic.bytes / 1e9:.2f} GB, which takes {moved:.0f} ms at the "
            f"rate of a copy. Without overlap, both take {arithmetic + moved:.0f} ms."
        )
    return lines


def throughput() -> list[str]:
    """Images/s of D0 as `predict` runs it, against batch, size and threads, as lines of text."""
    setting = execution_for("cpu", "fp32", "predict")
    setting.begin()
    model = setting.place(create_detector("efficientnet_b0", 90).eval())
    threads = torch.get_num_threads()
    points = [(batch, 512, threads) for batch in (1, 4, 16)]
    points += [(1, size, threads) for size in (256, 1024)] + [(1, 512, count) for count in range(1, threads)]
    lines = []
    for batch, size, count in points:
        torch.set_num_threads(count)
        images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            model(images)
            seconds = statistics.median(timed(lambda x=images: model(x)) for _ in range(5))
        used = f"{count} thread{'s' if count > 1 else ''}"
        lines.append(f"| D0, batch {batch}, {size} px, {used}, fp32 | {batch / seconds:.1f} images/s |")
    torch.set_num_threads(threads)
    return lines
