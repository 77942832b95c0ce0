"""Locks on open files. A lock lasts as long as any process has the file open, and ends with the last of them.

filelock's `FileLock` is enough for a lock that ends with a block of code. It is not enough for a lock that must outlive
the process that took it: trainings and loader processes inherit the open file, and no other process may use their
folder before they end. `FileLock` hides its descriptor, closes it in forked processes, and unlocks it on release, which
also releases the lock of processes that inherited it. The function below locks a file that the caller opens and closes.
"""

from __future__ import annotations

import errno
import sys
import time
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

POLL = 0.1  # seconds between attempts
# Errors of flock on file systems without locks: Lustre mounted without locks, some FUSE and network drives.
_MISSING = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


class LocksMissing(OSError):
    """The file system has no locks, so that it is unknown whether another process uses the folder."""


def lock_file(file: IO[str], patience: float = 0.0) -> bool:
    """Take the exclusive lock of an open file. Returns whether that succeeded within `patience` seconds.

    The lock is released when all processes that have the file open, also by inheritance, have closed it or ended.

    Args:
        file: open for writing, since NFS refuses exclusive locks of files that are open only for reading.
        patience: seconds to wait for another process; infinity waits without limit.

    Raises LocksMissing if the file system has no locks, and OSError for other failures.
    """
    until = time.monotonic() + patience
    try:
        while not lock_descriptor(file.fileno(), blocking=False):
            if time.monotonic() >= until:
                return False
            time.sleep(POLL)
    except OSError as error:
        if error.errno in _MISSING:
            raise LocksMissing(error.errno, error.strerror) from error
        raise
    return True


def lock_or_warn(file: IO[str], patience: float, folder: Path, work: str) -> bool:
    """As `lock_file`, but a file system without locks leads to a warning, and counts as success.

    Args:
        file, patience: see `lock_file`.
        folder: for the warning, the folder that the lock protects.
        work: for the warning, what must run only once in the folder, such as "training".
    """
    try:
        return lock_file(file, patience)
    except LocksMissing as error:
        warning = f"the file system of {folder} has no locks ({error.strerror}): start only one {work} there"
        print(f"warning: {warning}", file=sys.stderr)
        return True
