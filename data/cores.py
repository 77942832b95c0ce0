"""The CPU cores that this process may use. Torch-free."""

from __future__ import annotations

import os


def available_cores() -> list[int]:
    """Numbers of the cores, in ascending order. On systems without affinity these are all cores of the machine."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
