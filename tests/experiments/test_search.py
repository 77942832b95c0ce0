"""Tests searches: the search space, the objective, and the number of trials after failures, repeats and kills."""

import csv
import itertools
import json
import multiprocessing
import os
import random
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from optuna.trial import TrialState

from backbones import create_backbone
from backbones.architecture import B0, VARIANTS, Stage, architecture_of, counts, save
from backbones.errors import BadInput
from classification.build import create_classifier
from engine.record import cost
from engine.schema import SCHEMA
from experiments.costs.meter import Meter
from experiments.jobs import local
from experiments.jobs import runner as jobs
from experiments.jobs.arguments import split_by_task
from experiments.jobs.cell import Cell
from experiments.jobs.local import COMPLETE, Outcome, Pruned
from experiments.search import __main__ as search
from experiments.search import runner
from experiments.search.config import SearchConfig
from experiments.search.space import Space, describe
from experiments.search.trial_storage import JOURNAL, REPEATS, REPLACES, TrialStorage
from tests.classification.conftest import write_folders
from tests.commands import fails, run
from tests.experiments.test_compare import wait_for

TINY = ("--image_size", "32", "--epochs", "3", "--batch_size", "6", "--data.workers", "0")


# --- the search space


@pytest.mark.parametrize("name", ["efficientnet_b0", "tf_efficientnet_lite2", "efficientnet_b3"])
def test_networks_of_the_space_can_be_built(tmp_path, name):
    space, draw = Space(architecture_of(name)), random.Random(0)
    assert space.architecture(space.base_parameters) == space.base
    assert all(space.base_parameters[name] in values for name, values in space.choices.items())
    for key in range(3):
        chosen = {name: draw.choice(values) for name, values in space.choices.items()}
        with torch.device("meta"):
            backbone = create_backbone(save(tmp_path, f"{name}-{key}", space.architecture(chosen)))
            maps = backbone(torch.zeros(1, 3, 64, 64))
        assert [tuple(x.shape[1:]) for x in maps] == [(level.channels, 64 // level.stride, 64 // level.stride)
                                                      for level in backbone.levels]  # fmt: skip


def test_choices_by_hand():
    choices = Space(B0).choices
    assert choices["stage4.kernel"] == (3, 5)
    assert choices["stage4.expansion"] == (3, 4, 6)
    assert choices["stage4.squeeze"] == (0.0, 0.25)
    assert choices["stage4.repeats"] == (2, 3, 4)
    assert choices["stage4.channels"] == (64, 80, 104)  # 60 and 100 to multiples of 8
    assert "stage1.expansion" not in choices
    assert choices["stage1.repeats"] == (1, 2)
    assert choices["stage1.channels"] == (16, 24)  # 12 is rounded to 16
    assert len(choices) == 7 * 5 - 1
    changed = Space(B0).architecture(Space(B0).base_parameters | {"stage2.kernel": 5, "stage2.squeeze": 0.0})
    assert changed.stages[1] == Stage(6, 24, 2, 2, 5, 0.0)
    assert describe(changed).startswith("1x16 k3 e1 se, 2x24 k5 e6, 2x40 k5 e6 se, ")


def test_keys_contain_the_architecture_of_a_study_network(tmp_path):
    first, same = save(tmp_path / "a", "3", B0), save(tmp_path / "b", "7", B0)
    other = save(tmp_path / "b", "8", VARIANTS["efficientnet_b1"])
    keys = [Cell("detection", ("--backbone", name)).key for name in (first, same, other, "efficientnet_b0")]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


# --- the objective


def test_objective_by_hand(tmp_path):
    searching = object.__new__(runner.Search)
    searching.config, searching.target = SearchConfig(), 400e6
    assert searching.objective(0.8, 400e6) == 0.8
    assert searching.objective(0.8, 800e6) == pytest.approx(0.8 * 0.95263, rel=1e-5)  # 2^-0.07
    assert searching.objective(0.8, 200e6) == pytest.approx(0.8 * 1.04972, rel=1e-5)


@pytest.mark.parametrize(
    ("task", "arguments"),
    [("classification", ()), ("detection", ("--neck", "fpn")), ("segmentation", ("--decoder", "unet"))],
)
def test_models_are_counted_as_they_are_trained(task, arguments):
    meter = object.__new__(Meter)
    meter.classes, meter.size, meter.timed, meter.device = 3, (64, 96), False, torch.device("cpu")
    cell = Cell(task, ("--backbone", "efficientnet_b0", *arguments))
    counted = meter.measure(cell)
    built = cost(meter.build(cell), meter.size, meter.device)
    assert (counted["params"], counted["macs"]) == (built["params"], built["macs"])
    if task == "classification":
        meter.timed = True
        assert meter.measure(cell)["latency_ms"] > 0
        assert counted["params"] == sum(p.numel() for p in create_classifier("efficientnet_b0", 3).parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "pose"], "there are classification, detection"),
        (["--base", "efficientnet_b9"], "unknown EfficientNet 'efficientnet_b9'"),
        (["--base", "resnet50"], "unknown EfficientNet"),
        (["--trials", "0"], "at least 1"),
        (["--slots", "0"], "--slots 0 is too small"),
        (["--weight", "0.07"], "at most 0"),
        (["--prune", "--objective", "front"], "cannot be combined with --objective front"),
        (["--detection.epochs", "2"], "but --task is classification"),
        (["--data.holdout", "0"], "--data.holdout cannot be set"),
        (["--classification.protocol=linear"], "--protocol cannot be set"),
        (["--classification.lr", "none"], "lr"),
        (["--epoch", "3"], "--epoch"),
        (["--sampler", "grid"], "sampler"),
    ],
)
def test_wrong_usage_is_an_error_before_anything_is_written(capsys, tmp_path, arguments, message):
    assert message in fails(capsys, 2, search, *arguments, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_absent_data_and_special_characters_in_the_folder_name(capsys, tmp_path):
    assert "absent" in fails(capsys, 3, search, "--data.root", tmp_path / "absent", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "'#' in its path" in fails(capsys, 2, search, "--output", tmp_path / "a#b")


# --- the number of trials, with simulated trainings


class SimulatedRun:
    """Replaces `run`: each training ends at once. `scores` returns its score, or its error, by its number."""

    def __init__(self, monkeypatch, scores):
        self.scores, self.trained = scores, []
        monkeypatch.setattr(jobs, "run", self)

    def __call__(self, cell, folder, lock, report, *place):
        final = self.scores(len(self.trained))
        self.trained.append(cell.key)
        if isinstance(final, str):
            return Outcome(1.0, final, 3)
        folder.mkdir(parents=True)
        lines = ["epoch,step,loss,top1"]
        for epoch in range(3):
            lines.append(f"{epoch},{epoch},1.0,{final * (epoch + 1) / 3}")
            (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
            report(f"epoch {epoch + 1}/3  loss 1.000  top1 {final}")
        (folder / "record.json").write_text(json.dumps({"schema": SCHEMA, "metrics": {"top1": final}}))
        local.write_json(folder / COMPLETE, {"key": cell.key, "seconds": 1.0})
        return Outcome(1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("search") / "rectangles")


@pytest.fixture
def searched(data, tmp_path):
    """A function that runs a search in `tmp_path / "out"` and returns the rows of its table."""

    def run_search(*arguments):
        run(search, *TINY, "--data.root", data, "--output", tmp_path / "out", *arguments)
        return rows(tmp_path / "out")

    return run_search


def rows(folder):
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_search_reports_its_networks_and_resumes_with_more_trials(monkeypatch, searched, tmp_path, capsys):
    simulated = SimulatedRun(monkeypatch, lambda number: 0.5 + 0.01 * number)
    found = searched("--trials", "4")
    assert [row["state"] for row in found] == ["complete"] * 4
    assert [row["is_base"] for row in found] == ["True", "False", "False", "False"]
    base, last = found[0], found[3]
    assert float(base["objective"]) == float(base["score"]) == 0.5
    ratio = float(last["macs"]) / float(base["macs"])
    assert float(last["objective"]) == pytest.approx(0.53 * ratio**-0.07)
    assert architecture_of(f"{tmp_path / 'out'}#0") == B0
    assert describe(architecture_of(f"{tmp_path / 'out'}#3")) == last["architecture"]
    best = max(range(4), key=lambda number: float(found[number]["objective"]))
    output = capsys.readouterr().out
    command = next(line for line in output.splitlines() if line.startswith("python -m experiments.compare"))
    arguments = shlex.split(command)
    at_its_cost = f"{tmp_path / 'out'}#base-at-its-cost-{best}"
    assert arguments[arguments.index("--backbones") + 1 :][:3] == [
        f"{tmp_path / 'out'}#{best}",
        at_its_cost,
        "efficientnet_b0",
    ]
    _, by_task = split_by_task(arguments[3:])
    assert "--seed" not in by_task["classification"]
    side = int(by_task["classification"][by_task["classification"].index("--image_size") + 1])
    costs = [counts(architecture_of(name), side)[1] for name in (f"{tmp_path / 'out'}#{best}", at_its_cost)]
    assert costs[1] == pytest.approx(costs[0], rel=0.1)
    assert "holdout" not in command
    assert (tmp_path / "out" / "front.png").stat().st_size > 1000

    again = searched("--trials", "6")
    assert again[:4] == found
    assert len(simulated.trained) == len(set(simulated.trained)) == len(again) == 6
    assert searched("--trials", "2") == again


@pytest.mark.slow
def test_several_trainings_at_a_time(monkeypatch, searched, capsys):
    """As many networks as one after the other, none of them twice, and the base first."""
    calls, together = itertools.count(), threading.Barrier(2, timeout=60)

    def score(number):
        if next(calls) < 2:
            together.wait()  # raises if no second training starts
        return 0.5

    simulated = SimulatedRun(monkeypatch, score)
    found = searched("--trials", "7", "--slots", "2")
    assert [row["state"] for row in found if row["state"] != "repeat"] == ["complete"] * 7
    assert found[0]["is_base"] == "True"
    assert len(set(simulated.trained)) == len(simulated.trained) == 7
    assert "[7/7]" in capsys.readouterr().err


@pytest.mark.slow
def test_other_settings_are_an_error(monkeypatch, searched, capsys):
    SimulatedRun(monkeypatch, lambda number: 0.5)
    searched("--trials", "1")
    for arguments, message in (
        (["--weight", "-0.15"], "--weight -0.15: the search in"),
        (["--base", "efficientnet_b1"], "was started with efficientnet_b0"),
        (["--seed", "1"], "--seed 1"),
        (["--epochs", "4"], "--epochs 4"),
        (["--classification.lr", "0.5"], "--classification.lr 0.5"),
        (["--data.fraction", "0.5"], "--data.fraction 0.5"),
        (["--task", "segmentation"], "--task segmentation"),
    ):
        with pytest.raises(SystemExit) as stop:
            searched(*arguments)
        assert stop.value.code == 2
        assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.case("formats")
def test_a_search_of_version_1_is_resumed(monkeypatch, searched, tmp_path, capsys):
    """It stored `data.views`. Different settings are an error that has the names of this version."""
    SimulatedRun(monkeypatch, lambda number: 0.5)
    searched("--trials", "1")
    file = next(tmp_path.rglob("search.json"))
    content = json.loads(file.read_text())
    content["settings"]["--data.views"] = content["settings"].pop("--data.cached_augmentations")
    for added in [
        *(f"--classification.{name}" for name in ("class_weights", "patience", "monitor")),
        "--data.balance",
        "--data.augment",
    ]:
        del content["settings"][added]
    file.write_text(json.dumps(content))
    assert len(searched("--trials", "2")) == 2
    content["settings"]["--data.views"] = 3
    file.write_text(json.dumps(content))
    with pytest.raises(SystemExit) as stop:
        searched("--trials", "3")
    assert stop.value.code == 2
    assert "--data.cached_augmentations 0: the search in" in " ".join(capsys.readouterr().err.split())


def test_search_for_the_pareto_front(monkeypatch, searched, capsys):
    SimulatedRun(monkeypatch, lambda number: 0.5 + 0.01 * (number % 3))
    found = searched("--trials", "6", "--objective", "front", "--sampler", "random")
    assert [row["objective"] for row in found] == [""] * 6
    points = [(float(row["score"]), float(row["macs"])) for row in found]
    output = capsys.readouterr().out
    for number, (score, macs) in enumerate(points):
        beaten = any(s >= score and m <= macs and (s, m) != (score, macs) for s, m in points)
        assert (f"out#{number} " in output) == (not beaten or number == 0)


def test_failures_count_as_trials_and_state_the_reason(monkeypatch, searched):
    SimulatedRun(monkeypatch, lambda number: "the loss is not finite" if number % 2 else 0.5)
    found = searched("--trials", "4")
    assert [row["state"] for row in found] == ["complete", "failed", "complete", "failed"]
    assert found[1]["note"] == "the loss is not finite"


def test_a_search_ends_if_all_trials_fail(monkeypatch, searched, capsys, tmp_path):
    simulated = SimulatedRun(monkeypatch, lambda number: "no such disk")
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            searched("--trials", "9")
        assert stop.value.code == 3
        assert "the first 3 trainings all failed. The last error: no such disk" in capsys.readouterr().err
    assert len(simulated.trained) == 3
    assert [row["note"] for row in rows(tmp_path / "out")] == ["no such disk"] * 3


def test_trials_below_the_median_are_pruned(monkeypatch, searched):
    """After the first trials, those below the median after two thirds of the epochs are stopped."""
    SimulatedRun(monkeypatch, lambda number: 0.5 if number < 5 else 0.1 if number < 7 else 0.9)
    found = searched("--trials", "8", "--prune", "--sampler", "random")
    assert [row["state"] for row in found] == ["complete"] * 5 + ["pruned"] * 2 + ["complete"]
    assert float(found[5]["score"]) == pytest.approx(0.1 * 2 / 3)


@pytest.mark.slow
def test_a_repeated_network_is_not_trained_again(monkeypatch, searched, tmp_path):
    simulated = SimulatedRun(monkeypatch, lambda number: "broken" if number == 1 else 0.5)
    searched("--trials", "2")
    trials = TrialStorage(SearchConfig(), tmp_path / "out", Space(B0), 3)
    for place in (1, 0):
        trials.study.enqueue_trial(dict(trials.study.trials[place].params))
    found = searched("--trials", "3")
    assert [row["state"] for row in found] == ["complete", "failed", "repeat", "repeat", "complete"]
    assert [row["note"] for row in found] == ["", "broken", "repeats trial 1", "repeats trial 0", ""]
    assert len(simulated.trained) == 3
    states = TrialState.FAIL, TrialState.COMPLETE
    assert tuple(trial.state for trial in trials.study.trials[2:4]) == states
    assert trials.study.trials[3].values == trials.study.trials[0].values


def test_pruning_ends_the_process(monkeypatch, tmp_path):
    program = tmp_path / "train"
    program.write_text('#!/bin/sh\necho $$ > "$0.pid"\necho "epoch 1/9" >&2\nexec sleep 60\n')
    program.chmod(0o755)
    monkeypatch.setattr(local.sys, "executable", str(program))

    def report(line):
        assert line == "epoch 1/9"
        raise Pruned

    with (tmp_path / "lock").open("w") as lock, pytest.raises(Pruned):
        local.run(Cell("classification", ()), tmp_path / "cell", lock, report)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "train.pid").read_text()), 0)


