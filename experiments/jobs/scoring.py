"""Scores finished trainings on another split, each once, as processes of the ordinary eval command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from engine.cli import INTERRUPTED
from experiments.jobs.local import failure_reason


def split_folder(run: Path, split: str) -> Path:
    """Where the scores of a run on another split are stored."""
    return run / f"split-{split}"


def score_on_split(task: str, run: Path, split: str, device: str) -> str | None:
    """Score a finished run on a split of its data, unless this was done before. Returns the reason of a failure.

    Raises KeyboardInterrupt if the process was interrupted.
    """
    folder = split_folder(run, split)
    if (folder / "metrics.json").exists():
        return None
    words = ["--checkpoint", str(run), "--data.split", split, "--output", str(folder), "--device", device]
    done = subprocess.run(
        [sys.executable, "-m", f"{task}.eval", *words], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    if done.returncode == 0:
        return None
    return failure_reason(done.stderr.splitlines(), done.returncode)
