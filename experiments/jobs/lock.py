"""The lock of an experiment's folder, and interrupts of an experiment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from backbones.errors import UserError, unwritable
from data.lock import lock_or_warn
from experiments.jobs.local import on_sigterm

LOCK_PATIENCE = 15  # seconds in which the processes of a killed experiment should have ended


@contextmanager
def resumable() -> Iterator[None]:
    """Have SIGTERM interrupt the block as Ctrl-C does, with a message that says how to resume."""
    try:
        with on_sigterm(lambda: None):
            yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; to resume, run the same command") from None


@contextmanager
def only_one(folder: Path) -> Iterator[IO[str]]:
    """Lock the folder for this process and its trainings.

    Yields the locked file, which trainings inherit: the lock lasts until the last of them has ended. Where the file
    system has no locks, a warning is printed and nothing prevents a second experiment in the folder.

    Raises UserError if another experiment or a training of one holds the lock, BadInput for an unwritable folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a")  # noqa: SIM115 - closed below
    except OSError as error:
        raise unwritable(folder, error) from error
    with lock:
        if not lock_or_warn(lock, LOCK_PATIENCE, folder, "experiment"):
            raise UserError(
                f"another experiment, or a training that it started, is still running in {folder}: wait for it, stop "
                "it, or choose another `output`",
                settings=("output",),
            )
        yield lock
