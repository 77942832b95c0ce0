"""Failures of the machine: full disk, killed processes, lack of memory, no network."""

import errno
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from detection import eval as eval_command
from detection import train as train_command
from detection.task import DetectionTask
from engine import record
from engine.checkpoint import sweep
from engine.checkpoint_io import AtomicCheckpointIO
from engine.lightning_module import TaskModule
from engine.record import write_json
from tests.commands import fails, run
from tests.reliability.conftest import environment, fill

TINY = ["--image_size", "64", "--epochs", "2", "--batch_size", "4", "--device", "cpu"]


def write_forever(path, start):
    torch.set_num_threads(1)
    for step in range(start, start + 10**6):
        AtomicCheckpointIO().save_checkpoint({"weights": torch.full((300_000,), float(step)), "step": step}, path)


@pytest.mark.case("R2")
def test_kill_9_while_a_checkpoint_is_written(tmp_path, amount, measured):
    path, draw, kills, caught, step = tmp_path / "last.ckpt", random.Random(0), amount(15, 100), 0, 0
    fork = multiprocessing.get_context("fork")
    for _ in range(kills):
        process = fork.Process(target=write_forever, args=(path, step))
        process.start()
        before = path.stat().st_ino if path.exists() else None
        while not path.exists() or path.stat().st_ino == before:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.02))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        caught += len(list(tmp_path.glob(".last.ckpt.*")))
        content = torch.load(path, weights_only=True)
        assert content["step"] >= step
        assert (content["weights"] == content["step"]).all()
        step = content["step"]
        sweep(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    assert caught  # at least one kill happened during a write
    measured(f"{kills} kills, {caught} of them during a write: every `last.ckpt` complete, no other file remains")


@pytest.mark.case("R23")
def test_a_drive_that_does_not_replace_files(coco_root, tmp_path, monkeypatch, capsys):
    """A file that another program has open: tried again, then one message, and the run resumes."""
    replace, refused = Path.replace, []

    def refuses(self, target):
        if Path(target).name == "metrics.csv" and Path(target).exists() and len(refused) < limit:
            refused.append(target)
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(self), None, str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuses)
    monkeypatch.setattr(record, "PATIENCE", 0.3)
    arguments = ["--data.root", coco_root, "--output", tmp_path / "run", "--resume", "auto", *TINY]
    limit = 1000
    message = fails(capsys, 3, train_command, *arguments)
    assert f"cannot use {tmp_path / 'run' / 'metrics.csv'}" in message
    assert len(refused) > 1
    refused.clear()
    limit = 2
    run(train_command, *arguments)
    assert len(refused) == 2
    assert (tmp_path / "run" / "record.json").exists()


@pytest.mark.case("R3")
def test_disk_full_while_training(small_disk, coco_root, monkeypatch, capsys, measured):
    disk = small_disk(400)
    output, last = disk / "run", disk / "run" / "checkpoints" / "last.ckpt"
    before = TaskModule.on_train_epoch_start
    contents = []

    def hook(self):
        if self.current_epoch == 1:
            contents.append(last.read_bytes())
            fill(disk)
        return before(self)

    with monkeypatch.context() as patch:
        patch.setattr(TaskModule, "on_train_epoch_start", hook)
        message = fails(capsys, 3, train_command, "--data.root", coco_root, "--output", output, *TINY)
    assert "disk is full" in message or "No space left" in message or "cannot write" in message
    assert last.read_bytes() == contents[0]
    assert [p.name for p in last.parent.glob(".*")] == []
    (disk / "filler").unlink()
    run(train_command, "--resume", output)
    assert (output / "record.json").exists()
    measured("400 MB tmpfs filled after the first epoch: last.ckpt unchanged, exit 3, then resumed")


@pytest.mark.case("R3")
def test_disk_full_while_a_result_is_written(small_disk):
    disk = small_disk(1)
    write_json(disk / "x.json", {"a": 1})
    fill(disk)
    with pytest.raises(OSError, match="No space"):
        write_json(disk / "x.json", {"a": list(range(100_000))})
    assert (disk / "x.json").read_text().split() == ["{", '"a":', "1", "}"]
    assert sorted(p.name for p in disk.iterdir()) == ["filler", "x.json"]


