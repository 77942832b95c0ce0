"""Finds and signals the processes of a training in tests."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path


def heed_interrupts():
    """For `preexec_fn`: a shell starts commands in the background with SIGINT ignored, which programs inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def processes(*words):
    """Parents by process id, of all processes whose command line contains these words."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            status = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if status[0] != "Z" and all(word in line for word in words):
            found[int(folder.name)] = int(status[1])
    found.pop(os.getpid(), None)
    return found


def kill(pids, number):
    """Send a signal to processes that may have ended."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def left(*words, seconds=20):
    """The processes that still run after a time."""
    until = time.monotonic() + seconds
    while (found := processes(*words)) and time.monotonic() < until:
        time.sleep(0.2)
    kill(found, signal.SIGKILL)
    return found
