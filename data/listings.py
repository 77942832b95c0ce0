"""Remember lists of files for a while. To recognise a layout, formats list the same folders dozens of times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

_memory: ContextVar[dict[Any, list[Any]] | None] = ContextVar("listings", default=None)


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


def remembered(key: tuple[Any, ...], find: Callable[[], list[T]]) -> list[T]:
    """The list that `find` returned for this key within the context, or returns now."""
    memory = _memory.get()
    if memory is None:
        return find()
    if key not in memory:
        memory[key] = find()
    return list(memory[key])
