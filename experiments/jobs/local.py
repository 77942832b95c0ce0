"""Runs a cell on this machine as a process of the ordinary train command. Finished cells are not trained again.

A cell's folder is named after its key: the same settings lead to the same folder, other settings to another one. A cell
is finished when its folder holds `complete.json`, which is written last.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from backbones.errors import BadInput
from engine.cli import INTERRUPTED
from engine.launch import die_with
from engine.record import write_json
from experiments.jobs.cell import Cell

COMPLETE = "complete.json"
SHOWN_LINES = 3  # last lines of a process that ended without a message of this package


class DamagedCell(BadInput):
    """The file that says that a training was finished cannot be read."""


class Pruned(Exception):
    """Raised by the `report` callback of `run` to stop a training whose scores are too low: it is pruned early."""


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes:
        seconds: duration of the process. Time before an interruption is not included.
        error: the reason of the failure; None for success.
        exit_code: exit code of the process, see `engine.cli`.
    """

    seconds: float
    error: str | None = None
    exit_code: int = 0


class Trainings:
    """The trainings that run in several threads, which can be ended together. Afterwards none starts."""

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen[str]] = set()
        self._ended = False

    def add(self, process: subprocess.Popen[str]) -> None:
        """Add a training that has started."""
        self._processes.add(process)
        if self._ended:  # while it started
            process.terminate()

    def discard(self, process: subprocess.Popen[str]) -> None:
        """Remove a training that has ended."""
        self._processes.discard(process)

    def end(self) -> list[subprocess.Popen[str]]:
        """End all trainings, which save a checkpoint. Returns their processes; it does not wait for them."""
        self._ended = True
        processes = list(self._processes)
        for process in processes:
            process.terminate()
        return processes


def finished(cell: Cell, folder: Path) -> Outcome | None:
    """Return the outcome of a cell that was finished in `folder` earlier, or None.

    Raises DamagedCell if `complete.json` is damaged.
    """
    try:
        content = json.loads((folder / COMPLETE).read_text())
        return Outcome(content["seconds"]) if content["key"] in (cell.key, cell.earlier_key) else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCell(f"{folder / COMPLETE} is damaged: delete {folder} to train the cell again") from error


def run(
    cell: Cell,
    folder: Path,
    lock: IO[str] | None = None,
    report: Callable[[str], None] = lambda line: None,
    variables: Mapping[str, str] | None = None,
    cores: Sequence[int] = (),
    trainings: Trainings | None = None,
) -> Outcome:
    """Train a cell in `folder`, or resume it from a checkpoint there. Write `complete.json` at the end.

    Args:
        cell: the training.
        folder: its run folder.
        lock: an open, locked file, if any. The process inherits it, so the lock lasts as long as the process.
        report: called with each line that the process prints. It may raise Pruned, which ends the process.
        variables: environment variables of the process, in addition to those of this one.
        cores: the cores that the process may use, on Linux; all by default.
        trainings: the process is one of these while it runs.

    Raises KeyboardInterrupt if the process was interrupted, and Pruned.
    """
    started = time.monotonic()
    arguments = _train_arguments(cell, folder)
    code, lines = run_training(cell.task, arguments, folder, lock, report, variables, cores, trainings)
    seconds = time.monotonic() - started
    if code == 0:
        write_json(folder / COMPLETE, {"key": cell.key, "seconds": seconds})
        return Outcome(seconds)
    return Outcome(seconds, failure_reason(lines, code), code)


def run_training(
    package: str,
    arguments: Sequence[str],
    folder: Path,
    lock: IO[str] | None = None,
    report: Callable[[str], None] = lambda line: None,
    variables: Mapping[str, str] | None = None,
    cores: Sequence[int] = (),
    trainings: Trainings | None = None,
) -> tuple[int, list[str]]:
    """Run `python -m PACKAGE.train ARGUMENTS` as a process that ends with this one; the log is beside `folder`.

    The other arguments are those of `run`. Returns the exit code and the lines of standard error. Raises
    KeyboardInterrupt if the process was interrupted, and Pruned.
    """
    log = folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    # The training inherits the lock, which lasts as long as the training. Windows cannot pass files on.
    inherited = () if lock is None else (lock.fileno(),)
    posix: dict[str, Any] = {"pass_fds": inherited, "preexec_fn": partial(_prepare, os.getpid(), cores)}
    with open(log, "a") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", f"{package}.train", *arguments],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, **(variables or {})},
            **(posix if os.name == "posix" else {}),
        )
        assert process.stderr is not None
        trainings = trainings or Trainings()
        trainings.add(process)
        try:
            with on_sigterm(process.terminate):
                for line in process.stderr:
                    out.write(line)
                    out.flush()
                    lines.append(line.rstrip())
                    report(lines[-1])
                code = process.wait()
        except BaseException:
            # A terminal sends Ctrl-C to the training as well, but `kill -INT` does not. After a first signal, SIGTERM
            # changes nothing in a training that saves its checkpoint.
            process.terminate()
            process.wait()
            raise
        finally:
            trainings.discard(process)
    if code in (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):  # the last: before it could handle signals
        raise KeyboardInterrupt
    return code, lines


def _prepare(parent: int, cores: Sequence[int]) -> None:
    """In the new process: end with the parent, and use these cores only."""
    die_with(parent)
    # SLURM sends it to all processes of a job, to ask the one that started the training for a checkpoint. By default
    # it would kill the training.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


@contextmanager
def on_sigterm(end_trainings: Callable[[], None]) -> Iterator[None]:
    """In this context, SIGTERM ends the trainings, which save a checkpoint, and raises KeyboardInterrupt.

    Schedulers and `docker stop` send it. Without this, the trainings would be killed with this process, unsaved.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set signal handlers
        yield
        return

    def stop(number: int, frame: Any) -> None:
        end_trainings()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _train_arguments(cell: Cell, folder: Path) -> list[str]:
    """Return arguments that resume from a checkpoint in `folder`; without one, empty the folder and start again."""
    unfinished = (folder / "checkpoints" / "last.ckpt").is_file() and not (folder / "record.json").exists()
    if unfinished:
        return ["--resume", str(folder)]
    if folder.exists():  # it has no checkpoint, or was killed while it ended
        shutil.rmtree(folder)
    return [*cell.arguments, "--output", str(folder)]


def failure_reason(lines: Sequence[str], code: int) -> str:
    """Return why a process failed, from the lines of its standard error."""
    starts = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    if starts:
        return " ".join(" ".join(lines[starts[-1] :]).split()).removeprefix("error: ")
    if code < 0:
        return f"killed by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
    return f"exit code {code}: {' / '.join(line for line in lines[-SHOWN_LINES:] if line)}"
