"""`record.json`: all facts about a finished run that comparisons use."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backbones.base import blank_images
from backbones.compat import multiply_adds
from backbones.version import package_version

PACKAGES = ("torch", "torchvision", "timm", "lightning", "albumentations", "opencv-python-headless", "numpy")
WARMUP, REPEATS = 3, 10
PATIENCE = 3.0  # seconds in which another program should have closed a file
OPEN_ELSEWHERE = (errno.EACCES, errno.EPERM, errno.EBUSY, errno.ETXTBSY)
SHARED = "BACKBONE_SWAP_SHARED"  # environment variable of trainings that share the machine with others


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write `content` to `path` atomically. NaN and infinity become null, because JSON cannot represent them."""
    write_text(path, json.dumps(plain(content), indent=indent, allow_nan=False) + "\n")


def write_class_table(path: Path, table: Mapping[str, Mapping[str, float]]) -> None:
    """Write scores by class as CSV: one line per class, its name in the column `class`. Undefined scores are empty."""
    text = io.StringIO()
    columns = next(iter(table.values()), {})
    writer = csv.DictWriter(text, ["class", *columns], lineterminator="\n")
    writer.writeheader()
    for name, row in table.items():
        writer.writerow({"class": name} | {column: "" if value != value else value for column, value in row.items()})
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically: after a crash the file has either its old or its new content."""
    _replaced(path, lambda file: file.write_text(text))


def write_bytes(path: Path, content: bytes) -> None:
    """The same for bytes."""
    _replaced(path, lambda file: file.write_bytes(content))


def replace_file(source: Path, target: Path) -> None:
    """Rename a file to `target`, which it replaces.

    Windows and some network drives do not replace a file that another program has open, such as a backup or a virus
    scanner. That is tried again for some seconds. Raises OSError if it fails.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            source.replace(target)
            return
        except OSError as error:
            if error.errno not in OPEN_ELSEWHERE or time.monotonic() >= until:
                raise
            time.sleep(0.1)


def _replaced(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        replace_file(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def cost(model: nn.Module, size: tuple[int, int], device: torch.device) -> dict[str, float]:
    """Measure the cost of the network for one image of `size` (height, width), in the precision of its weights.

    Returns `params`, the number of parameters; `macs`, the multiply-adds of convolutions and matrix products, which are
    half of PyTorch's FLOP count; `latency_ms`, the median time at batch size 1; `images_per_second`, its inverse; and
    `timed_alone`, whether no other training of the same experiment ran at the same time.
    """
    training = model.training
    model.eval()
    images = blank_images(model, *size, device=device).to(memory_format=torch.channels_last)
    times = []
    with torch.inference_mode():
        macs = multiply_adds(model, images)
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
        "macs": macs,
        "timed_alone": SHARED not in os.environ,
        "latency_ms": 1000 * latency,
        "images_per_second": 1 / latency,
    }


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory of this process so far, in MiB: allocated on the GPU, or resident in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if device.type == "mps":
        # torch has no peak there: this is the memory that Metal holds now, which torch rarely frees.
        return torch.mps.driver_allocated_memory() / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would include the peak of the parent process
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**10
    if sys.platform == "win32":
        return float("nan")  # the standard library does not know it there; null in the record
    import resource

    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    return resident / (2**20 if sys.platform == "darwin" else 2**10)


def surroundings(device: torch.device, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Device, package versions, git commit and command line, which are needed to reproduce the run."""
    packages = {name: metadata.version(name) for name in PACKAGES}
    return {
        "device": {"type": device.type, "name": device_name(device), "threads": torch.get_num_threads()},
        "versions": {"backbone-swap": package_version(), "python": platform.python_version(), **packages},
        "git_commit": _git_commit(),
        "command_line": shlex.join(argv if argv is not None else command_line()),
    }


def command_line() -> list[str]:
    """The command of this process as a list of words, as a user would type it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["python", "-m", spec.name.removesuffix(".__main__")] if spec else ["python", sys.argv[0]]
    return program + sys.argv[1:]


def _git_commit() -> str | None:
    """The current git commit of this code, with `+` if files have changed since. None outside a git checkout."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")


def device_name(device: torch.device) -> str:
    """The name of the card or the processor. A Mac's GPU is part of its processor and has the same name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def synchronize(device: torch.device) -> None:
    """Wait until all work on the device is complete."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
