"""`make verdicts`: checks verdicts on real and simulated trainings, and writes `docs/verdicts-measured.md`.

Trains the networks of `tests.verdicts.trainings` first (120 trainings, several hours on two cores; finished ones are
kept), then counts verdicts. The table of the trainings is `results/verdicts.csv`.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from engine.record import write_text
from experiments.report.results import FinishedRun
from experiments.statistics.images import Resampled, resample
from tests.verdicts.coverage import Coverage, coverage
from tests.verdicts.equal_networks import Shares, of_one_network, of_two_networks
from tests.verdicts.trainings import TRAININGS, train

PAIR = ("resnet18", "efficientnet_b0")
SPREADS = ((0.0, 0.0), (0.2, 0.2), (0.5, 0.1))  # standard deviations between the seeds of both sides, in logits
GRID = [
    (metric, images, seeds)
    for metric, counts in (("top1", (20, 50, 200, 1000, 5000)), ("mIoU", (20, 50, 200, 1000)), ("AP", (20, 50, 200)))
    for images in counts
    for seeds in (2, 3, 5, 10)
]


def main() -> None:
    """Train, count, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.verdicts", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/verdicts"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=2, help="trainings or simulations at the same time")
    parser.add_argument("--trials", type=int, default=1000, help="simulated comparisons of each setting")
    parser.add_argument("--no_training", action="store_true", help="only use finished trainings")
    parser.add_argument("--output", type=Path, default=Path("docs/verdicts-measured.md"))
    options = parser.parse_args()
    if not options.no_training:
        for error in train(options.runs, options.device, options.jobs):
            print(error)
    runs = finished_runs(options.runs)
    write_text(Path("results/verdicts.csv"), table_of(runs))
    page = [
        "# Verdicts, measured",
        "",
        f"Written by `make verdicts` on {date.today()}. [Verdicts](verdicts.md) explains the method.",
        "",
        *real(runs),
        "",
        *simulated(options.trials, options.jobs),
    ]
    write_text(options.output, "\n".join(page) + "\n")
    print(f"written to {options.output}")


def finished_runs(folder: Path) -> dict[tuple[str, str], list[FinishedRun]]:
    """The finished trainings by task and backbone."""
    return {
        (task, backbone): [
            FinishedRun.of(file.parent) for file in sorted(folder.glob(f"{task}/{backbone}-*/record.json"))
        ]
        for task, backbone in TRAININGS
    }


