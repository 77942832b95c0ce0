"""`make bench`: compares this package with other implementations (peers), and writes `docs/performance.md`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import torch

from tests.benchmarks import accuracy, cached_augmentations, exported, limits, networks, pipeline, settings
from tests.benchmarks.common import Row, machine

# Reasons why a goal may be missed, by the start of the work's name. torch.profiler measured the shares, on two cores.
WHY = {
    "D0 512 px inference, network": (
        "if the network took the sum of both times above, the ratio would be about the goal. A network of many small "
        "operations cannot be that fast. In fp32, convolutions take three quarters of the time, at nearly the rate of "
        "one large product. Swish takes 14%. It is arithmetic too, so a fused convolution with swish in oneDNN takes as"
        " long as the two separately. In bf16, convolutions take 63% and swish 24%. torch.compile with frozen weights "
        "saves little (67 ms instead of 69 ms in fp32, 51 ms instead of 56 ms in bf16) and compiles for 20 to 50 s, so "
        "it is not used."
    ),
    "D0 512 px inference in OpenVINO, bf16": "OpenVINO computes the same operations as in fp32, with half the "
    "bytes. Weighted sums of BiFPN, resizing and the conversion to float32 remain.",
    "D0 predict": "the network takes less than two thirds of the time. The start takes 1.8 s, of which `import torch` "
    "is most, with an exported file 2.9 s. Decoding and suppression take the rest.",
    "detector training": "on both sides, torch's kernels compute forward and backward of the same layers. Only memory "
    "format, saved tensors, memory allocation and the loss differ. The backward pass takes half of the time in "
    "convolutions and a tenth in batch norms.",
    "segmentation training": "memory access limits convolutions over large maps.",
    "memory": "the rest are inputs of convolutions and norms, which the gradients need.",
}


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/performance.md"))
    options = parser.parse_args()
    torch.manual_seed(0)
    rates = limits.rates()
    runtimes = ["torch", *(["openvino"] if find_spec("openvino") else [])]
    rows = [
        *networks.inference(),
        *exported.inference(),
        *(pipeline.predicting(runtime) for runtime in runtimes),
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
    # It forks, which is not safe in a process that has used torch's threads.
    subprocess.run([sys.executable, "-m", "tests.benchmarks.shards", "--output", str(options.output)], check=True)
    print(f"written to {options.output}")


def page(rows: list[Row], rates: dict[str, float], sections: dict[str, list[str]]) -> list[str]:
    """The document: the table of goals, and further tables by their titles."""
    lines = [
        "# Performance",
        "",
        f"Written by `make bench` on {date.today()}: {machine()}. Our implementation and the other one (the peer) "
        "run alternately, each network in a process of its own. The ratio is the peer's time divided by ours, as the "
        "median over rounds: above 1, ours is faster. On shared machines, single times vary; ratios vary much less.",
        "",
        f"Measured rates of this machine: {', '.join(f'{value:.0f} {name}' for name, value in rates.items())}. At "
        "these rates, D0 at 512 px, prepared as in `predict`, would take this time:",
        "",
        *limits.bounds(rates),
        "",
        "| work | peer | goal | ratio | ours | peer's | remark |",
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
