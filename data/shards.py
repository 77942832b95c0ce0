"""Shards: a few large files with the images of a data set, and an index, on this machine or in an object store.

    ROOT/shards.json                  kind of labels, classes, and the files of each split with their sizes
    ROOT/train.npz                    one row for each image: name, id, labels, and where its bytes are
    ROOT/train-00000.tar, ...         uncompressed archives

A member of an archive is an image as it was in its file, `000000042.jpg`, its mask of class indices,
`000000042.mask.png`, or its labels, `000000042.json`. This is WebDataset's convention, so that other tools read the
archives without the index. With the index, an image is one read of a range of bytes, in any order.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from backbones.errors import BadInput
from data.atomic_directory import cache_folder, create_once
from data.stores import Store

FILE = "shards.json"
VERSION = 1
COPY_OF = "store.json"  # in a copy of the index: the address of the shards
_FORMAT = "backbone-swap shards"


def description(root: Path) -> dict[str, Any]:
    """The content of `shards.json`. Raises BadInput if it is damaged, or written by a later version."""
    file = root / FILE
    try:
        return parsed(file.read_bytes(), str(file))
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}") from error


def parsed(content: bytes, source: str) -> dict[str, Any]:
    """The same for the content of the file. `source`: for messages."""
    try:
        found = json.loads(content)
        if found["format"] != _FORMAT:
            raise ValueError(f"its format is {found['format']!r}")
        if found["version"] > VERSION:
            raise BadInput(
                f"{source} has version {found['version']} of the layout, which this version of the package cannot read"
            )
        for split in found["splits"].values():
            names = [split["index"]["file"], *(shard["file"] for shard in split["shards"])]
            if any(Path(name).name != name or name.startswith(".") for name in names):
                raise ValueError("it names files outside of its folder")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"{source} does not describe shards: {error!r}") from error
    return found


def new_description(kind: str, splits: dict[str, Any]) -> dict[str, Any]:
    """The content of `shards.json`."""
    return {"format": _FORMAT, "version": VERSION, "kind": kind, "splits": splits}


@cache
def local_copy(url: str) -> Path:
    """A folder with the index of shards in a store, which the formats read as if the shards were there.

    The description is read from the store once for each process. The index is stored in the cache folder.
    """
    store = Store(url)
    source = f"{url}/{FILE}"
    content = store.read(FILE)
    found = parsed(content, source)
    folder = cache_folder() / "stores" / hashlib.sha256(url.encode() + b"\0" + content).hexdigest()[:20]

    def make(new: Path) -> None:
        (new / FILE).write_bytes(content)
        for split in found["splits"].values():
            file = split["index"]["file"]
            index = store.read(file)
            if hashlib.sha256(index).hexdigest() != split["index"]["sha256"]:
                raise BadInput(f"{url}/{file} does not belong to {source}: copy the folder again")
            (new / file).write_bytes(index)
        (new / COPY_OF).write_text(json.dumps({"url": url}))

    try:
        create_once(folder, COPY_OF, make, f"copying the index of {url}")
    except OSError as error:
        raise BadInput(f"cannot write the index of {url} to {folder}: {error.strerror or error}") from error
    return folder


def read_index(root: Path, split: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of the index of a split. Raises BadInput if it is damaged."""
    file = root / split["index"]["file"]
    try:
        with np.load(file, allow_pickle=False) as content:
            return dict(content)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"cannot read the index {file}: {reason}. Convert the data set again") from error


def place_of(root: Path) -> Store | Path:
    """Where the shards are: the store that `root` is a copy of the index of, or `root`."""
    file = root / COPY_OF
    return Store(json.loads(file.read_text())["url"]) if file.is_file() else root


def check_files(place: Store | Path, split: dict[str, Any]) -> None:
    """Raise BadInput if a shard is missing or has another size than its index states."""
    found = place.sizes() if isinstance(place, Store) else {}
    where = place.url if isinstance(place, Store) else place
    for shard in split["shards"]:
        name = shard["file"]
        if isinstance(place, Path) and (place / name).is_file():
            found[name] = (place / name).stat().st_size
        if name not in found:
            raise BadInput(f"the shard {where}/{name} is missing: copy the folder completely")
        if found[name] != shard["bytes"]:
            raise BadInput(
                f"the shard {where}/{name} has {found[name]} bytes, and not {shard['bytes']} as its index states: it "
                "is incomplete or of another conversion. Copy the folder again"
            )


class Contents:
    """index -> bytes of a member. Can be called from several threads, sent to other processes, and used after a fork.

    Args:
        place: see `place_of`.
        files: names of the shards.
        shard: (n,) index of the shard of each member.
        start: (n,) its first byte in the shard.
        length: (n,) its number of bytes.
    """

    def __init__(
        self, place: Store | Path, files: Sequence[str], shard: np.ndarray, start: np.ndarray, length: np.ndarray
    ) -> None:
        self.place, self.files, self.shard, self.start, self.length = place, list(files), shard, start, length
        self._open: dict[int, int] = {}
        self._fetched: dict[int, bytes] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Contents, (self.place, self.files, self.shard, self.start, self.length)

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)

    def __call__(self, index: int) -> bytes:
        if (fetched := self._fetched.pop(index, None)) is not None:
            return fetched
        shard, start, length = int(self.shard[index]), int(self.start[index]), int(self.length[index])
        if isinstance(self.place, Store):
            return self.place.read_range(self.files[shard], start, start + length)
        file = self.place / self.files[shard]
        try:
            # A read at a position needs no state of the open file: threads and forked processes share it.
            content = os.pread(self._descriptor(shard), length, start)
        except OSError as error:
            raise BadInput(f"cannot read {file}: {error.strerror}") from error
        if len(content) < length:
            raise BadInput(f"{file} ends within an image: copy it again")
        return content

    def prefetch(self, indices: Sequence[int]) -> None:
        """Request these members from the store, all at once. Those that fail are requested again by `__call__`."""
        if not isinstance(self.place, Store):
            return
        wanted = list(dict.fromkeys(int(index) for index in indices))
        starts = self.start[wanted]
        stops = starts + self.length[wanted]
        names = [self.files[shard] for shard in self.shard[wanted].tolist()]
        found = self.place.read_ranges(list(zip(names, starts.tolist(), stops.tolist(), strict=True)))
        self._fetched = {
            index: content for index, content in zip(wanted, found, strict=True) if content is not None
        }  # of one batch: what an earlier batch did not use is dropped

    def _descriptor(self, shard: int) -> int:
        with self._lock:
            if shard not in self._open:
                self._open[shard] = os.open(Path(self.place) / self.files[shard], os.O_RDONLY)  # type: ignore[arg-type]
            return self._open[shard]
