"""Measures the latency of trainings again that were not alone on the machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.progress import track

from backbones.errors import UserError
from engine.console import err
from engine.execution import device_of
from engine.record import cost, write_json

log = logging.getLogger(__name__)

TIMES = ("latency_ms", "images_per_second", "timed_alone")


def time_alone(runs: Sequence[Path]) -> None:
    """Replace the latency in the records of runs that were not timed alone. Call it when no training runs.

    Runs of one task, backbone and input size have the same network, which is measured once.
    """
    measured: dict[tuple[object, ...], dict[str, float]] = {}
    pending = []
    for run in runs:
        record = json.loads((run / "record.json").read_text())
        if not record.get("timed_alone", True):
            pending.append((run, record))
    for run, record in track(pending, "measuring latency alone", console=err, transient=True) if pending else ():
        kind = (record["task"], record["backbone"], record["macs"], record["params"], record["device"]["type"])
        if kind not in measured:
            from experiments.runs import load_run

            try:
                device = device_of(record["device"]["type"])
            except UserError:  # a cluster's workers can have devices that this machine lacks
                log.warning("%s: its latency was measured beside other trainings, on %s", run, record["device"]["type"])
                continue
            loaded = load_run(run)
            height, width = loaded.preprocessing["size"]
            model = loaded.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            measured[kind] = cost(model, (height, width), device)
        record["device"]["threads"] = torch.get_num_threads()
        write_json(run / "record.json", record | {name: measured[kind][name] for name in TIMES})
