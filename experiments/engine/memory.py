"""How the process handles memory."""

from __future__ import annotations

import ctypes
import sys

# <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let glibc keep large blocks that are freed, for the next step to use; returns whether it could be told.

    By default every tensor above 32 MB is mapped afresh and zeroed page by page when first written, which costs more
    than many of the operations on it: a training step of the default detector at 320 px takes 22% less time without
    (1.07 s against 1.37 s on two cores), as it does with jemalloc. Nothing changes outside Linux's glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, -1))
