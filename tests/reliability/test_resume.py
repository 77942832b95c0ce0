"""Interrupted and killed runs resume, and end with the same results as uninterrupted runs."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch
import yaml

from detection import train as train_command
from detection.task import DetectionTask
from engine.cli import demo_unless_root
from tests.commands import fails, run
from tests.reliability.conftest import environment

# Each epoch has three batches. Gradients of two are accumulated: six batches, four steps in total.
TINY = ["--image_size", "64", "--epochs", "2", "--batch_size", "4", "--accumulate", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def uninterrupted(coco_root, tmp_path_factory):
    """A run that was not interrupted."""
    output = tmp_path_factory.mktemp("runs") / "uninterrupted"
    run(train_command, "--data.root", coco_root, "--output", output, *TINY)
    return output


def assert_same(first, second):
    """Compare weights, averages, optimiser states, and the files that depend only on the settings."""
    contents = [torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (first, second)]
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        tensors = [list(flattened(content[part])) for content in contents]
        assert len(tensors[0]) == len(tensors[1]) > 0, part
        for (name, a), (_, b) in zip(*tensors, strict=True):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b)), (part, name)
    for name in ("metrics.csv", "per_class.json", "detections.json"):
        assert (first / name).read_text() == (second / name).read_text(), name
    records = [json.loads((folder / "record.json").read_text()) for folder in (first, second)]
    for record in records:  # output folder and number of loader processes have no effect on results
        del record["config"]["output"], record["config"]["data"]["workers"]
    for key in ("metrics", "best", "config", "dataset", "params", "macs"):
        assert records[0][key] == records[1][key], key
    assert {p.name for p in (second / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def flattened(value, name=""):
    """Names and values of all tensors and numbers in nested containers."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from flattened(below, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for key, below in enumerate(value):
            yield from flattened(below, f"{name}.{key}")
    elif isinstance(value, (torch.Tensor, int, float)):
        yield name, value


def stopped_at(epoch, batch, task=DetectionTask):
    """A hook that sends SIGINT, as Ctrl-C does, to this process at the start of a batch."""
    before = task.on_train_batch_start

    def hook(self, images, batch_idx):
        if (self.current_epoch, batch_idx) == (epoch, batch):
            os.kill(os.getpid(), signal.SIGINT)
        return before(self, images, batch_idx)

    return hook


