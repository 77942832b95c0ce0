"""What one pass of a joint network costs, against one pass of each single-task network.

`python -m experiments.joint.costs RUN ...` prints the peak memory of a process that loads these runs and predicts one
image with each, as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backbones.base import blank_images
from backbones.errors import BadInput
from backbones.inference import prepare_for_inference
from engine.checkpoint import read_run
from engine.export.check import milliseconds
from engine.record import peak_memory_mb
from experiments.jobs.local import failure_reason
from experiments.joint.spec import SPEC
from experiments.records import read_record
from experiments.tasks import TASKS

ROUNDS = 30


def costs(singles: Mapping[str, Path], joint: Path) -> dict[str, dict[str, Any]]:
    """Costs of the single networks together, and of the joint network, for one image.

    `params` and `macs` are those of the records. `latency_ms` are median and 95th percentile (p50, p95) on the CPU, of
    networks prepared for inference, which take turns. `memory_mb` is the peak memory of a process of its own.
    """
    records = [read_record(run) for run in singles.values()]
    whole = json.loads((joint / "record.json").read_text())
    calls = {"single": _call(list(singles.values())), "joint": _call([joint])}
    times = milliseconds(calls, ROUNDS)
    found = {}
    for side, runs, own in (("single", list(singles.values()), records), ("joint", [joint], [whole])):
        found[side] = {
            "params": sum(record["params"] for record in own),
            "macs": sum(record["macs"] for record in own),
            "latency_ms": times[side],
            "memory_mb": _memory(runs),
            "threads": torch.get_num_threads(),
        }
    return found


def _call(runs: list[Path]) -> Callable[[], Any]:
    """A function that computes one image with each of these runs."""
    networks: list[tuple[nn.Module, Any]] = []
    for run in runs:
        info, state = read_run(run)
        spec: Any = SPEC if info.task == SPEC.name else TASKS[info.task]
        model = spec.load_task().from_run(info, state, spec.predict_config()).model
        model = prepare_for_inference(model.eval())
        height, width = info.preprocessing["size"]
        images = blank_images(model, height, width).to(memory_format=torch.channels_last)
        networks.append((model, images))
    return lambda: [model(images) for model, images in networks]


def _memory(runs: list[Path]) -> float:
    command = [sys.executable, "-m", "experiments.joint.costs", *map(str, runs)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        reason = failure_reason(process.stderr.splitlines(), process.returncode)
        raise BadInput(f"the memory of {runs[0]} could not be measured: {reason}")
    return json.loads(process.stdout.splitlines()[-1])["peak_memory_mb"]


def main(*runs: str) -> None:
    """Print the peak memory as JSON."""
    call = _call([Path(run) for run in runs])
    with torch.inference_mode():
        call()
    print(json.dumps({"peak_memory_mb": peak_memory_mb(torch.device("cpu"))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
