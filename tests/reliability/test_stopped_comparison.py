"""Comparisons that are stopped at random times: the same command ends with the same results."""

import csv
import json
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.classification.conftest import write_folders
from tests.reliability.conftest import environment
from tests.reliability.processes import heed_interrupts, kill, left, processes

SETTINGS = ["--tasks", "classification", "--backbones", "lcnet_035", "mobilenetv3_small_050", "--tune", "4",
            "--epochs", "6", "--batch_size", "6", "--image_size", "32", "--device", "cpu",
            "--data.classification.workers", "0"]  # fmt: skip
LIMIT = 60  # seconds in which all processes must have ended after a signal


def start(root, output, log):
    words = ["-m", "experiments.compare", *SETTINGS, "--data.classification.root", root, "--output", output]
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=environment(),
        stdout=log,
        stderr=log,
        preexec_fn=heed_interrupts,
    )


def results(folder):
    """The tables of a comparison, without the time that trainings took."""
    with (folder / "tuning.csv").open() as file:
        trials = [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    cells = json.loads((folder / "comparison.json").read_text())["cells"]
    records = [json.loads((folder / cell["folder"] / "record.json").read_text()) for cell in cells]
    return trials, [(cell["backbone"], cell["lr"]) for cell in cells], [record["metrics"] for record in records]


@pytest.mark.slow
@pytest.mark.case("compare")
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_stopped_comparison_ends_as_an_undisturbed_one(tmp_path, amount, measured):
    """Signals as a terminal, a scheduler, `kill -INT` and the system without memory send them."""
    root, draw = write_folders(tmp_path / "data"), random.Random(0)
    whole, output = tmp_path / "whole", tmp_path / "stopped"
    with (tmp_path / "log").open("a") as log:
        started = time.monotonic()
        assert start(root, whole, log).wait(1800) == 0, (tmp_path / "log").read_text()
        duration = time.monotonic() - started
        expected = results(whole)
        sent = 0
        for _ in range(amount(2, 8)):
            process = start(root, output, log)
            time.sleep(draw.uniform(0.05, 0.2) * duration)
            if process.poll() is not None:
                break
            kind = draw.choice(["terminal", "kill -INT", "SIGTERM", "kill -9"])
            group = [process.pid, *(pid for pid, parent in processes(str(output)).items() if parent == process.pid)]
            numbers = {"kill -9": signal.SIGKILL, "SIGTERM": signal.SIGTERM}
            number = numbers.get(kind, signal.SIGINT)
            kill(group if kind == "terminal" else [process.pid], number)
            since, sent = time.monotonic(), sent + 1
            code = process.wait(LIMIT)
            print(f"{kind}: exit code {code} after {time.monotonic() - since:.1f} s", flush=True)
            has_begun = kind != "kill -9" and len(group) > 1  # otherwise the signal may end it during its imports
            assert code in ({130} if has_begun else {130, -number}), (tmp_path / "log").read_text()
            assert not left(str(output))
        assert start(root, output, log).wait(1800) == 0, (tmp_path / "log").read_text()
    assert results(output) == expected
    measured(f"{sent} signals to `compare --tune 4` and its trainings: the same trials, choices and scores")
