"""The lock of an experiment's folder."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from backbones.errors import BadInput, UserError

LOCK_PATIENCE = 15  # seconds that processes of a killed comparison have to go


@contextmanager
def only_one(folder: Path) -> Iterator[IO[str]]:
    """Hold the folder for this process and its trainings. Raises UserError where another comparison has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a")  # noqa: SIM115 - closed below
    except OSError as error:
        raise BadInput(f"--output {folder} cannot be written: {error.strerror}") from error
    with lock:
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"another comparison, or a training that one left behind, is at work in {folder}: wait for it, "
                        "stop it, or choose another --output"
                    ) from None
                time.sleep(0.2)
        yield lock
