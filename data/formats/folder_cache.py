"""Remembers what folders contain, so that recognising a layout does not list a large folder again and again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

# ns. A folder that changed less than this ago is listed again, because the time of a change is not exact: 10 ms on
# Linux, 2 s on FAT.
RECENT = 2_500_000_000
MOST = 1000  # longest result, and largest number of results, that are remembered

P = ParamSpec("P")
T = TypeVar("T")


def unless_changed(function: Callable[Concatenate[Path, P], T]) -> Callable[Concatenate[Path, P], T]:
    """A function of a folder that is called again only if files were added to, or removed from, the folder.

    Its result must depend on the names and types of the entries of that folder alone, and must not be changed.
    """
    results: dict[tuple[Any, ...], tuple[tuple[int, int, int], T]] = {}

    @wraps(function)
    def remembered(folder: Path, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            state = os.stat(folder)
        except OSError:
            return function(folder, *args, **kwargs)
        stamp = state.st_dev, state.st_ino, state.st_mtime_ns
        key = (os.fspath(folder), args, tuple(kwargs.items()))
        if key in results and results[key][0] == stamp:
            return results[key][1]
        result = function(folder, *args, **kwargs)
        is_small = not isinstance(result, list) or len(result) <= MOST
        if is_small and time.time_ns() - state.st_mtime_ns > RECENT:
            if len(results) >= MOST:
                results.clear()
            results[key] = stamp, result
        return result

    return remembered
