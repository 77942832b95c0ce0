"""What a finished run costs in one runtime, and the file of such measurements."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

DeployedFormat = Literal["torch", "onnx", "openvino", "openvino-bf16", "openvino-int8"]
NAME = "deployed"  # of the table and the picture, and of their folder in a comparison
TABLE = f"{NAME}.csv"
BATCH = 8  # images at once for the throughput
COLUMNS = {
    "run": "run", "format": "format", "score": "score", "network_p50_ms": "network p50", "network_p95_ms": "p95",
    "network_p99_ms": "p99", "call_p50_ms": "whole call p50", "images_per_second": f"images/s, batch {BATCH}",
    "peak_memory_mb": "memory, MiB", "file_mb": "file, MB",
}  # fmt: skip


@dataclass(frozen=True)
class Deployed:
    """One run in one runtime.

    Attributes:
        run, backbone, format: folder, network and a `DeployedFormat`.
        metric, score: the headline metric on the validation images, in 0..1.
        network_p50_ms, network_p95_ms, network_p99_ms: time of the network alone for one image.
        call_p50_ms: time from the pixels of an image to its predictions.
        images_per_second: of the network alone, with several images at once.
        peak_memory_mb: most memory of a process that loads the file and predicts, with Python and its packages,
            in MiB.
        file_mb: size of the file; for torch, of the network's parameters in float32.
        threads: number of threads that computed.
    """

    run: str
    backbone: str
    format: str
    metric: str
    score: float
    network_p50_ms: float
    network_p95_ms: float
    network_p99_ms: float
    call_p50_ms: float
    images_per_second: float
    peak_memory_mb: float
    file_mb: float
    threads: int

    def texts(self, name: str) -> list[str]:
        """The cells of a table with the headings of `COLUMNS`, for a run that is called `name`."""
        numbers = [getattr(self, column) for column in list(COLUMNS)[3:]]
        return [name, self.format, f"{100 * self.score:.1f}", *(f"{number:.1f}" for number in numbers)]


def read_deployed(file: Path) -> list[Deployed]:
    """The rows of a table of measurements; none if there is no file."""
    if not file.is_file():
        return []
    types = {"str": str, "float": float, "int": int}
    convert = {field.name: types[str(field.type)] for field in fields(Deployed)}
    with file.open(newline="") as table:
        return [Deployed(**{name: convert[name](row[name]) for name in convert}) for row in csv.DictReader(table)]


def best_trades(rows: Sequence[Deployed]) -> list[Deployed]:
    """The rows that no other row beats in time and score, fastest first."""
    ordered = sorted(rows, key=lambda row: (row.network_p50_ms, -row.score))
    found: list[Deployed] = []
    for row in ordered:
        if not found or row.score > found[-1].score:
            found.append(row)
    return found
