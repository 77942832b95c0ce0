"""Measures time and memory of one classifier in a process of its own, on one core.

`python -m experiments.costs.isolated_timing NETWORK SIZE PASSES` prints them as JSON. A shared process would add the
memory of earlier networks to the peak.
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
class IsolatedCost:
    """Time and memory of a network with batch size 1.

    Attributes:
        seconds: duration of each timed pass.
        peak_memory_mb: peak memory of the process, MiB.
        start_memory_mb: peak memory of the process before the network was built, MiB.
    """

    seconds: list[float]
    peak_memory_mb: float
    start_memory_mb: float


def measure_isolated(network: str, image_size: int, passes: int = 1) -> IsolatedCost:
    """Measure a network with random weights on square images of `image_size` px: batch 1, fp32, one core.

    Raises BadInput if the process fails, most likely because memory is short.
    """
    command = [sys.executable, "-m", "experiments.costs.isolated_timing", network, str(image_size), str(passes)]
    process = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise BadInput(f"{network} at {image_size} px could not be measured: {reason}")
    return IsolatedCost(**json.loads(process.stdout.splitlines()[-1]))


def main(network: str, image_size: str, passes: str) -> None:
    """Print the cost as JSON. The first pass sets up memory and kernels and is not timed."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import torch

    from classification.build import create_classifier
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
