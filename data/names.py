"""Many file names in two arrays, which forked workers share and which are stored without pickle."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from operator import itemgetter, methodcaller
from typing import Any, overload

import numpy as np


class Names(Sequence[str]):
    """A sequence of n names. A list of a million strings takes four times the memory.

    Attributes:
        packed: (bytes,) uint8, the names as the file system has them, each followed by a zero byte.
        ends: (n,) int64, position of the zero byte of each name.
    """

    def __init__(self, packed: np.ndarray, ends: np.ndarray) -> None:
        self.packed, self.ends = packed, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """The names of a list; `names` itself if it is packed already."""
        if isinstance(names, Names):
            return names
        text = "".join(f"{name}\0" for name in names)
        return cls.unpack(np.frombuffer(os.fsencode(text), np.uint8))

    @classmethod
    def unpack(cls, packed: np.ndarray) -> Names:
        """The names in an array of bytes."""
        return cls(packed, np.flatnonzero(packed == 0))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]  # negative indices, and IndexError, as in a list
        start = self.ends[position - 1] + 1 if position else 0
        return os.fsdecode(self.packed[start : self.ends[position]].tobytes())

    def __iter__(self) -> Iterator[str]:
        return iter(os.fsdecode(self.packed.tobytes()).split("\0")[:-1])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return np.array_equal(self.packed, other.packed)
        return list(self) == other if isinstance(other, list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Names({self[:3]}{' and more' if len(self) > 3 else ''})"

    @property
    def digest(self) -> hashlib._Hash:
        """SHA-256 of the names in their order."""
        return hashlib.sha256(self.packed.tobytes())

    @cached_property
    def folders(self) -> list[str]:
        """The folders of the names, each once: the parts before the last slash."""
        # Without a Python function in the loop: a million names take a third of a second.
        return list(dict.fromkeys(map(itemgetter(0), map(methodcaller("rpartition", "/"), self))))

    @cached_property
    def are_unique(self) -> bool:
        """Whether no name occurs twice."""
        return len(set(self)) == len(self)

    def take(self, rows: np.ndarray) -> Names:
        """The names with these indices."""
        every = list(self)
        return Names.of([every[i] for i in rows.tolist()])


def take(names: Sequence[str], rows: np.ndarray) -> Sequence[str]:
    """The names with these indices, packed if they were."""
    return names.take(rows) if isinstance(names, Names) else [names[i] for i in rows]
