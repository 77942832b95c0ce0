"""Trainings in several processes: the result of a single process, one set of files and messages, no process left."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from data.sampling import EvalBatches, TrainBatches
from engine.cli import INTERRUPTED
from engine.launch import launch

NAN = float("nan")
FROZEN = "tests.engine.processes.frozen_norms"
ARGUMENTS = {
    "classification": ["--image_size", "32", "--batch_size", "8", "--mixup", "0.2"],
    "detection": ["--image_size", "64", "--batch_size", "4"],
    "segmentation": ["--image_size", "64", "--eval_size", "64", "--batch_size", "4"],
}
TINY = ["--device", "cpu", "--data.workers", "0", "--data.fraction", "0.1", "--backbone", "efficientnet_b0",
        "--pretrained", "false", "--protocol", "scratch", "--optimizer", "sgd", "--lr", "0.001"]  # fmt: skip


def test_losses_and_gradients_are_those_of_the_whole_batch():
    assert launch([sys.executable, "-W", "ignore", "-m", "tests.engine.processes.losses"], 2) == 0


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_each_batch(world):
    expected = [[draw.index for draw in batch] for batch in TrainBatches(11, 4, seed=3, drop_last=False)]
    parts = [list(TrainBatches(11, 4, seed=3, drop_last=False, rank=r, world=world)) for r in range(world)]
    joined = [[draw.index for part in batch for draw in part] for batch in zip(*parts, strict=True)]
    assert joined[:2] == expected[:2]
    assert joined[2:] == ([] if world == 4 else [expected[2][: 3 // world * world]])
    order = [i for r in range(world) for batch in EvalBatches(11, 3, r, world) for i in batch]
    assert order == list(range(11))


def test_the_first_failure_decides_and_is_printed_once(tmp_path, capfd):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, time\n"
        "if os.environ['RANK'] == '1':\n"
        "    print('error: image 7 is damaged', file=sys.stderr)\n"
        "    sys.exit(3)\n"
        "print('started', file=sys.stderr, flush=True)\n"
        "time.sleep(60)\n"
    )
    started = time.monotonic()
    assert launch([sys.executable, str(program)], 3) == 3
    assert time.monotonic() - started < 30
    assert sorted(capfd.readouterr().err.split("\n")[:2]) == ["error: image 7 is damaged", "started"]


def test_a_killed_process_ends_the_others(tmp_path, capfd):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal, time\n"
        "if os.environ['RANK'] == '1':\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(60)\n"
    )
    assert launch([sys.executable, str(program)], 2) == 128 + signal.SIGKILL
    assert "process 1 was ended by SIGKILL" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("sys.exit(75)", "time.sleep(1); sys.exit('error: image 7 is damaged')", (1, ["error: image 7 is damaged"])),
        (
            "time.sleep(1); print('no', file=sys.stderr); sys.exit(2)",
            "print('no', file=sys.stderr); sys.exit(2)",
            (2, ["no"]),
        ),
    ],
    ids=["lost connection", "found by both"],
)
def test_one_message_whichever_process_ends_first(tmp_path, capfd, first, second, expected):
    program = tmp_path / "program.py"
    program.write_text(f"import os, sys, time\nif os.environ['RANK'] == '0':\n    {first}\n{second}\n")
    code = launch([sys.executable, str(program)], 2)
    assert (code, capfd.readouterr().err.splitlines()) == expected


@pytest.mark.slow
def test_a_process_without_the_others_says_nothing(tmp_path, capfd):
    """The first process waits for a number when the second one finds a damaged image."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, torch\n"
        "from backbones.errors import BadInput\n"
        "from engine import distributed\n"
        "try:\n"
        "    with distributed.joined(torch.device('cpu')):\n"
        "        distributed.any_of(True)\n"
        "        if distributed.rank():\n"
        "            raise BadInput('image 7 is damaged')\n"
        "        distributed.any_of(True)\n"
        "except BadInput as error:\n"
        "    print(error, file=sys.stderr)\n"
        "    sys.exit(error.exit_code)\n"
    )
    assert launch([sys.executable, "-W", "ignore", str(program)], 2) == 3
    assert capfd.readouterr().err == "image 7 is damaged\n"


def command(task, processes, *more):
    program = f"import sys; from engine.launch import launch; sys.exit(launch(sys.argv[1:], {processes}))"
    return [sys.executable, "-c", program, sys.executable, "-m", FROZEN, task, *more]


def run(*arguments):
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done


