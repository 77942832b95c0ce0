"""`record.json`: everything a comparison needs to know about a finished run."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

PACKAGES = ("torch", "torchvision", "timm", "lightning", "albumentations", "opencv-python-headless", "numpy")
WARMUP, REPEATS = 3, 10


def write_json(path: Path, content: Any) -> None:
    """Write beside the target and rename; NaN, which JSON has no word for, becomes null."""
    write_text(path, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write beside the target and rename: the file is the old one or the new one, whatever happens."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def cost(model: nn.Module, size: tuple[int, int], device: torch.device) -> dict[str, float]:
    """What one image of `size` (height, width) costs.

    `params`; `macs`, multiply-adds of convolutions and matrix products (half of PyTorch's FLOP count); `latency_ms`,
    the median time of the network alone at batch 1 in the precision of its weights; `images_per_second`, its inverse.
    """
    training = model.training
    model.eval()
    images = torch.zeros(1, 3, *size, device=device).to(memory_format=torch.channels_last)
    times = []
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            model(images)
        for i in range(WARMUP + REPEATS):
            synchronize(device)
            start = time.perf_counter()
            model(images)
            synchronize(device)
            if i >= WARMUP:
                times.append(time.perf_counter() - start)
    model.train(training)
    latency = statistics.median(times)
    return {
        "params": sum(p.numel() for p in model.parameters()),
        "macs": counter.get_total_flops() // 2,
        "latency_ms": 1000 * latency,
        "images_per_second": 1 / latency,
    }


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory so far, in MiB: allocated on a GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the process that started this one had taken before
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**10
    if sys.platform == "win32":
        return float("nan")  # the standard library does not know it there; null in the record
    import resource

    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    return resident / (2**20 if sys.platform == "darwin" else 2**10)


def surroundings(device: torch.device, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Device, versions, git commit and command line: what it takes to repeat the run."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": {"type": device.type, "name": name, "threads": torch.get_num_threads()},
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
        "command_line": shlex.join(argv if argv is not None else command_line()),
    }


def command_line() -> list[str]:
    """The words of this process's command, as a person would type them."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["python", "-m", spec.name.removesuffix(".__main__")] if spec else ["python", sys.argv[0]]
    return program + sys.argv[1:]


def _git_commit() -> str | None:
    """The commit this code stands at, with `+` where files were changed since; None outside a checkout."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")


def synchronize(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
