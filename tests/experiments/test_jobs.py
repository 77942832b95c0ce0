"""Signals that reach an experiment also reach its training, which can then save a checkpoint."""

import os
import signal
import sys
import threading

import pytest

from experiments.jobs import local
from experiments.jobs.cell import Cell

TRAINING = """#!{python}
import signal, sys, time, pathlib
def stop(number, frame):
    pathlib.Path({proof!r}).write_text("saved")
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
print("started", file=sys.stderr, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_sigterm_reaches_the_training(tmp_path, monkeypatch):
    program, proof = tmp_path / "python", tmp_path / "proof"
    program.write_text(TRAINING.format(python=sys.executable, proof=str(proof)))
    program.chmod(0o755)
    monkeypatch.setattr(local.sys, "executable", str(program))
    before = signal.getsignal(signal.SIGTERM)

    def report(line):
        assert line == "started"
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()

    cell = Cell("classification", ("--backbone", "resnet18"))
    with (tmp_path / "lock").open("a") as lock, pytest.raises(KeyboardInterrupt):
        local.run(cell, tmp_path / "cells" / "run", lock, report)
    assert proof.read_text() == "saved"
    assert signal.getsignal(signal.SIGTERM) == before
