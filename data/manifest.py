"""Lists of the files in large folders, stored in the cache folder and used again while the folders do not change.

To list a million files and their sizes takes a minute on a local disk, and much longer on a network file system. A
stored list is checked by one `stat` for each folder, whose modification time changes when an entry is added, removed or
renamed, and by one for each of `CHECKED` evenly spaced files. It therefore misses one kind of change: a file outside of
this sample that was overwritten in place, under the same name. Tools that write a new file and rename it are noticed.

A list is stored for at least `MANY` files. Smaller folders are listed each time. To list a folder again, delete
`listings` in the cache folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from data.atomic_directory import CACHE_VARIABLE, cache_folder
from data.names import Names
from data.scan import evenly_spaced

VERSION = 1  # raise it if stored lists get another content
MANY = 20_000  # files; to list as many takes about a second
CHECKED = 2000  # files of a stored list that are compared with the disk
RECENT = 2_500_000_000  # ns; a folder that changed less than this ago may change again without another time
THREADS = 16  # network file systems answer many requests at once

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Files:
    """Files below a folder.

    Attributes:
        names: n names relative to it.
        sizes: (n,) int64, bytes; -1 for files that cannot be read.
        times: (n,) int64, times of modification in ns; -1 likewise.
        further: other arrays that describe the list, stored with it.
    """

    names: Names
    sizes: np.ndarray
    times: np.ndarray
    further: dict[str, np.ndarray] = field(default_factory=dict)


class Visits:
    """Lists folders, and keeps the state that each had before it was listed."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.stamps: dict[str, tuple[int, int]] = {}

    def entries(self, folder: str) -> list[os.DirEntry[str]]:
        """All files and folders in a folder, which is relative to the top folder. Raises OSError."""
        path = os.path.join(self.top, folder)
        self.stamps[folder] = _stamp(path)
        with os.scandir(path) as found:
            return list(found)

    @property
    def are_settled(self) -> bool:
        """Whether no folder changed so recently that a further change may not show in its time."""
        return max((changed for _, changed in self.stamps.values()), default=0) < time.time_ns() - RECENT


def listed(folder: Path, wanted: str | bytes, find: Callable[[Visits], Files]) -> Files:
    """The files that `find` lists below a folder, or listed earlier if nothing has changed since.

    Args:
        folder: the top folder.
        wanted: what distinguishes this list from others of the same folder.
        find: lists the files. Its result must depend on the entries of the folders that it visits alone, and on
            `wanted`.
    """
    key = b"%d\0%s\0%s" % (VERSION, os.fsencode(os.path.realpath(folder)), os.fsencode(wanted))
    file = cache_folder() / "listings" / f"{hashlib.sha256(key).hexdigest()[:20]}.npz"
    if (stored := _load(file, folder)) is not None:
        return stored
    visits = Visits(folder)
    files = find(visits)
    if len(files.names) >= MANY and visits.are_settled:
        _store(file, files, visits)
    return files


def stats(paths: Iterable[str | bytes]) -> np.ndarray:
    """(n, 2) int64, size in bytes and modification time in ns of each file; -1 for files that cannot be read."""
    with ThreadPoolExecutor(THREADS) as pool:
        return np.array(list(pool.map(lambda path: state_of(partial(os.stat, path)), paths)), np.int64).reshape(-1, 2)


def state_of(stat: Callable[[], os.stat_result]) -> tuple[int, int]:
    """Size in bytes and modification time in ns of a file by its `stat`; -1 if it fails, as for a broken link."""
    try:
        found = stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _stamp(folder: str) -> tuple[int, int]:
    """What changes with the entries of a folder. Without the device, which differs between machines that share it."""
    state = os.stat(folder)
    return state.st_ino, state.st_mtime_ns


def _load(file: Path, folder: Path) -> Files | None:
    """The stored files; None if there are none, or if the folder has changed since."""
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = dict(content)
        files = Files(Names.unpack(arrays.pop("names")), arrays.pop("sizes"), arrays.pop("times"))
        folders, stamps = Names.unpack(arrays.pop("folders")), arrays.pop("stamps")
        if not len(files.names) == len(files.sizes) == len(files.times) or stamps.shape != (len(folders), 2):
            raise ValueError("its arrays differ in length")
        files.further.update(arrays)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        log.warning("the list of the files in %s is damaged, and is made again: %s: %s", folder, file, error)
        return None
    return files if _is_current(files, folder, folders, stamps) else None


def _is_current(files: Files, folder: Path, folders: Names, stamps: np.ndarray) -> bool:
    def has_stamp(row: int) -> bool:
        try:
            return _stamp(os.path.join(folder, names[row])) == tuple(stamps[row].tolist())
        except OSError:
            return False

    names = list(folders)
    with ThreadPoolExecutor(THREADS) as pool:
        if not all(pool.map(has_stamp, range(len(names)))):
            return False
    sample = evenly_spaced(len(files.names), CHECKED)
    now = stats(os.path.join(folder, files.names[i]) for i in sample.tolist())
    return bool((now == np.stack([files.sizes[sample], files.times[sample]], axis=1)).all())


def _store(file: Path, files: Files, visits: Visits) -> None:
    """Write a list. Another process that writes the same list at the same time does no harm."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as target:
            np.savez(
                target,
                names=files.names.packed,
                sizes=files.sizes,
                times=files.times,
                folders=Names.of(visits.stamps).packed,
                stamps=np.array(list(visits.stamps.values()), np.int64),
                **files.further,  # type: ignore[arg-type]
            )
        temporary.replace(file)
    except OSError as error:
        log.warning(
            "the list of the %d files in %s cannot be stored in %s, so that the next start takes as long: %s. Set %s "
            "to a folder that can be written",
            len(files.names), visits.top, file.parent, error.strerror or error, CACHE_VARIABLE,
        )  # fmt: skip
        with suppress(OSError):
            temporary.unlink()
