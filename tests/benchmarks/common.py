"""Ratios to a peer that hold on noisy machines: both run in turns, and the median of their ratios counts."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

Work = Callable[[], Any]


@dataclass
class Row:
    """One line of the table; times in seconds."""

    work: str
    peer: str
    goal: float | None
    ratio: float
    ours: float
    theirs: float
    remark: str = ""


def compare(
    work: str, peer: str, goal: float | None, ours: Work, theirs: Work, rounds: int = 7, remark: str = ""
) -> Row:
    """Time both in turns after one call each; the ratio is above 1 where ours takes less time."""
    for warm_up in (ours, theirs):
        warm_up()
    pairs = [(timed(theirs), timed(ours)) for _ in range(rounds)]
    ratio = statistics.median(a / b for a, b in pairs)
    row = Row(work, peer, goal, ratio, *(statistics.median(pair[i] for pair in pairs) for i in (1, 0)), remark)
    print(f"{work}: {row.ours:.4g} s against {row.theirs:.4g} s, {ratio:.2f}x", flush=True)
    return row


def timed(work: Work) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def machine() -> str:
    """Processor, threads and versions, in words."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), model)
    packages = []
    for name in ("torch", "torchvision", "timm", "effdet", "segmentation-models-pytorch", "openvino", "pycocotools"):
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            packages.append(f"{name} not installed")
    return f"{model}, {torch.get_num_threads()} threads; Python {platform.python_version()}, {', '.join(packages)}"
