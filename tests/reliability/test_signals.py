"""Signals to processes of a distributed training, at random times: no hang, no process left, nothing lost."""

import csv
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.classification.conftest import write_folders
from tests.engine.test_distributed import FROZEN, assert_equal
from tests.reliability.conftest import environment
from tests.reliability.processes import heed_interrupts, kill, left, processes

EPOCHS = 40
SETTINGS = ["--image_size", "32", "--batch_size", "8", "--mixup", "0.2", "--epochs", str(EPOCHS), "--device", "cpu",
            "--backbone", "test_efficientnet", "--stochastic_depth", "0.2", "--pretrained", "false",
            "--protocol", "scratch", "--optimizer", "sgd", "--lr", "0.01", "--data.workers", "0",
            "--resume", "auto"]  # fmt: skip
LIMIT = 60  # seconds in which all processes must have ended after a signal


class Storm:
    """Trainings of the same settings, of which some are signalled.

    Attributes:
        duration: seconds that a training takes.
        sent: what was sent so far, and how long the processes took to end.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        self.root = write_folders(folder / "data", train=16)
        self.duration, self.sent = 0.0, []

    def start(self, output, world):
        """The training in `world` processes: a new run, or the one in `output`."""
        program = f"import sys; from engine.launch import launch; sys.exit(launch(sys.argv[1:], {world}))"
        words = [
            sys.executable,
            "-m",
            FROZEN,
            "classification",
            *SETTINGS,
            "--data.root",
            self.root,
            "--output",
            output,
        ]
        with (self.folder / f"{output.name}.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-c", program, *map(str, words)],
                env=environment(),
                stdout=log,
                stderr=log,
                preexec_fn=heed_interrupts,
            )

    def undisturbed(self, output, world):
        """A training without a signal."""
        started = time.monotonic()
        assert self.start(output, world).wait(1200) == 0, (self.folder / f"{output.name}.log").read_text()
        self.duration = time.monotonic() - started

    def disturbed(self, output, world):
        """A training that is signalled at a random time. Returns whether it ended before that."""
        process, began = self.start(output, world), time.monotonic()
        checkpoint = output / "checkpoints" / "last.ckpt"
        waits, seconds = self.draw.random() < 0.6, self.draw.uniform(0, self.duration)
        if waits:  # a time in which batches are trained
            seconds = self.draw.uniform(0, 0.4 * self.duration)
            while process.poll() is None and not checkpoint.exists():
                time.sleep(0.02)
            began = time.monotonic()
        while process.poll() is None and time.monotonic() < began + seconds:
            time.sleep(0.02)
        number = self.draw.choice((signal.SIGTERM, signal.SIGINT, signal.SIGKILL))
        ranks = sorted(pid for pid, parent in processes(FROZEN, str(output)).items() if parent == process.pid)
        targets = {"one": [self.draw.choice(ranks)], "all": [*ranks, process.pid]} if ranks else {}
        name, pids = self.draw.choice([*targets.items(), ("launcher", [process.pid])])
        if process.poll() is not None:
            assert process.returncode == 0, (self.folder / f"{output.name}.log").read_text()
            return True
        kill(pids, number)
        sent = time.monotonic()
        try:
            code = process.wait(LIMIT)
            remaining = left(FROZEN, str(output))
        finally:
            process.kill()
        taken = time.monotonic() - sent
        self.sent.append((number.name, name, world, code, taken))
        print(f"{output.name}: {number.name} to {name} of {world}, exit code {code} after {taken:.1f} s", flush=True)
        assert not remaining
        assert taken < LIMIT
        # 128 + N: a process ended by a signal before it could handle it. 75 would be a lost connection without a cause.
        assert code in (0, 130, 128 + signal.SIGTERM, 128 + signal.SIGKILL, -number)
        return code == 0


def losses(folder):
    with (folder / "metrics.csv").open() as file:
        return [(int(row["epoch"]), int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.case("R19")
@pytest.mark.case("R21")
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_signals_at_any_time(tmp_path, amount, measured):
    """Half of the runs always have two processes, and must be equal to the last bit. The others change their number."""
    storm, runs, wanted = Storm(tmp_path, seed=0), 0, amount(2, 20)
    whole = tmp_path / "whole"
    storm.undisturbed(whole, 2)
    while len(storm.sent) < wanted:
        runs += 1
        output, changes = tmp_path / f"run{runs}", runs % 2 == 0
        worlds, ended = [2], False
        while len(storm.sent) < wanted and len(worlds) < 6 and not ended:
            ended = storm.disturbed(output, worlds[-1])
            worlds.append(storm.draw.choice([1, 2, 4]) if changes else 2)
        duration = storm.duration
        storm.undisturbed(output, worlds[-1])  # or only says that it is complete
        storm.duration = duration
        assert_equal(whole, output)
        for row, expected in zip(losses(output), losses(whole), strict=True):
            assert row == pytest.approx(expected, rel=1e-5)
        if not changes:
            states = [torch.load(folder / "checkpoints" / "last.ckpt")["state_dict"] for folder in (whole, output)]
            assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
            assert (whole / "metrics.csv").read_text() == (output / "metrics.csv").read_text()
    longest = max(taken for *_, taken in storm.sent)
    measured(
        f"{len(storm.sent)} signals to one or all of several processes, {runs} runs: ended in {longest:.0f} s at most"
    )