def test_an_incomplete_journal_line_is_removed_and_other_damage_is_an_error(tmp_path):
    trials = TrialStorage(SearchConfig(trials=3), tmp_path, Space(B0), 3)
    trials.study.tell(trials.begin_next().trial, 0.5)
    with (tmp_path / JOURNAL).open("a") as journal:
        journal.write('{"op_code": 4, "wor')
    assert trials.begin_next().number == 1
    assert len(TrialStorage(SearchConfig(), tmp_path, Space(B0), 3).counted()) == 2
    (tmp_path / JOURNAL).write_text("[\n{}\n")
    with pytest.raises(BadInput, match="damaged"):
        TrialStorage(SearchConfig(), tmp_path, Space(B0), 3)


def test_networks_of_another_search_are_an_error(monkeypatch, searched, tmp_path, capsys):
    SimulatedRun(monkeypatch, lambda number: 0.5)
    save(tmp_path / "out", "0", VARIANTS["efficientnet_b1"])
    with pytest.raises(SystemExit) as stop:
        searched("--trials", "1")
    assert stop.value.code == 3
    assert "networks of another study" in capsys.readouterr().err


def test_a_trial_killed_while_it_samples_changes_no_network(tmp_path):
    def networks(folder, killed):
        folder.mkdir()
        trials = TrialStorage(SearchConfig(trials=4, sampler="random"), folder, Space(B0), 1)
        found = [trials.begin_next()]
        if killed:  # between the first choice and the others
            trials.study.sampler = trials._sampler()
            name, values = next(iter(trials.space.choices.items()))
            trials.study.ask().suggest_categorical(name, values)
        found += [trials.begin_next() for _ in range(3)]
        assert not any(REPEATS in trial.user_attrs for trial in trials.all())
        return [running.trial.params for running in found]

    whole = networks(tmp_path / "whole", killed=False)
    assert len({json.dumps(network) for network in whole}) == 4
    assert networks(tmp_path / "killed", killed=True) == whole


