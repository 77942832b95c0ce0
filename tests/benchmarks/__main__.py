"""`make bench`: every benchmark against its peer, in turns on this machine, as `docs/performance.md`."""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path

import torch

from tests.benchmarks import accuracy, cached_augmentations, limits, networks, pipeline, settings
from tests.benchmarks.common import Row, machine

# Why a goal may be missed, by the beginning of the work's name. Shares are torch.profiler's, on two cores.
WHY = {
    "D0 512 px": "at the sum of both times above, which no network of many small operations reaches, the ratio would "
    "be about the goal. In fp32, convolutions take three quarters of the time, at nearly the rate of one large "
    "product. Swish takes 14%; it is arithmetic too, so oneDNN's convolutions with fused swish take as long as both "
    "separately. In bf16 they take 63% and 24%. torch.compile with frozen weights saves little (67 ms against 69 in "
    "fp32, 51 against 56 in bf16) and compiles for 20 to 50 s; it is not used.",
    "D0 predict": "the network takes less than two thirds of the time. Importing torch, torchvision, timm, Lightning "
    "and albumentations takes 5 s, and their shutdown 1.5 s.",
    "detector training": "forward and backward are torch's own kernels on both sides, of the same layers. Memory "
    "format, saved tensors, memory allocation and the loss differ. Backward passes of convolutions take half of the "
    "time, those of batch norm a tenth.",
    "segmentation training": "convolutions over large maps wait for memory.",
    "COCO evaluation": "half of the time is faster-coco-eval's matching and accumulation, in C++; the other half "
    "passes half a million boxes to it as Python objects, as its interface requires.",
    "memory": "what remains are the inputs of convolutions and norms, which their gradients need.",
}


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/performance.md"))
    options = parser.parse_args()
    torch.manual_seed(0)
    rates = limits.rates()
    rows = [
        *networks.inference(),
        pipeline.predicting(),
        *networks.training(),
        *pipeline.loading(),
        pipeline.scoring(),
        pipeline.suppression(),
        networks.memory(),
    ]
    sections = {
        "What the faster path changes": accuracy.table(),
        "Settings in force": settings.table(),
        "Cached features of a frozen backbone": cached_augmentations.table(),
        "How cost grows": ["| | |", "|---|---|", *limits.throughput(), *pipeline.growth()],
    }
    options.output.write_text("\n".join(page(rows, rates, sections)) + "\n")
    print(f"written to {options.output}")


def page(rows: list[Row], rates: dict[str, float], sections: dict[str, list[str]]) -> list[str]:
    """The document: the table of goals, and further tables by their titles."""
    lines = [
        "# Performance",
        "",
        f"Written by `make bench` on {date.today()}: {machine()}. Both sides run in turns, each network in a process "
        "of its own. The ratio is the median over rounds of the peer's time divided by ours: above 1, ours is faster. "
        "On shared machines, single times vary; ratios vary much less.",
        "",
        f"Rates of this machine: {', '.join(f'{value:.0f} {name}' for name, value in rates.items())}. The time that D0 "
        "at 512 px, prepared as in `predict`, needs at these rates:",
        "",
        *limits.bounds(rates),
        "",
        "| work | peer | goal | measured | ours | peer | |",
        "|---|---|---|---|---|---|---|",
    ]
    missed = []
    for row in rows:
        goal = "" if row.goal is None else f"{row.goal:g}"
        less = "memory" in row.work
        met = row.goal is None or (row.ratio <= row.goal if less else row.ratio >= row.goal)
        missed += [] if met else [row]
        unit = 1.0 if less or row.ours >= 1 else 1e3
        word = "GB" if less else "s" if unit == 1 else "ms"
        lines.append(
            f"| {row.work} | {row.peer} | {goal} | {'**' if met else ''}{row.ratio:.2f}{'**' if met else ''} | "
            f"{row.ours * unit:.3g} {word} | {row.theirs * unit:.3g} {word} | {row.remark} |"
        )
    lines += ["", "Goals that are met are bold.", "", "## Why goals are missed", "", *explained(missed)]
    for title, table in sections.items():
        lines += ["", f"## {title}", "", *table]
    return lines


def explained(missed: list[Row]) -> list[str]:
    """A line for each kind of work whose goal is missed."""
    lines = []
    for start, why in WHY.items():
        of = [f"{row.ratio:.2f} of {row.goal:g}" for row in missed if row.work.startswith(start)]
        lines += [f"- {start} ({', '.join(of)}): {why}"] if of else []
    return lines or ["No goal is missed."]


if __name__ == "__main__":
    main()