def assert_equal(first, second, tolerance=1e-5, score_tolerance=0.0):
    """Weights are equal up to rounding, scores exactly or up to a tolerance, and the files have the same names."""
    states = [torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for f in (first, second)]
    for name, value in states[0].items():
        torch.testing.assert_close(
            value, states[1][name], rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )
    records = [json.loads((folder / "record.json").read_text()) for folder in (first, second)]
    scores = [
        {
            name: NAN if value is None else value
            for name, value in record["metrics"].items()
            if name != "score_threshold"
        }
        for record in records
    ]
    assert scores[0] == pytest.approx(scores[1], rel=0, abs=score_tolerance, nan_ok=True)
    names = [{p.relative_to(f).as_posix() for p in f.rglob("*") if "tfevents" not in p.name} for f in (first, second)]
    assert names[0] == names[1]


@pytest.mark.slow
@pytest.mark.parametrize("task", list(ARGUMENTS))
def test_several_processes_train_as_a_single_one(task, tmp_path):
    outputs = []
    for processes in (1, 2, 4):
        outputs.append(tmp_path / str(processes))
        done = run(task, processes, *TINY, *ARGUMENTS[task], "--epochs", "2", "--output", str(outputs[-1]))
        assert done.stderr.count("epoch 2/2") == 1
        assert done.stdout.count("run folder") == 1
        # Weights that differ by rounding can change the class of a pixel that is a tie between two.
        assert_equal(outputs[0], outputs[-1], score_tolerance=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("task", list(ARGUMENTS))
def test_micro_batches_train_as_whole_batches(task, tmp_path, monkeypatch):
    """Also in several processes, which exchange gradients once for each batch."""
    settings = [*TINY, *ARGUMENTS[task], "--epochs", "2", *(["--losses", "ce"] if task == "segmentation" else [])]
    run(task, 1, *settings, "--output", str(tmp_path / "whole"))
    for processes, images in ((1, 2), (2, 1)):
        monkeypatch.setenv("MICRO_BATCH", str(images))
        output = tmp_path / str(processes)
        done = run(task, processes, *settings, "--accumulate", "auto", "--output", str(output))
        assert done.stderr.count(f"--accumulate auto: {images} of the") == 1
        assert_equal(tmp_path / "whole", output, score_tolerance=1e-3)


@pytest.mark.slow
@pytest.mark.case("R20")
@pytest.mark.parametrize("task", list(ARGUMENTS))
def test_scores_of_equal_weights_are_equal_in_every_digit(task, tmp_path):
    outputs = [tmp_path / str(processes) for processes in (1, 2, 4)]
    for processes, output in zip((1, 2, 4), outputs, strict=True):
        settings = [*TINY, *ARGUMENTS[task], "--lr", "1e-30", "--epochs", "1", "--output", str(output)]
        run(task, processes, *settings)
        assert_equal(outputs[0], output, tolerance=1e-30)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_stopped_training_resumes_with_another_number_of_processes(first, then, tmp_path):
    settings = [*TINY, *ARGUMENTS["classification"], "--epochs", "4", "--data.fraction", "1"]
    run("classification", 1, *settings, "--output", str(tmp_path / "whole"))
    stopped = tmp_path / "stopped"
    process = subprocess.Popen(
        command("classification", first, *settings, "--output", str(stopped)), stderr=subprocess.PIPE, text=True
    )
    while not (stopped / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, messages
    assert f"--resume {stopped}" in messages
    run("classification", then, "--resume", str(stopped))
    assert_equal(tmp_path / "whole", stopped)


@pytest.mark.case("R20")
@pytest.mark.parametrize("kind", ["detection", "segmentation", "classification"])
def test_merged_states_are_those_of_one_evaluator(kind):
    whole, parts = evaluators(kind)
    assert str(parts[0].compute()) != str(whole.compute())
    parts[0].merge([part.state() for part in parts])
    assert str(parts[0].compute()) == str(whole.compute())  # as text, in which NaN equals NaN
    assert str(parts[0].class_table()) == str(whole.class_table())


def evaluators(kind):
    """An evaluator of six images, and two with three of them each."""
    from tests.engine.predictions import batches, evaluator

    made = [evaluator(kind) for _ in range(3)]
    for index, (predictions, batch) in enumerate(batches(kind)):
        made[0].update(predictions, batch)
        made[1 + index // 3].update(predictions, batch)
    return made[0], made[1:]


def test_workers_divide_the_cores(monkeypatch):
    from data import loader

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(loader.torch.accelerator, "is_available", lambda: True)
    assert [loader.default_workers(n) for n in (1, 2, 4, 16)] == [8, 7, 3, 0]
    assert np.all([loader.default_workers(n) >= 0 for n in range(1, 40)])
