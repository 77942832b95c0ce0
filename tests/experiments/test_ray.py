"""Trainings on a Ray cluster: run folders are complete, and the training of a lost worker is repeated."""

import io
import json
import os
import signal
import tarfile
import threading
import time
from pathlib import Path

import pytest

from experiments.jobs.cell import Cell
from experiments.jobs.local import finished
from experiments.jobs.ray_runner import Mailbox, RayRunner, packed, unpack
from tests.classification.conftest import write_folders


def test_a_run_folder_is_sent_completely(tmp_path):
    (tmp_path / "worker" / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "worker" / "run" / "record.json").write_text("{}")
    (tmp_path / "worker" / "run.log").write_text("epoch 1/1")
    target = tmp_path / "cells" / "classification" / "resnet18-s0"
    target.mkdir(parents=True)
    (target / "left over").touch()
    unpack(packed(tmp_path / "worker" / "run"), target)
    assert sorted(path.name for path in target.iterdir()) == ["checkpoints", "record.json"]
    assert target.with_suffix(".log").read_text() == "epoch 1/1"
    assert len(list(target.parent.iterdir())) == 2


def test_an_archive_cannot_write_elsewhere(tmp_path):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../outside"))
    with pytest.raises(tarfile.OutsideDestinationError):
        unpack(content.getvalue(), tmp_path / "cells" / "run")
    assert not list(tmp_path.rglob("outside"))


def test_the_mailbox_passes_lines_on_and_ends_trainings():
    mailbox = Mailbox()
    assert not mailbox.put("a", "epoch 1/2")
    assert mailbox.take("a") == ["epoch 1/2"]
    assert mailbox.take("a") == []
    mailbox.end("a")
    assert mailbox.put("a", "epoch 2/2")
    assert not mailbox.put("b", "epoch 1/2")


@pytest.mark.slow
def test_a_killed_worker_is_replaced(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    root = write_folders(tmp_path / "data")
    arguments = ["--backbone", "mobilenetv2_035", "--pretrained", "false", "--protocol", "scratch", "--epochs", "1"]
    arguments += ["--image_size", "32", "--batch_size", "6", "--data.root", str(root), "--data.workers", "0"]
    cell, folder = Cell("classification", tuple(arguments)), tmp_path / "cells" / "run"
    runner = RayRunner(1)
    try:
        killed = threading.Event()

        def kill():
            """Kill the worker of the first attempt: the parent of the training."""
            while not killed.is_set():
                for process in Path("/proc").glob("[0-9]*"):
                    try:
                        words = (process / "cmdline").read_bytes().split(b"\0")
                        parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                    except OSError:
                        continue
                    if b"classification.train" in words and str(root).encode() in words:
                        os.kill(parent, signal.SIGKILL)
                        killed.set()
                        break
                time.sleep(0.1)

        thread = threading.Thread(target=kill)
        thread.start()
        outcome = runner.train(cell, folder, lambda line: None)
        thread.join()
    finally:
        ray.shutdown()
    assert outcome.error is None
    assert finished(cell, folder) is not None
    assert json.loads((folder / "record.json").read_text())["timed_alone"] is False
