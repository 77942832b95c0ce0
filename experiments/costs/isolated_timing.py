"""Time and memory of a classifier by itself, on one core.

`python -m experiments.costs.isolated_timing NETWORK SIZE PASSES` prints them as JSON. Each network gets a process of
its own, since memory that earlier networks left behind would be counted as this one's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

from backbones.errors import BadInput


@dataclass(frozen=True)
class Cost:
    """One image at a time.

    Attributes:
        seconds: of each timed pass.
        peak_memory_mb: of the process, MiB; start_memory_mb of that before the network was built.
    """

    seconds: list[float]
    peak_memory_mb: float
    start_memory_mb: float


def measure(network: str, image_size: int, passes: int = 1) -> Cost:
    """The cost of a network with random weights, square images of `image_size` px, batch 1, fp32, one core.

    Raises BadInput where the process fails, most likely for want of memory.
    """
    command = [sys.executable, "-m", "experiments.costs.isolated_timing", network, str(image_size), str(passes)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise BadInput(f"{network} at {image_size} px could not be measured: {why}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def main(network: str, image_size: str, passes: str) -> None:
    """Print the cost; the first pass, which sets up memory and kernels, is not timed."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import torch

    from classification.model import create_classifier
    from engine.record import peak_memory_mb

    torch.set_num_threads(1)
    device = torch.device("cpu")
    before = peak_memory_mb(device)
    with torch.inference_mode():
        model = create_classifier(network, 1000).eval().to(memory_format=torch.channels_last)
        images = torch.zeros(1, 3, int(image_size), int(image_size)).to(memory_format=torch.channels_last)
        seconds = []
        for _ in range(1 + int(passes)):
            start = time.perf_counter()
            model(images)
            seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds[1:], "peak_memory_mb": peak_memory_mb(device), "start_memory_mb": before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