def test_a_trial_that_ends_while_another_process_looks_for_killed_ones_counts_once(tmp_path, monkeypatch):
    """It ends after its state was read and before its lock is tried."""
    ends = TrialStorage(SearchConfig(), tmp_path, Space(B0), 1)
    looks = TrialStorage(SearchConfig(), tmp_path, Space(B0), 1)
    running = ends.begin_next()
    is_locked = looks._is_locked

    def end_before(number):
        if number == running.trial.number and not running.lock.closed:
            ends.study.tell(running.trial, 0.5)
            running.lock.close()
        return is_locked(number)

    monkeypatch.setattr(looks, "_is_locked", end_before)
    following = looks.begin_next()
    assert [trial.state for trial in looks.all()] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert REPLACES not in following.trial.user_attrs


def simulate_process(folder, count):
    """Do what one process of a search does, without training; appends each network to the file `ended`."""
    trials = TrialStorage(SearchConfig(trials=count, sampler="random"), folder, Space(B0), 1)
    while True:
        running = trials.begin_next()
        if running is None:
            if not trials.in_states(TrialState.RUNNING):
                return
            time.sleep(0.02)
            continue
        with running.lock:
            time.sleep(0.05)
            with (folder / "ended").open("a") as file:
                file.write(json.dumps(running.trial.params) + "\n")
            trials.study.tell(running.trial, 0.5)


