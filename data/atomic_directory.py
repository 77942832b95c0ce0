"""Folders that one process creates and all processes use. A folder appears complete or not at all.

This holds where several processes create the same folder at once, and where one of them is killed.
"""

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
    """The folder for all files that can be created again. It may not exist yet.

    It is `$BACKBONE_SWAP_CACHE`, else `$XDG_CACHE_HOME/backbone-swap`, else `~/.cache/backbone-swap`.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache").absolute() / "backbone-swap"


def create_once(folder: Path, marker: str, make: Callable[[Path], None], doing: str) -> None:
    """Create `folder`, unless it is complete already: `make` fills a temporary folder, which is then renamed.

    Any number of processes may call this at the same time. One creates the folder; the others print what they wait for.

    Args:
        folder: the folder to create, together with its parents.
        marker: name of the file that `make` writes last. A folder that has this file is complete.
        make: fills an existing, empty folder.
        doing: what the messages of waiting processes say, such as "drawing the demo scenes".

    Raises OSError if the folder cannot be written.
    """
    if (folder / marker).is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    with _only_one(folder.with_name(f".{folder.name}.lock"), doing):
        if (folder / marker).is_file():  # another process created it while this one waited
            return
        # Only the holder of the lock writes here. Files that exist were left by a process that was killed.
        for leftover in [*folder.parent.glob(f".{folder.name}.*.tmp"), *([folder] if folder.exists() else [])]:
            shutil.rmtree(leftover)
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        try:
            temporary.mkdir()
            make(temporary)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _sweep(folder: Path) -> None:
    """Remove the temporary folders of killed processes. Nobody holds the locks of these."""
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
