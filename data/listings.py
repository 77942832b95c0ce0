"""Remember lists of files for a while. To recognise a layout, formats list the same folders dozens of times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

_memory: ContextVar[dict[Any, list[Path]] | None] = ContextVar("listings", default=None)


@contextmanager
def listings_remembered() -> Iterator[None]:
    """Within this context, `remembered` finds each list once. The files must not change meanwhile."""
    if _memory.get() is not None:
        yield
        return
    token = _memory.set({})
    try:
        yield
    finally:
        _memory.reset(token)


def remembered(key: tuple[Any, ...], find: Callable[[], list[Path]]) -> list[Path]:
    """The list that `find` returned for this key within the context, or returns now."""
    memory = _memory.get()
    if memory is None:
        return find()
    if key not in memory:
        memory[key] = find()
    return list(memory[key])