def test_processes_share_a_search_and_survive_kills(tmp_path):
    """Three processes at a time, seven of which are killed: each of 15 networks ends and is counted exactly once."""
    count, draw, processes = 15, random.Random(0), multiprocessing.get_context("fork")
    TrialStorage(SearchConfig(), tmp_path, Space(B0), 1)

    def start_one():
        process = processes.Process(target=simulate_process, args=(tmp_path, count))
        process.start()
        return process

    working = [start_one() for _ in range(3)]
    for _ in range(7):
        time.sleep(draw.uniform(0.02, 0.2))
        victim = working.pop(draw.randrange(3))
        victim.kill()
        victim.join()
        working.append(start_one())
    for process in working:
        process.join(60)
        assert process.exitcode == 0
    trials = TrialStorage(SearchConfig(), tmp_path, Space(B0), 1)
    counted = trials.counted()
    assert [trial.state for trial in counted] == [TrialState.COMPLETE] * count
    assert len({json.dumps(trial.params) for trial in counted}) == count
    ended = (tmp_path / "ended").read_text().splitlines()
    assert set(ended) == {json.dumps(trial.params) for trial in counted}
    replaced = [trial.user_attrs[REPLACES] for trial in trials.study.trials if REPLACES in trial.user_attrs]
    assert len(set(replaced)) == len(replaced) == len(trials.study.trials) - count


