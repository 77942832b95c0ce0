"""The lock of an experiment's folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from backbones.errors import BadInput, UserError
from data.lock import LocksMissing, lock_file

LOCK_PATIENCE = 15  # seconds that processes of a killed comparison have to go


@contextmanager
def only_one(folder: Path) -> Iterator[IO[str]]:
    """Hold the folder for this process and its trainings. Raises UserError where another comparison has it.

    Where the file system has no locks, nothing keeps a second comparison away: a warning says so.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a")  # noqa: SIM115 - closed below
    except OSError as error:
        raise BadInput(f"--output {folder} cannot be written: {error.strerror}") from error
    with lock:
        try:
            free = lock_file(lock, LOCK_PATIENCE)
        except LocksMissing as error:
            warning = f"the file system of {folder} has no locks ({error.strerror}): start only one comparison there"
            print(f"warning: {warning}", file=sys.stderr)
            free = True
        if not free:
            raise UserError(
                f"another comparison, or a training that one left behind, is at work in {folder}: wait for it, "
                "stop it, or choose another --output"
            )
        yield lock
