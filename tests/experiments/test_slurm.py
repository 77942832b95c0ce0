"""Trainings as SLURM jobs, on a stub of SLURM's commands: arrays, lost and stopped jobs, and a lost driver."""

import json
import os
import signal
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from backbones.errors import UserError
from experiments.jobs import slurm_runner
from experiments.jobs.cell import Cell
from experiments.jobs.local import Pruned, finished
from experiments.jobs.slurm_runner import NewLines, SlurmRunner, SlurmTraining, largest_node
from tests.classification.conftest import write_folders
from tests.experiments import slurm_stub

needs_submitit = pytest.mark.skipif(find_spec("submitit") is None, reason="needs the extra `slurm`")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The folder with the state of the stub."""
    monkeypatch.setattr(slurm_stub, "STATE", tmp_path / "state")
    monkeypatch.setattr(slurm_runner, "POLL", 0.2)
    monkeypatch.setattr(slurm_runner, "LATE", 2.0)
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    slurm_stub.install(tmp_path / "bin", tmp_path / "state", monkeypatch)
    return tmp_path / "state"


def cell(tmp_path, seed=0, epochs=1):
    """A small training."""
    root = tmp_path / "data"
    if not root.exists():
        write_folders(root)
    arguments = ["--backbone", "test_efficientnet", "--pretrained", "false", "--epochs", epochs, "--image_size", 32]
    arguments += ["--batch_size", 6, "--data.root", root, "--data.workers", 0, "--seed", seed, "--device", "cpu"]
    return Cell("classification", tuple(map(str, arguments)))


def submissions(state):
    """Number of calls of sbatch."""
    return len((state / "submissions").read_text().splitlines())


def when_running(state, folder, action, after="epoch 1"):
    """Call `action` with the id of the first job, in a thread, once its training has printed `after`."""

    def wait():
        log = folder.with_suffix(".log")
        while not (log.exists() and after in log.read_text()):
            time.sleep(0.05)
        action(next(p.name for p in state.iterdir() if p.name.isdigit()))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@needs_submitit
def test_trainings_that_start_together_are_an_array(slurm, tmp_path):
    runner, lines = SlurmRunner(tmp_path / "jobs", 2), []
    cells = [cell(tmp_path, seed) for seed in (0, 1)]

    def train(item):
        return runner.train(item, tmp_path / "cells" / item.name, lines.append)

    outcomes = dict(runner.map(train, cells))
    assert [outcome.error for outcome in outcomes.values()] == [None, None]
    assert submissions(slurm) == 1
    assert {path.name for path in slurm.iterdir()} >= {"1_0", "1_1"}
    assert sum("epoch 1/1" in line for line in lines) == 2
    for item in cells:
        folder = tmp_path / "cells" / item.name
        assert finished(item, folder) is not None
        assert json.loads((folder / "record.json").read_text())["timed_alone"] is False
        assert not folder.with_suffix(".job").exists()


@needs_submitit
def test_a_lost_job_is_submitted_again(slurm, tmp_path):
    folder, item = tmp_path / "cells" / "run", cell(tmp_path, epochs=12)
    thread = when_running(slurm, folder, lambda job: os.killpg(slurm_stub.group_of(job), signal.SIGKILL))
    outcome = SlurmRunner(tmp_path / "jobs").train(item, folder, lambda line: None)
    thread.join()
    assert outcome.error is None
    assert submissions(slurm) == 2
    assert finished(item, folder) is not None


@needs_submitit
def test_a_job_that_slurm_stops_saves_and_is_queued_again(slurm, tmp_path):
    """The signal reaches all processes of the job, also the training."""
    folder, item = tmp_path / "cells" / "run", cell(tmp_path, epochs=15)
    thread = when_running(slurm, folder, lambda job: slurm_stub.scancel(job, "--signal", "USR2"), "epoch 3/")
    outcome = SlurmRunner(tmp_path / "jobs").train(item, folder, lambda line: None)
    thread.join()
    assert outcome.error is None
    assert submissions(slurm) == 1
    log = folder.with_suffix(".log").read_text()
    assert log.count("epoch 1/15") == 1  # the second part continued
    assert log.count("classification: test_efficientnet") == 2


@needs_submitit
def test_the_job_of_a_lost_driver_is_not_submitted_twice(slurm, tmp_path):
    folder, item = tmp_path / "cells" / "run", cell(tmp_path, epochs=10)
    folder.parent.mkdir()
    job = SlurmRunner(tmp_path / "jobs")._submit(SlurmTraining(item.task, item.arguments, str(folder)))
    folder.with_suffix(".job").write_text(json.dumps({"job": job.job_id}))
    outcome = SlurmRunner(tmp_path / "jobs").train(item, folder, lambda line: None)
    assert outcome.error is None
    assert submissions(slurm) == 1


@needs_submitit
def test_a_pruned_training_is_cancelled(slurm, tmp_path):
    def report(line):
        if "epoch 1/" in line:
            raise Pruned

    with pytest.raises(Pruned):
        SlurmRunner(tmp_path / "jobs").train(cell(tmp_path, epochs=500), tmp_path / "cells" / "run", report)
    until = time.monotonic() + 30
    while slurm_stub.is_running(slurm_stub.group_of("1")):
        assert time.monotonic() < until
        time.sleep(0.1)


@needs_submitit
def test_a_training_that_fails_is_not_repeated(slurm, tmp_path):
    item = Cell("classification", (*cell(tmp_path).arguments, "--lr", "1e30"))
    outcome = SlurmRunner(tmp_path / "jobs").train(item, tmp_path / "cells" / "run", lambda line: None)
    assert "not finite" in outcome.error
    assert submissions(slurm) == 1


def test_messages_without_slurm_or_submitit(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="needs submitit"):
        SlurmRunner(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no SLURM cluster can be reached from this machine: sinfo"):
        largest_node()


def test_only_new_and_complete_lines_are_passed_on(tmp_path):
    path = tmp_path / "run.log"
    path.write_text("of an earlier attempt\n")
    lines = NewLines(path)
    assert list(lines) == []
    with path.open("a") as file:
        file.write("epoch 1/2\nepoch")
    assert list(lines) == ["epoch 1/2"]
    with path.open("a") as file:
        file.write(" 2/2\n")
    assert list(lines) == ["epoch 2/2"]
    assert list(NewLines(tmp_path / "absent")) == []
