"""Finds the image of the truth that a result names: by its path, by the end of its path, or by its name alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

SHOWN = 3  # examples in messages
SEVERAL = -1


class ImageNames:
    """The images of the truth by name.

    A text finds an image if it equals its path or the end of its path, or ends with its path. The longest match counts.

    Args:
        names: paths of the images.
        stems: whether to leave out the suffixes of these paths.
    """

    def __init__(self, names: Sequence[str], stems: bool = False) -> None:
        self.names = names
        self._ends: dict[tuple[str, ...], int] = {}
        for index, name in enumerate(names):
            parts = _parts(name)
            if stems and parts:
                parts = (*parts[:-1], stem_of(parts[-1]))
            for end in _ends(parts):
                self._ends[end] = SEVERAL if end in self._ends else index

    def find(self, text: str) -> int | None:
        """Index of the image; None if there is none, `SEVERAL` if the text fits several images equally well."""
        for end in _ends(_parts(text)):
            if end in self._ends:
                return self._ends[end]
        return None


def stem_of(path: str) -> str:
    """The path without the suffix of the file."""
    return str(PurePosixPath(path).with_suffix("")) if PurePosixPath(path).name else path


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.strip().replace("\\", "/")).parts


def _ends(parts: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    return (parts[start:] for start in range(len(parts)))


def examples(values: Iterable[object]) -> str:
    """A few of the values, for a message."""
    found = [str(value) for value in values]
    return ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