# --- the command, with real trainings


def start(data, output, *more):
    command = [sys.executable, "-m", "experiments.search", *TINY, "--data.root", str(data), "--trials", "3", *more]
    return subprocess.Popen(
        [*command, "--output", str(output)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_resume_a_killed_search(data, tmp_path):
    """Kill -9 during the second training: one process resumes it from its checkpoint, the other trains the third."""
    output = tmp_path / "out"
    first = start(data, output)

    def in_the_second() -> bool:
        complete = {file.parent for file in output.glob("cells/*/complete.json")}
        saved = {file.parent.parent for file in output.glob("cells/*/checkpoints/last.ckpt")}
        return len(complete) == 1 and bool(saved - complete)

    wait_for(in_the_second, patience=180)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    configs = {file: file.stat().st_mtime_ns for file in output.glob("cells/*/config.yaml")}
    assert len(list(output.glob("cells/*/complete.json"))) == 1
    both = [start(data, output) for _ in range(2)]
    for process in both:
        output_text, messages = process.communicate(timeout=180)
        assert process.returncode == 0, messages
        assert "Traceback" not in messages
        assert "--backbone" in output_text
    found = rows(output)
    assert sorted(row["state"] for row in found) == ["complete", "complete", "complete", "stopped"]
    assert [row["note"] for row in found] == ["", "", "continues trial 1", ""]
    assert len({row["architecture"] for row in found}) == 3
    assert len(list(output.glob("cells/*/complete.json"))) == 3
    assert not list(output.glob("cells/*/checkpoints"))  # nothing resumes from a finished trial
    assert {file: file.stat().st_mtime_ns for file in configs} == configs
    records = [json.loads(file.read_text()) for file in output.glob("cells/*/record.json")]
    assert {record["config"]["data"]["holdout"] for record in records} == {0.2}
    counted = {(float(row["params"]), float(row["macs"])) for row in found if row["state"] == "complete"}
    assert {(record["params"], record["macs"]) for record in records} == counted
