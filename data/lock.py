"""Locks on open files, which last as long as any process has the file open. The system frees them, however it ends.

filelock's `FileLock` serves where a lock ends with a block of code. It cannot serve where a lock has to outlive its
process: a training, or a loader process, inherits the open file, and nobody else may take its folder before it ends.
`FileLock` keeps its descriptor to itself, closes it in forked processes, and unlocks at release, which frees the lock
for those that inherited it as well. The function below takes the lock of a file that the caller opens and closes.
"""

from __future__ import annotations

import errno
import time
from typing import IO

from filelock import lock_descriptor

POLL = 0.1  # seconds between attempts
# What flock answers where a file system has no locks: Lustre mounted without them, some FUSE and network drives.
_MISSING = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


class LocksMissing(OSError):
    """The file system has no locks: nobody can say whether another process is at work."""


def lock_file(file: IO[str], patience: float = 0.0) -> bool:
    """Take the exclusive lock of an open file; returns whether it was free within `patience` seconds.

    The lock is freed when the last process that has the file open, by inheritance as well, closes it or ends.

    Args:
        file: open for writing: NFS refuses exclusive locks of files that are open for reading only.
        patience: seconds to wait for another process; infinity waits as long as it takes.

    Raises LocksMissing where the file system has no locks, OSError where locking fails otherwise.
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
