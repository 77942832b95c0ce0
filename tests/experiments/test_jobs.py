"""Trainings of an experiment: signals reach them, and several share the cores. Fake programs replace trainings."""

import json
import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from torch import nn

from backbones.errors import UserError
from experiments.jobs import local, timing
from experiments.jobs.cell import Cell
from experiments.jobs.runner import LocalRunner

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
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_training(tmp_path, monkeypatch, number):
    program, proof = tmp_path / "python", tmp_path / "proof"
    program.write_text(TRAINING.format(python=sys.executable, proof=str(proof)))
    program.chmod(0o755)
    monkeypatch.setattr(local.sys, "executable", str(program))
    before = signal.getsignal(signal.SIGTERM)

    def report(line):
        assert line == "started"
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()

    cell = Cell("classification", ("--backbone", "resnet18"))
    with (tmp_path / "lock").open("a") as lock, pytest.raises(KeyboardInterrupt):
        local.run(cell, tmp_path / "cells" / "run", lock, report)
    assert proof.read_text() == "saved"
    assert signal.getsignal(signal.SIGTERM) == before


RECORDING = """#!{python}
import json, os, pathlib, signal, sys, time
place = pathlib.Path({folder!r}) / str(os.getpid())
def stop(number, frame):
    place.with_suffix(".saved").touch()
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
started = time.monotonic()
print("started", file=sys.stderr, flush=True)
time.sleep({seconds})
times = [started, time.monotonic()]
content = [times, sorted(os.sched_getaffinity(0)), os.environ["OMP_NUM_THREADS"]]
place.with_suffix(".json").write_text(json.dumps(content))
output = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
output.mkdir(parents=True)
"""


@pytest.fixture
def trainings(tmp_path, monkeypatch):
    """Starts programs in place of trainings. Returns a function that sets how long they take, and their folder."""
    folder = tmp_path / "proofs"
    folder.mkdir()

    def last(seconds):
        program = tmp_path / "python"
        program.write_text(RECORDING.format(python=sys.executable, folder=str(folder), seconds=seconds))
        program.chmod(0o755)
        monkeypatch.setattr(local.sys, "executable", str(program))
        return folder

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return last


def cells(count):
    return [
        Cell("classification", ("--backbone", "resnet18", "--device", "cpu", "--seed", str(i))) for i in range(count)
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="cores of a process")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_trainings_at_the_same_time_divide_the_cores(trainings, tmp_path):
    folder = trainings(1.5)
    with (tmp_path / "lock").open("a") as lock:
        runner = LocalRunner(lock, 2)
        done = dict(runner.map(lambda cell: runner.train(cell, tmp_path / cell.name, print), cells(3)))
    assert all(outcome.error is None for outcome in done.values())
    found = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    (first, second, third) = sorted(times for times, _, _ in found)
    assert first[0] < second[0] < first[1]
    assert third[0] >= min(first[1], second[1])
    assert {len(set(a) & set(b)) for _, a, _ in found for _, b, _ in found if a != b} == {0}
    assert {threads == str(len(cores)) for _, cores, threads in found} == {True}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_sigterm_stops_all_trainings(trainings, tmp_path):
    folder = trainings(30)
    started = []

    def report(line):
        started.append(line)
        if len(started) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with (tmp_path / "lock").open("a") as lock:
        runner = LocalRunner(lock, 2)
        ended = runner.map(lambda cell: runner.train(cell, tmp_path / cell.name, report), cells(3))
        with pytest.raises(KeyboardInterrupt):
            list(ended)
    assert len(list(folder.glob("*.saved"))) == 2


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_no_training_starts_after_a_stop(trainings, tmp_path):
    """A thread may be between two trainings when the others are stopped."""
    trainings(30)
    started = time.monotonic()
    with (tmp_path / "lock").open("a") as lock:
        runner = LocalRunner(lock, 2)
        runner.stop()
        with pytest.raises(KeyboardInterrupt):
            runner.train(cells(1)[0], tmp_path / "late", print)
    assert time.monotonic() - started < 20


def test_more_trainings_than_cores_are_refused(tmp_path):
    with (tmp_path / "lock").open("a") as lock, pytest.raises(UserError, match="this machine has"):
        LocalRunner(lock, 10_000)


def test_latency_is_measured_again_when_no_training_runs(tmp_path, monkeypatch):
    calls = []
    network = SimpleNamespace(model=nn.Identity(), preprocessing={"size": [8, 8]})
    monkeypatch.setattr("experiments.runs.load_run", lambda run: calls.append(run) or network)
    monkeypatch.setattr(timing, "cost", lambda *_: {"latency_ms": 1.5, "images_per_second": 2.0, "timed_alone": True})
    for number, alone in enumerate([True, False, False]):
        record = {"task": "detection", "backbone": "a", "macs": 1, "params": 2, "timed_alone": alone,
                  "latency_ms": 9, "images_per_second": 9, "device": {"type": "cpu", "threads": 0}}  # fmt: skip
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "record.json").write_text(json.dumps(record))
    timing.time_alone([tmp_path / str(number) for number in range(3)])
    records = [json.loads((tmp_path / str(number) / "record.json").read_text()) for number in range(3)]
    assert [record["latency_ms"] for record in records] == [9, 1.5, 1.5]
    assert len(calls) == 1
    assert all(record["timed_alone"] for record in records)
