"""Ratios of times that are stable on noisy machines: both sides run alternately, and the median ratio is used."""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
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
    """Call each once, then time both alternately. The ratio is above 1 if ours takes less time."""
    for warm_up in (ours, theirs):
        warm_up()
    return paired(work, peer, goal, lambda: timed(ours), lambda: timed(theirs), rounds, remark)


def compare_apart(
    work: str,
    peer: str,
    goal: float | None,
    ours: Callable[[], Work],
    theirs: Callable[[], Work],
    rounds: int = 7,
    remark: str = "",
    calls: int = 1,
) -> Row:
    """`compare` with a process for each side, so that allocator settings of one side do not affect the other.

    `ours` and `theirs` are functions of a module. Each builds the work of its side in the process of that side. A turn
    does the work `calls` times, because the first pass after the other side's turn finds cold caches.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []

    def asked(pipe: Connection) -> float:
        pipe.send(True)
        return pipe.recv()

    try:
        for build in (ours, theirs):
            pipe, other = context.Pipe()
            processes.append(context.Process(target=_serve, args=(other, build, calls), daemon=True))
            processes[-1].start()
            other.close()  # otherwise `recv` would wait forever if the process ends early
            pipe.recv()
            pipes.append(pipe)
        return paired(work, peer, goal, lambda: asked(pipes[0]), lambda: asked(pipes[1]), rounds, remark)
    finally:
        for process in processes:
            process.kill()


def _serve(pipe: Connection, build: Callable[[], Work], calls: int) -> None:
    """Build the work, do it once, and then send its time for each request, averaged over `calls`."""
    work = build()
    work()
    pipe.send(None)
    while pipe.recv():
        pipe.send(sum(timed(work) for _ in range(calls)) / calls)


def paired(
    work: str,
    peer: str,
    goal: float | None,
    ours: Callable[[], float],
    theirs: Callable[[], float],
    rounds: int,
    remark: str,
) -> Row:
    """The row of two functions that are called alternately and return seconds."""
    pairs = [(theirs(), ours()) for _ in range(rounds)]
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
