"""Runs a cell as a process of the ordinary train command on this machine; finished cells are kept.

A cell's folder is named after its key: the same settings find the same folder again, other settings another one. A cell
is finished once its folder holds `complete.json`, which is written last.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from backbones.errors import BadInput
from engine.cli import INTERRUPTED
from engine.record import write_json
from experiments.jobs.cell import Cell

COMPLETE = "complete.json"
SHOWN_LINES = 3  # of what a process wrote before it died without a message of ours


class Stopped(Exception):
    """What `tell` raises where a training is not worth its end."""


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes:
        seconds: of the process, those before an interruption not included.
        error: why it failed, in words; None where it did not.
        exit_code: of the process: 0, or one of the command line's.
    """

    seconds: float
    error: str | None = None
    exit_code: int = 0


def finished(cell: Cell, folder: Path) -> Outcome | None:
    """The outcome of a cell that an earlier process completed in `folder`; None where none did."""
    try:
        content = json.loads((folder / COMPLETE).read_text())
        return Outcome(content["seconds"]) if content["key"] == cell.key else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{folder / COMPLETE} is damaged: delete {folder}, and the cell is trained again") from error


def run(cell: Cell, folder: Path, lock: IO[str], tell: Callable[[str], None] = lambda line: None) -> Outcome:
    """Train a cell in `folder`, or continue it where a checkpoint was left; marks it complete at the end.

    Args:
        cell: what to train.
        folder: of its run.
        lock: an open file; the process keeps it open as long as it lives, so that a lock on it tells.
        tell: called with each line of progress; may raise Stopped, which ends the process.

    Raises KeyboardInterrupt where the process was interrupted, and Stopped.
    """
    arguments = _continuing(cell, folder)
    log = folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    said: list[str] = []
    # The lock is inherited: it lasts as long as the training. Windows passes on no files.
    posix: dict[str, Any] = {"pass_fds": (lock.fileno(),), "preexec_fn": partial(_die_with, os.getpid())}
    with open(log, "a") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", f"{cell.task}.train", *arguments],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            **(posix if os.name == "posix" else {}),
        )
        assert process.stderr is not None
        try:
            for line in process.stderr:
                out.write(line)
                out.flush()
                said.append(line.rstrip())
                tell(said[-1])
            code = process.wait()
        except Stopped:
            process.terminate()
            process.wait()
            raise
        except BaseException:  # the terminal's Ctrl-C reached the child as well, which saves before it leaves
            process.wait()
            raise
    if code in (INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    seconds = time.monotonic() - started
    if code == 0:
        write_json(folder / COMPLETE, {"key": cell.key, "seconds": seconds})
        return Outcome(seconds)
    return Outcome(seconds, _reason(said, code), code)


def _continuing(cell: Cell, folder: Path) -> list[str]:
    """The arguments of train: to go on from a checkpoint in `folder`, or to begin, with nothing left there."""
    unfinished = (folder / "checkpoints" / "last.ckpt").is_file() and not (folder / "record.json").exists()
    if unfinished:
        return ["--resume", str(folder)]
    if folder.exists():  # without a checkpoint, or killed between its record and its last picture
        shutil.rmtree(folder)
    return [*cell.arguments, "--output", str(folder)]


def _reason(said: Sequence[str], code: int) -> str:
    """Why a process failed, from what it wrote to its standard error."""
    starts = [i for i, line in enumerate(said) if line.startswith("error: ")]
    if starts:
        return " ".join(" ".join(said[starts[-1] :]).split()).removeprefix("error: ")
    if code < 0:
        return f"killed by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
    return f"exit code {code}: {' / '.join(line for line in said[-SHOWN_LINES:] if line)}"


def _die_with(parent: int) -> None:
    """Have the kernel end this process with its parent, even one that is killed: Linux's PR_SET_PDEATHSIG is 1."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:  # it went before the kernel was told
            os._exit(1)