def table_of(runs: dict[tuple[str, str], list[FinishedRun]]) -> str:
    """One line for each training."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["task", "backbone", "seed", "metric", "score", "train_seconds", "device", "torch", "command"])
    for found in runs.values():
        for run in found:
            record = run.record
            about = record["device"]["name"] if record["device"]["type"] == "cuda" else record["device"]["type"]
            words = record["command_line"].split(" --output")[0]
            table.writerow(
                [record["task"], record["backbone"], record["seed"], run.metric, f"{run.score:.6f}",
                 f"{record['train_seconds']:.0f}", about, record["versions"]["torch"], words]
            )  # fmt: skip
    return text.getvalue()


def real(runs: dict[tuple[str, str], list[FinishedRun]]) -> Iterator[str]:
    """Verdicts on real trainings."""
    scored: dict[tuple[str, str], Resampled] = {}
    for task in dict.fromkeys(task for task, _ in TRAININGS):
        sides = {name: [run.images for run in runs[task, name]] for name in PAIR if len(runs[task, name]) > 3}
        scored |= {(task, name): found for name, found in resample(sides).items()}
    yield "## Trainings of one network"
    yield ""
    yield "Random choices of trainings that differ in their seed only, as both sides: `better` and `worse` are errors."
    yield "The interval is two standard errors, from a jackknife over trainings."
    yield ""
    yield "| task | network | trainings | score | seeds each | better or worse | too little data |"
    yield "|---|---|---|---|---|---|---|"
    for (task, name), side in scored.items():
        for seeds in (2, 3):
            shares = of_one_network(side, seeds)
            score = f"{100 * side.scores.mean():.1f} ± {100 * side.scores.std(ddof=1):.1f}"
            yield f"| {task} | {name} | {side.seeds} | {score} | {seeds} | {_rate(shares)} | {shares.too_little:.1%} |"
    yield ""
    yield "## Two networks"
    yield ""
    yield f"The share of choices in which {PAIR[0]} is `better` than {PAIR[1]}, in such short trainings from scratch."
    yield ""
    yield "| task | trainings | seeds each | better | worse | too little data |"
    yield "|---|---|---|---|---|---|"
    for task in dict.fromkeys(task for task, _ in scored):
        if all((task, name) in scored for name in PAIR):
            ours, theirs = (scored[task, name] for name in PAIR)
            for seeds in (2, 3):
                found = of_two_networks(ours, theirs, seeds)
                count = f"{ours.seeds} and {theirs.seeds}"
                rates = f"{found.better:.1%} | {found.worse:.1%} | {found.too_little:.1%}"
                yield f"| {task} | {count} | {seeds} | {rates} |"


def simulated(trials: int, jobs: int) -> Iterator[str]:
    """Coverage of the interval in simulated comparisons.

    Comparisons of 1,000 images and more, and of AP, are fewer, since they take the most time.
    """
    settings = [(metric, images, seeds, spread, trials_of(metric, images, trials)) for metric, images, seeds in GRID
                for spread in SPREADS]  # fmt: skip
    found: dict[tuple, Coverage] = {}
    slowest_first = sorted(settings, key=lambda setting: -setting[1] * setting[2] * (5 if setting[0] == "AP" else 1))
    with ProcessPoolExecutor(jobs) as pool, Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("simulated comparisons", total=len(settings))
        running = {pool.submit(coverage, *setting): setting for setting in slowest_first}
        for future in as_completed(running):
            found[running[future]] = future.result()
            progress.advance(bar)
    yield "## Simulated comparisons"
    yield ""
    yield f"The share of 95% intervals that contain the true difference, of {trials} comparisons of each setting, where"
    yield "there is a verdict. In brackets: the share with too little data. Columns: standard deviation between the"
    yield "trainings of both sides, in logits; 0.2 is about 3.5 points of top-1. Shares of AP, and of 1,000 images and"
    fewer = trials_of("AP", 20, trials)
    errors = [f"{2 * (0.95 * 0.05 / count) ** 0.5:.1%}" for count in (trials, fewer)]
    yield f"more, are of {fewer} comparisons. Twice the standard error of a share of 95% is {errors[0]}, and"
    yield f"{errors[1]} for these. Of many shares, some are farther from the truth."
    yield ""
    yield f"| metric | images | seeds | {' | '.join(f'{a:g} and {b:g}' for a, b in SPREADS)} |"
    yield "|---|---|---|" + "---|" * len(SPREADS)
    for metric, images, seeds in GRID:
        count = trials_of(metric, images, trials)
        cells = [_text(found[metric, images, seeds, spread, count]) for spread in SPREADS]
        yield f"| {metric} | {images} | {seeds} | {' | '.join(cells)} |"


def trials_of(metric: str, images: int, trials: int) -> int:
    """Number of simulated comparisons."""
    return max(1, trials // 4) if metric == "AP" or images >= 1000 else trials


def _rate(shares: Shares) -> str:
    rate = shares.better + shares.worse
    return f"{rate:.1%} ({max(0.0, rate - 2 * shares.error):.1%} to {rate + 2 * shares.error:.1%})"


def _text(found: Coverage) -> str:
    if found.undecided == 1:
        return "too little data"
    return f"{found.contained:.1%}" + (f" [{found.undecided:.0%}]" if found.undecided >= 0.005 else "")


if __name__ == "__main__":
    main()
