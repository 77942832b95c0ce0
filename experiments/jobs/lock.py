"""The lock of an experiment's folder."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from backbones.errors import BadInput, UserError

LOCK_PATIENCE = 15  # seconds in which the processes of a killed experiment should have ended


@contextmanager
def only_one(folder: Path) -> Iterator[IO[str]]:
    """Lock the folder for this process and its trainings.

    Yields the locked file, which trainings inherit: the lock lasts until the last of them has ended.

    Raises UserError where another experiment or a training of one holds the lock, BadInput for an unwritable folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a")  # noqa: SIM115 - closed below
    except OSError as error:
        raise BadInput(
            f"{folder} cannot be written ({error.strerror}): choose another `output`", settings=("output",)
        ) from error
    with lock:
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"another experiment, or a training that it started, is still running in {folder}: wait for "
                        "it, stop it, or choose another `output`",
                        settings=("output",),
                    ) from None
                time.sleep(0.2)
        yield lock
