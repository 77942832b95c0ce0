"""Time that `--data.cached_augmentations` saves: trainings that run a frozen backbone in each step, or never."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from data.atomic_directory import CACHE_VARIABLE
from data.demo.writer import demo_root
from tests.benchmarks.common import timed

AUGMENTATIONS = 4
TRAININGS = (("linear", 12), ("frozen", 12))  # protocol and epochs, of classification


def table() -> list[str]:
    """Lines of Markdown: seconds of an epoch, of the whole command, and the score, on the drawn scenes."""
    lines = [
        f"| drawn scenes | backbone runs in each step | {AUGMENTATIONS} augmentations, features computed first | "
        "the same, features cached by an earlier training | speed-up of epochs |",
        "|---|---|---|---|---|",
    ]
    for protocol, epochs in TRAININGS:
        with tempfile.TemporaryDirectory() as folder:
            found = [
                train(protocol, augmentations, epochs, Path(folder, str(number)))
                for number, augmentations in enumerate((0, AUGMENTATIONS, AUGMENTATIONS))
            ]
        cells = [f"{epoch:.2f} s an epoch, {total:.0f} s in total, {score:.1f}" for epoch, total, score in found]
        ratio = found[0][0] / found[2][0]
        lines.append(f"| classification, {protocol}, {epochs} epochs: top-1 | {' | '.join(cells)} | {ratio:.1f} |")
        print(lines[-1], flush=True)
    return lines


def train(protocol: str, augmentations: int, epochs: int, run: Path) -> tuple[float, float, float]:
    """Seconds of one epoch of training and evaluation, seconds of the whole command, and the last score in percent."""
    command = [
        sys.executable, "-m", "classification.train", "--config", "demo", "--protocol", protocol, "--epochs", epochs,
        "--data.cached_augmentations", augmentations, "--data.root", demo_root("classification"), "--output", run,
    ]  # fmt: skip
    environment = os.environ | {CACHE_VARIABLE: str(run.parent / "cache")}
    whole = timed(lambda: subprocess.run([str(c) for c in command], check=True, capture_output=True, env=environment))
    record = json.loads((run / "record.json").read_text())
    return record["train_seconds"] / epochs, whole, 100 * record["metrics"]["top1"]
