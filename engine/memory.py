"""How the process allocates memory."""

from __future__ import annotations

import ctypes
import sys

# <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Make glibc reuse large blocks of freed memory. Returns whether it accepted; without glibc nothing changes.

    By default glibc maps every tensor above 32 MB anew, and the kernel zeroes each page at the first write. This costs
    more than many of the operations on the tensor. Without it, on two cores, a training step of the default detector at
    320 px takes 22% less time (1.07 s instead of 1.37 s; jemalloc saves as much), and a forward pass over eight images
    of 512 px takes half the time (0.53 s instead of 1.1 s).
    """
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, -1))


def release_freed_memory() -> None:
    """Return freed memory to the system, so that other allocators, such as those of JIT compilers, can use it."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return libc if hasattr(libc, "gnu_get_libc_version") else None
