"""`make bench`: every benchmark against its peer, in turns on this machine, as `docs/performance.md`."""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path

import torch

from tests.benchmarks import accuracy, networks, pipeline
from tests.benchmarks.common import Row, limits, machine

D0_GFLOP = 5.1  # of one image of 512 px, two for a multiply-add


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/performance.md"))
    options = parser.parse_args()
    torch.manual_seed(0)
    bounds = limits()
    rows = [
        *networks.inference(),
        pipeline.predicting(),
        *networks.training(),
        *pipeline.loading(),
        pipeline.scoring(),
        pipeline.suppression(),
        networks.memory(),
    ]
    options.output.write_text("\n".join(page(rows, bounds, accuracy.table(), pipeline.growth())) + "\n")
    print(f"written to {options.output}")


def page(rows: list[Row], bounds: dict[str, float], unchanged: list[str], growth: list[str]) -> list[str]:
    """The document."""
    fp32, bf16 = bounds["GEMM fp32, GFLOP/s"], bounds["GEMM bf16, GFLOP/s"]
    lines = [
        "# Performance",
        "",
        f"Written by `make bench` on {date.today()}: {machine()}. Both sides run in turns in one process tree; the "
        "ratio is the median over rounds of the peer's time divided by ours, above 1 is faster. Single times wander "
        "on shared machines; ratios much less.",
        "",
        f"What the hardware allows: {', '.join(f'{value:.0f} {name}' for name, value in bounds.items())}. D0 at 512 px "
        f"is {D0_GFLOP} GFLOP: {1e3 * D0_GFLOP / fp32:.0f} ms in fp32 and {1e3 * D0_GFLOP / bf16:.0f} ms in bf16 if it "
        "were nothing but large matrix products. Most of its time goes to depthwise convolutions and activations, "
        "which memory bounds.",
        "",
        "| work | peer | goal | measured | ours | peer | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        goal = "" if row.goal is None else f"{row.goal:g}"
        less = "memory" in row.work
        met = row.goal is None or (row.ratio <= row.goal if less else row.ratio >= row.goal)
        unit = 1.0 if less or row.ours >= 1 else 1e3
        word = "GB" if less else "s" if unit == 1 else "ms"
        lines.append(
            f"| {row.work} | {row.peer} | {goal} | {'**' if met else ''}{row.ratio:.2f}{'**' if met else ''} | "
            f"{row.ours * unit:.3g} {word} | {row.theirs * unit:.3g} {word} | {row.remark} |"
        )
    lines += ["", "Goals that are met are bold.", "", "## What the faster path changes", "", *unchanged]
    return [*lines, "", "## How cost grows", "", "| | |", "|---|---|", *growth]


if __name__ == "__main__":
    main()