@pytest.mark.case("R1")
@pytest.mark.parametrize(
    ("epoch", "batch"),
    [
        pytest.param(0, 0, id="between accumulated batches", marks=pytest.mark.slow),
        pytest.param(0, 2, id="last batch", marks=pytest.mark.slow),
        pytest.param(1, 0, id="second epoch", marks=pytest.mark.slow),
        pytest.param(1, 1, id="within the second epoch"),
    ],
)
def test_ctrl_c_loses_nothing(uninterrupted, coco_root, tmp_path, monkeypatch, capsys, measured, epoch, batch):
    output = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(DetectionTask, "on_train_batch_start", stopped_at(epoch, batch))
        message = fails(capsys, 130, train_command, "--data.root", coco_root, "--output", output, *TINY)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves SIGINT ignored
    assert f"python -m detection.train --resume {output}" in message
    state = torch.load(output / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"] == epoch
    run(train_command, "--resume", output)
    assert_same(uninterrupted, output)
    measured("Ctrl-C within an epoch: largest difference of any weight, average or optimiser state 0.0")


@pytest.mark.case("R1")
def test_the_same_command_starts_and_resumes(uninterrupted, coco_root, tmp_path, monkeypatch, capsys):
    output = tmp_path / "auto"
    command = [train_command, "--data.root", coco_root, *TINY, "--resume", "auto"]
    assert "--output" in fails(capsys, 2, *command)
    with monkeypatch.context() as patch:
        patch.setattr(DetectionTask, "on_train_batch_start", stopped_at(1, 0))
        fails(capsys, 130, *command, "--output", output)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run(*command, "--output", output)
    assert_same(uninterrupted, output)
    written = (output / "record.json").stat().st_mtime_ns
    run(*command, "--output", output)
    assert "is complete: there is nothing to resume" in capsys.readouterr().err
    assert (output / "record.json").stat().st_mtime_ns == written


def test_the_demo_preset_is_for_new_runs_without_data():
    for arguments in ([], ["--resume", "auto"], ["--resume=auto", "--output", "run"]):
        assert demo_unless_root(arguments) == "demo"
    for arguments in (
        ["--resume", "run"],
        ["--device", "auto", "--resume", "run"],
        ["--resume=run", "--devices", "auto"],
        ["--data.root", "DATA", "--resume", "auto"],
        ["--data.train=FILE"],
    ):
        assert demo_unless_root(arguments) is None


@pytest.mark.case("R1")
def test_a_run_resumed_in_its_last_epoch_is_scored(coco_root, tmp_path, monkeypatch, capsys):
    """Also if `eval_every` would skip this epoch."""
    output, settings = tmp_path / "stopped", [*TINY, "--epochs", "1", "--eval_every", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(DetectionTask, "on_train_batch_start", stopped_at(0, 0))
        fails(capsys, 130, train_command, "--data.root", coco_root, "--output", output, *settings)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run(train_command, "--resume", output)
    assert "AP" in json.loads((output / "record.json").read_text())["metrics"]


@pytest.mark.case("resume")
def test_settings_that_contradict_are_refused(coco_root, tmp_path, monkeypatch, capsys):
    output = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(DetectionTask, "on_train_batch_start", stopped_at(0, 0))
        fails(capsys, 130, train_command, "--data.root", coco_root, "--output", output, "--lr", "0.01", *TINY)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for flag, value in (("lr", "0.001"), ("epochs", "30"), ("data.fraction", "0.5"), ("backbone", "resnet18")):
        # 0.001 and 30 are the defaults. As flags they contradict the run too.
        message = fails(capsys, 2, train_command, "--resume", output, f"--{flag}", value)
        assert flag.split(".")[0] in message
        assert value in message
    run(train_command, "--resume", output, "--lr", "0.01", "--epochs", 2)
    assert "complete" in fails(capsys, 2, train_command, "--resume", output)


def train_process(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "detection.train", *map(str, arguments)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, process, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.case("R1")
def test_kill_9_at_any_time(uninterrupted, coco_root, tmp_path, amount, measured):
    """Kill each run soon after its first checkpoint, and at a random time after each resume."""
    draw, kills, runs, wanted = random.Random(0), 0, 0, amount(1, 15)
    while kills < wanted:
        output, runs = tmp_path / f"killed{runs}", runs + 1
        last = output / "checkpoints" / "last.ckpt"
        process = train_process("--data.root", coco_root, "--output", output, *TINY, "--data.workers", 1)
        wait_for(last.exists, process)
        time.sleep(draw.uniform(0, 0.5))
        while True:
            if kills < wanted and process.poll() is None:
                process.kill()
                kills += 1
            process.wait()
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, process.stderr.read()
            if (output / "record.json").exists():  # complete, except for its pictures
                break
            process = train_process("--resume", output)
            with suppress(subprocess.TimeoutExpired):  # most of this time is imports
                process.wait(draw.uniform(0, 9) if kills < wanted else None)
        if process.returncode == 0:
            assert_same(uninterrupted, output)
    measured(f"{kills} kill -9, {runs} training{'s' * (runs != 1)}: weights and files as in an uninterrupted run")


@pytest.mark.case("R1")
def test_killed_after_the_last_epoch(uninterrupted, coco_root, tmp_path):
    """A run that was killed before it wrote the record: resuming only evaluates it and writes its results."""
    output = tmp_path / "late"
    run(train_command, "--data.root", coco_root, "--output", output, *TINY)
    for name in ("record.json", "detections.json", "per_class.json"):
        (output / name).unlink()
    run(train_command, "--resume", output)
    assert_same(uninterrupted, output)


@pytest.mark.case("R1")
def test_killed_while_pictures_are_written(uninterrupted, coco_root, tmp_path, monkeypatch):
    """`record.json` is written last, so that a run with a record has all its files."""
    arguments = ["--data.root", coco_root, "--output", tmp_path / "run", "--resume", "auto", *TINY]

    def stops(self, *_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DetectionTask, "pictures", stops)
        with pytest.raises(SystemExit):
            run(train_command, *arguments)
    assert not (tmp_path / "run" / "record.json").exists()
    run(train_command, *arguments)
    assert_same(uninterrupted, tmp_path / "run")
    names = [
        {path.relative_to(folder).as_posix() for path in folder.rglob("*") if "tfevents" not in path.name}
        for folder in (uninterrupted, tmp_path / "run")
    ]
    assert names[0] == names[1]


@pytest.mark.case("seed")
@pytest.mark.parametrize("workers", [0, 2])
def test_same_seed_same_numbers(uninterrupted, coco_root, tmp_path, workers):
    output = tmp_path / "again"
    run(train_command, "--data.root", coco_root, "--output", output, *TINY, "--data.workers", workers)
    first, second = (torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (uninterrupted, output))
    assert all(torch.equal(first["state_dict"][key], value) for key, value in second["state_dict"].items())
    assert (uninterrupted / "metrics.csv").read_text() == (output / "metrics.csv").read_text()


def test_one_row_per_epoch(uninterrupted):
    rows = list(csv.DictReader((uninterrupted / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert [row["step"] for row in rows] == ["2", "4"]
    assert all(float(row["loss"]) == pytest.approx(float(row["loss_class"]) + float(row["loss_box"])) for row in rows)


@pytest.mark.case("R1")
def test_two_processes_do_not_share_a_folder(coco_root, tmp_path, monkeypatch, capsys):
    """While another process holds the lock of a run, resuming it is an error and does not change the checkpoint."""
    import fcntl

    from engine import checkpoint

    output = tmp_path / "busy"
    with monkeypatch.context() as patch:
        patch.setattr(DetectionTask, "on_train_batch_start", stopped_at(0, 0))
        fails(capsys, 130, train_command, "--data.root", coco_root, "--output", output, *TINY)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = (output / "checkpoints" / "last.ckpt").read_bytes()
    monkeypatch.setattr(checkpoint, "PATIENCE", 0.5)
    with open(output / "config.yaml") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another process" in fails(capsys, 2, train_command, "--resume", output)
    assert (output / "checkpoints" / "last.ckpt").read_bytes() == before
    assert yaml.safe_load((output / "config.yaml").read_text())["accumulate"] == 2
