"""Folders that are made once and kept: whole from the moment they exist, whoever else makes them, however it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

CACHE_VARIABLE = "BACKBONE_SWAP_CACHE"


def cache_folder() -> Path:
    """Where everything that can be made again is kept; it need not exist."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache").absolute() / "backbone-swap"


def create_once(folder: Path, marker: str, make: Callable[[Path], None], doing: str) -> None:
    """Let `make` fill a sibling of `folder`, and rename that; nothing happens where `folder` has a `marker` already.

    Any number of processes may ask at once: one makes it, the others wait and say that another is `doing` so.

    Args:
        folder: its parent is made where it is missing.
        marker: name of the file that `make` writes last.
        make: fills an existing, empty folder.
        doing: such as "drawing the demo scenes".

    Raises OSError where nothing can be written.
    """
    if (folder / marker).is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    with _only_one(folder.with_name(f".{folder.name}.lock"), doing):
        if (folder / marker).is_file():  # another process has made it while this one waited
            return
        # The holder of the lock is alone: whatever lies here was left by a process that is no more.
        for remains in [*folder.parent.glob(f".{folder.name}.*.tmp"), *([folder] if folder.exists() else [])]:
            shutil.rmtree(remains)
        making = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        try:
            making.mkdir()
            make(making)
            making.rename(folder)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise


def _sweep(folder: Path) -> None:
    """Remove what killed processes have left half made: what nobody holds the lock of."""
    for remains in folder.glob(".*.tmp"):
        name = remains.name.rsplit(".", 2)[0]
        with contextlib.suppress(Timeout), FileLock(folder / f"{name}.lock", blocking=False):
            shutil.rmtree(remains, ignore_errors=True)


@contextlib.contextmanager
def _only_one(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock at `path`, waiting for it if need be. However its process ends, the system then frees it."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"waiting for another process, which is {doing}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