@pytest.mark.case("R4")
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_divergence_keeps_the_last_good_checkpoint(coco_root, tmp_path, monkeypatch, capsys, what):
    """Loss or gradient is infinite in the second epoch: no optimiser step follows."""
    output, steps = tmp_path / "run", []
    losses, start = DetectionTask.losses, DetectionTask.on_train_batch_start

    def hook(self, batch, batch_idx):
        steps.append((self.current_epoch, batch_idx))
        return start(self, batch, batch_idx)

    def infinite(self, images, batch):
        terms = losses(self, images, batch)
        if self.current_epoch == 1:
            weight = next(p for p in self.model.parameters() if p.requires_grad)
            # The gradient of sqrt(x - x) is infinite where its value is 0.
            terms["box"] = terms["box"] + ((weight - weight).abs().sum().sqrt() if what == "gradient" else torch.inf)
        return terms

    monkeypatch.setattr(DetectionTask, "losses", infinite)
    monkeypatch.setattr(DetectionTask, "on_train_batch_start", hook)
    message = fails(capsys, 4, train_command, "--data.root", coco_root, "--output", output, *TINY)
    assert f"the {what} is not finite" in message
    assert "images " in message
    assert steps[-1] == (1, 0)  # the first step of the second epoch was the last
    state = torch.load(output / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == 1
    assert all(value.isfinite().all() for value in state["current_model_state"].values())


def children(pid):
    """Ids of the child processes."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.case("R13")
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize("victim", ["worker", pytest.param("trainer", marks=pytest.mark.slow)])
def test_killed_processes_leave_none_behind(coco_root, tmp_path, victim, measured):
    process = subprocess.Popen(
        [sys.executable, "-m", "detection.train", "--data.root", coco_root, "--output", tmp_path / "run", *TINY,
         "--epochs", "500", "--data.workers", "2"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment(),
    )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while not (tmp_path / "run" / "metrics.csv").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.05)
        workers = children(process.pid)
        assert len(workers) >= 2
        started = time.monotonic()
        os.kill(workers[0] if victim == "worker" else process.pid, signal.SIGKILL)
        _, message = process.communicate(timeout=60)
        took = time.monotonic() - started
        if victim == "worker":
            assert process.returncode == 3, message
            assert "a loader process died" in message
            assert "Traceback" not in message
        until = time.monotonic() + 30
        while any(alive(worker) for worker in workers):
            assert time.monotonic() < until
            time.sleep(0.1)
        measured(f"{victim} killed: all processes gone after {max(took, time.monotonic() - started):.0f} s")
    finally:
        process.kill()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def unshared(*flags):
    """The words that run a command in a namespace of its own. Skips the test if that is not allowed."""
    words = ["unshare", *flags]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip(f"{' '.join(words)} is not allowed here")
    return words


@pytest.mark.slow
@pytest.mark.case("R13")
def test_shared_memory_full(coco_root, tmp_path):
    command = f"mount -t tmpfs -o size=64k tmpfs /dev/shm && exec {sys.executable} -m detection.train " + " ".join(
        map(str, ["--data.root", coco_root, "--output", tmp_path / "run", *TINY, "--data.workers", 2])
    )
    done = subprocess.run(
        [*unshared("-m"), "sh", "-c", command], capture_output=True, text=True, timeout=120, env=environment()
    )
    assert done.returncode == 3, done.stderr
    assert "shared memory" in done.stderr
    assert "--data.workers 0" in done.stderr.replace("\n ", "")
    assert "Traceback" not in done.stderr


LIMITED = """
import resource, sys
from pathlib import Path
from detection import {command}
from detection.task import DetectionTask

def limit(extra):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, resource.getrlimit(resource.RLIMIT_AS)[1]))

before = DetectionTask.{hook}
def hook(self, *arguments):
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        limit({megabytes} * 2**20)
    return before(self, *arguments)
DetectionTask.{hook} = hook
{command}.main(sys.argv[1:])
"""


def limited(command, hook, megabytes, *arguments):
    """Run a command whose address space can grow by at most `megabytes` after the first call of `hook`."""
    code = LIMITED.format(command=command, hook=hook, megabytes=megabytes)
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=180, env=environment(),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.case("R14")
@pytest.mark.skipif(sys.platform != "linux", reason="limits address space as Linux does")
def test_training_that_does_not_fit(coco_root, tmp_path):
    done = limited("train", "on_train_batch_start", 300, "--data.root", coco_root, "--output", tmp_path / "run",
                   "--image_size", 512, "--epochs", 1, "--batch_size", 12, "--device", "cpu")  # fmt: skip
    assert done.returncode == 3, done.stderr
    message = " ".join(done.stderr.split())
    assert "--batch_size 6 --accumulate 2" in message
    assert "Traceback" not in message


@pytest.mark.slow
@pytest.mark.case("R14")
@pytest.mark.skipif(sys.platform != "linux", reason="limits address space as Linux does")
def test_evaluation_that_does_not_fit_halves_its_batch(coco_root, tmp_path, measured):
    run(train_command, "--data.root", coco_root, "--output", tmp_path / "run", *TINY, "--epochs", 1)
    score = ["--checkpoint", tmp_path / "run", "--image_size", 512, "--device", "cpu", "--data.split", "train"]
    run(eval_command, *score, "--batch_size", 1, "--output", tmp_path / "one")
    done = limited("eval", "predictions", 260, *score, "--batch_size", 12, "--output", tmp_path / "twelve")
    assert done.returncode == 0, done.stderr
    assert "at a time" in done.stderr
    for name in ("metrics.json", "detections.json"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "twelve" / name).read_text()
    measured("12 images per batch did not fit: batch halved until it fitted, same scores as with one image per batch")


@pytest.mark.case("R18")
def test_without_a_network(tmp_path):
    command = [sys.executable, "-m", "classification.eval", "--backbone", "resnet50", "--data.root", tmp_path]
    done = subprocess.run(
        [*unshared("-n"), *command], capture_output=True, text=True, timeout=120,
        env=environment() | {"HF_HOME": str(tmp_path / "hub"), "TORCH_HOME": str(tmp_path / "torch")},
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "and save it as" in " ".join(done.stderr.split())  # where to put them
    assert "Traceback" not in done.stderr


# This runs in a new process, because the peak memory of this one may be higher already.
REFUSING = """
import sys
import torch
from backbones.errors import BadInput
from data.images import read_image
from engine.record import peak_memory_mb
before = peak_memory_mb(torch.device("cpu"))
try:
    read_image(sys.argv[1])
except BadInput as error:
    print(peak_memory_mb(torch.device("cpu")) - before, error)
"""


@pytest.mark.case("R12")
def test_a_bomb_costs_no_memory(tmp_path, measured):
    """A small PNG with 60,000 x 60,000 pixels of one colour. Decoded, it would take 10 GB."""
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compressobj(9)
    body = b"".join(rows.compress(bytes(7501)) for _ in range(60_000)) + rows.flush()
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", REFUSING, str(tmp_path / "bomb.png")], capture_output=True, text=True, check=True
    )
    rise, message = done.stdout.split(maxsplit=1)
    assert "megapixels" in message
    assert float(rise) < 100
    measured(f"{len(content) // 1024} KB bomb of 3,600 megapixels: {float(rise):.0f} MB more memory")
