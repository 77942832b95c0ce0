"""Searches: what can be drawn, what is maximised, and exactly as many trials as asked for, whatever happens to them."""

import csv
import json
import multiprocessing
import os
import random
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch
from optuna.trial import TrialState

from backbones import create_backbone
from backbones.architecture import B0, VARIANTS, Stage, architecture_of, counts, save
from backbones.errors import BadInput
from classification.model import create_classifier
from engine.record import cost
from engine.schema import SCHEMA
from experiments.costs.meter import Meter
from experiments.jobs import local as cells
from experiments.jobs.arguments import split_by_task
from experiments.jobs.cell import Cell
from experiments.jobs.local import Outcome, Stopped
from experiments.search import __main__ as search
from experiments.search import runner as study
from experiments.search.config import SearchConfig
from experiments.search.report import front
from experiments.search.space import Space, words
from experiments.search.trial_storage import JOURNAL, REPLACES, Trials
from tests.classification.conftest import write_folders
from tests.commands import fails, run
from tests.experiments.test_compare import wait_for

TINY = ("--image_size", "32", "--epochs", "3", "--batch_size", "6", "--data.workers", "0")


# --- what is drawn


@pytest.mark.parametrize("name", ["efficientnet_b0", "tf_efficientnet_lite2", "efficientnet_b3"])
def test_networks_of_the_space_can_be_built_and_told_apart(tmp_path, name):
    space, draw = Space(architecture_of(name)), random.Random(0)
    assert space.architecture(space.of_base) == space.base
    assert all(space.of_base[name] in values for name, values in space.choices.items())
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
    assert choices["stage1.channels"] == (16, 24)  # 12 is rounded to 16, which 16 is already
    assert len(choices) == 7 * 5 - 1
    changed = Space(B0).architecture(Space(B0).of_base | {"stage2.kernel": 5, "stage2.squeeze": 0.0})
    assert changed.stages[1] == Stage(6, 24, 2, 2, 5, 0.0)
    assert words(changed).startswith("1x16 k3 e1 se, 2x24 k5 e6, 2x40 k5 e6 se, ")


def test_networks_of_studies_count_by_what_they_are(tmp_path):
    first, same = save(tmp_path / "a", "3", B0), save(tmp_path / "b", "7", B0)
    other = save(tmp_path / "b", "8", VARIANTS["efficientnet_b1"])
    keys = [Cell("detection", ("--backbone", name)).key for name in (first, same, other, "efficientnet_b0")]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


# --- what is sought


def test_objective_by_hand(tmp_path):
    searching = object.__new__(study.Search)
    searching.config, searching.target = SearchConfig(), 400e6
    assert searching.value(0.8, 400e6) == 0.8
    assert searching.value(0.8, 800e6) == pytest.approx(0.8 * 0.95263, rel=1e-5)  # 2^-0.07
    assert searching.value(0.8, 200e6) == pytest.approx(0.8 * 1.04972, rel=1e-5)


def test_front_by_hand():
    points = [(0.5, 3.0), (0.7, 5.0), (0.6, 5.0), (0.4, 1.0), (0.4, 2.0), (0.7, 9.0), (0.3, 0.5), (0.2, 4.0)]
    assert front(points) == [6, 3, 0, 1]
    assert front([]) == []


@pytest.mark.parametrize(
    ("task", "arguments"),
    [("classification", ()), ("detection", ("--neck", "fpn")), ("segmentation", ("--decoder", "unet"))],
)
def test_models_are_counted_as_they_are_trained(task, arguments):
    meter = object.__new__(Meter)
    meter.classes, meter.size, meter.timed, meter.device = 3, (64, 96), False, torch.device("cpu")
    cell = Cell(task, ("--backbone", "efficientnet_b0", *arguments))
    counted = meter(cell)
    built = cost(meter.build(cell), meter.size, meter.device)
    assert (counted["params"], counted["macs"]) == (built["params"], built["macs"])
    if task == "classification":
        meter.timed = True
        assert meter(cell)["latency_ms"] > 0
        assert counted["params"] == sum(p.numel() for p in create_classifier("efficientnet_b0", 3).parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "pose"], "there are classification, detection"),
        (["--base", "efficientnet_b9"], "unknown EfficientNet 'efficientnet_b9'"),
        (["--base", "resnet50"], "unknown EfficientNet"),
        (["--trials", "0"], "at least 1"),
        (["--weight", "0.07"], "at most 0"),
        (["--prune", "--objective", "front"], "cannot go with --objective front"),
        (["--detection.epochs", "2"], "but --task is classification"),
        (["--data.holdout", "0"], "--data.holdout cannot be set"),
        (["--classification.protocol=linear"], "--protocol cannot be set"),
        (["--classification.lr", "none"], "lr"),
        (["--epoch", "3"], "--epoch"),
        (["--sampler", "grid"], "sampler"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_made(capsys, tmp_path, arguments, message):
    assert message in fails(capsys, 2, search, *arguments, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_absent_data_and_marks_in_the_folders_name(capsys, tmp_path):
    assert "absent" in fails(capsys, 3, search, "--data.root", tmp_path / "absent", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "'#' in its path" in fails(capsys, 2, search, "--output", tmp_path / "a#b")


# --- how many trials there are, with trainings that only pretend


class Pretended:
    """Stands for `cells.run`: each training ends at once, with the score of `scores[number of the training]`."""

    def __init__(self, monkeypatch, scores):
        self.scores, self.trained = scores, []
        monkeypatch.setattr(study, "run", self)

    def __call__(self, cell, folder, lock, tell):
        final = self.scores(len(self.trained))
        self.trained.append(cell.key)
        if isinstance(final, str):
            return Outcome(1.0, final, 3)
        folder.mkdir(parents=True)
        lines = ["epoch,step,loss,top1"]
        for epoch in range(3):
            lines.append(f"{epoch},{epoch},1.0,{final * (epoch + 1) / 3}")
            (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
            tell(f"epoch {epoch + 1}/3  loss 1.000  top1 {final}")
        (folder / "record.json").write_text(json.dumps({"schema": SCHEMA, "metrics": {"top1": final}}))
        cells.write_json(folder / cells.COMPLETE, {"key": cell.key, "seconds": 1.0})
        return Outcome(1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("search") / "rectangles")


@pytest.fixture
def searched(data, tmp_path):
    """Run a search in `tmp_path / "out"`; returns the rows of its table."""

    def work(*arguments):
        run(search, *TINY, "--data.root", data, "--output", tmp_path / "out", *arguments)
        return rows(tmp_path / "out")

    return work


def rows(folder):
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_search_tells_what_it_found_and_goes_on_with_more_trials(monkeypatch, searched, tmp_path, capsys):
    pretended = Pretended(monkeypatch, lambda number: 0.5 + 0.01 * number)
    found = searched("--trials", "4")
    assert [row["state"] for row in found] == ["complete"] * 4
    assert [row["is_base"] for row in found] == ["True", "False", "False", "False"]
    base, last = found[0], found[3]
    assert float(base["objective"]) == float(base["score"]) == 0.5
    ratio = float(last["macs"]) / float(base["macs"])
    assert float(last["objective"]) == pytest.approx(0.53 * ratio**-0.07)
    assert architecture_of(f"{tmp_path / 'out'}#0") == B0
    assert words(architecture_of(f"{tmp_path / 'out'}#3")) == last["architecture"]
    best = max(range(4), key=lambda number: float(found[number]["objective"]))
    told = capsys.readouterr().out
    command = next(line for line in told.splitlines() if line.startswith("python -m experiments.compare"))
    asked = shlex.split(command)
    at_its_cost = f"{tmp_path / 'out'}#base-at-its-cost-{best}"
    assert asked[asked.index("--backbones") + 1 :][:3] == [f"{tmp_path / 'out'}#{best}", at_its_cost, "efficientnet_b0"]
    _, of_tasks = split_by_task(asked[3:])
    assert "--seed" not in of_tasks["classification"]
    side = int(of_tasks["classification"][of_tasks["classification"].index("--image_size") + 1])
    costs = [counts(architecture_of(name), side)[1] for name in (f"{tmp_path / 'out'}#{best}", at_its_cost)]
    assert costs[1] == pytest.approx(costs[0], rel=0.1)
    assert "holdout" not in command
    assert (tmp_path / "out" / "front.png").stat().st_size > 1000

    again = searched("--trials", "6")
    assert again[:4] == found
    assert len(pretended.trained) == len(set(pretended.trained)) == len(again) == 6
    assert searched("--trials", "2") == again


def test_other_settings_are_refused(monkeypatch, searched, capsys):
    Pretended(monkeypatch, lambda number: 0.5)
    searched("--trials", "1")
    for arguments, message in (
        (["--weight", "-0.15"], "--weight -0.15: the search in"),
        (["--base", "efficientnet_b1"], "was begun with efficientnet_b0"),
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
def test_a_search_of_version_1_goes_on(monkeypatch, searched, tmp_path, capsys):
    """It stored `data.views`; settings that differ are refused as ever, by this version's names."""
    Pretended(monkeypatch, lambda number: 0.5)
    searched("--trials", "1")
    file = next(tmp_path.rglob("search.json"))
    content = json.loads(file.read_text())
    content["settings"]["--data.views"] = content["settings"].pop("--data.cached_augmentations")
    file.write_text(json.dumps(content))
    assert len(searched("--trials", "2")) == 2
    content["settings"]["--data.views"] = 3
    file.write_text(json.dumps(content))
    with pytest.raises(SystemExit) as stop:
        searched("--trials", "3")
    assert stop.value.code == 2
    assert "--data.cached_augmentations 0: the search in" in " ".join(capsys.readouterr().err.split())


def test_a_front_is_searched_for(monkeypatch, searched, capsys):
    Pretended(monkeypatch, lambda number: 0.5 + 0.01 * (number % 3))
    found = searched("--trials", "6", "--objective", "front", "--sampler", "random")
    assert [row["objective"] for row in found] == [""] * 6
    points = [(float(row["score"]), float(row["macs"])) for row in found]
    told = capsys.readouterr().out
    for number, (score, macs) in enumerate(points):
        beaten = any(s >= score and m <= macs and (s, m) != (score, macs) for s, m in points)
        assert (f"out#{number} " in told) == (not beaten or number == 0)


def test_failures_count_and_keep_their_reason(monkeypatch, searched):
    Pretended(monkeypatch, lambda number: "the loss is not finite" if number % 2 else 0.5)
    found = searched("--trials", "4")
    assert [row["state"] for row in found] == ["complete", "failed", "complete", "failed"]
    assert found[1]["note"] == "the loss is not finite"


def test_nothing_but_failures_ends_the_search(monkeypatch, searched, capsys, tmp_path):
    pretended = Pretended(monkeypatch, lambda number: "no such disk")
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            searched("--trials", "9")
        assert stop.value.code == 3
        assert "the first 3 trainings all failed, the last one so: no such disk" in capsys.readouterr().err
    assert len(pretended.trained) == 3
    assert [row["note"] for row in rows(tmp_path / "out")] == ["no such disk"] * 3


def test_the_hopeless_are_pruned(monkeypatch, searched):
    """Of the trainings that the median is not yet waited for, those worse than it after two thirds are stopped."""
    Pretended(monkeypatch, lambda number: 0.5 if number < 5 else 0.1 if number < 7 else 0.9)
    found = searched("--trials", "8", "--prune", "--sampler", "random")
    assert [row["state"] for row in found] == ["complete"] * 5 + ["pruned"] * 2 + ["complete"]
    assert float(found[5]["score"]) == pytest.approx(0.1 * 2 / 3)


def test_a_network_drawn_again_is_not_trained_again(monkeypatch, searched, tmp_path):
    pretended = Pretended(monkeypatch, lambda number: "broken" if number == 1 else 0.5)
    searched("--trials", "2")
    trials = Trials(SearchConfig(), tmp_path / "out", Space(B0), 3)
    for place in (1, 0):
        trials.study.enqueue_trial(dict(trials.study.trials[place].params))
    found = searched("--trials", "3")
    assert [row["state"] for row in found] == ["complete", "failed", "repeat", "repeat", "complete"]
    assert [row["note"] for row in found] == ["", "broken", "repeats trial 1", "repeats trial 0", ""]
    assert len(pretended.trained) == 3
    states = TrialState.FAIL, TrialState.COMPLETE
    assert tuple(trial.state for trial in trials.study.trials[2:4]) == states
    assert trials.study.trials[3].values == trials.study.trials[0].values


def test_stopping_ends_the_process(monkeypatch, tmp_path):
    program = tmp_path / "train"
    program.write_text('#!/bin/sh\necho $$ > "$0.pid"\necho "epoch 1/9" >&2\nexec sleep 60\n')
    program.chmod(0o755)
    monkeypatch.setattr(cells.sys, "executable", str(program))

    def tell(line):
        assert line == "epoch 1/9"
        raise Stopped

    with (tmp_path / "lock").open("w") as lock, pytest.raises(Stopped):
        cells.run(Cell("classification", ()), tmp_path / "cell", lock, tell)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "train.pid").read_text()), 0)


def test_half_a_line_of_the_journal_is_cut_off_and_worse_is_told(tmp_path):
    trials = Trials(SearchConfig(trials=3), tmp_path, Space(B0), 3)
    trials.study.tell(trials.draw().trial, 0.5)
    with (tmp_path / JOURNAL).open("a") as journal:
        journal.write('{"op_code": 4, "wor')
    assert trials.draw().number == 1
    assert len(Trials(SearchConfig(), tmp_path, Space(B0), 3).own()) == 2
    (tmp_path / JOURNAL).write_text("[\n{}\n")
    with pytest.raises(BadInput, match="damaged"):
        Trials(SearchConfig(), tmp_path, Space(B0), 3)


def test_networks_of_another_journal_are_not_taken_for_its_own(monkeypatch, searched, tmp_path, capsys):
    Pretended(monkeypatch, lambda number: 0.5)
    save(tmp_path / "out", "0", VARIANTS["efficientnet_b1"])
    with pytest.raises(SystemExit) as stop:
        searched("--trials", "1")
    assert stop.value.code == 3
    assert "networks of another study" in capsys.readouterr().err


def pretend_to_train(folder, count):
    """What one process of a search does, without the training; `begun` and `ended` tell of each network."""
    trials = Trials(SearchConfig(trials=count, sampler="random"), folder, Space(B0), 1)
    while True:
        drawn = trials.draw()
        if drawn is None:
            if not trials.counted(TrialState.RUNNING):
                return
            time.sleep(0.02)
            continue
        with drawn.lock:
            time.sleep(0.05)
            with (folder / "ended").open("a") as file:
                file.write(json.dumps(drawn.trial.params) + "\n")
            trials.study.tell(drawn.trial, 0.5)


def test_processes_share_a_search_and_survive_kills(tmp_path):
    """Three at a time, of which seven are killed at random: each of 15 networks ends, and is told of, exactly once."""
    count, draw, processes = 15, random.Random(0), multiprocessing.get_context("fork")
    Trials(SearchConfig(), tmp_path, Space(B0), 1)

    def start_one():
        process = processes.Process(target=pretend_to_train, args=(tmp_path, count))
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
    trials = Trials(SearchConfig(), tmp_path, Space(B0), 1)
    own = trials.own()
    assert [trial.state for trial in own] == [TrialState.COMPLETE] * count
    assert len({json.dumps(trial.params) for trial in own}) == count
    ended = (tmp_path / "ended").read_text().splitlines()
    assert set(ended) == {json.dumps(trial.params) for trial in own}
    told = [trial.user_attrs[REPLACES] for trial in trials.study.trials if REPLACES in trial.user_attrs]
    assert len(set(told)) == len(told) == len(trials.study.trials) - count


# --- the command, and trainings as they are


def start(data, output, *more):
    command = [sys.executable, "-m", "experiments.search", *TINY, "--data.root", str(data), "--trials", "3", *more]
    return subprocess.Popen(
        [*command, "--output", str(output)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_killed_in_a_training_and_continued_by_two(data, tmp_path):
    """Kill -9 in the second training: one of two that continue goes on from its checkpoint, the other does the rest."""
    output = tmp_path / "out"
    first = start(data, output)

    def in_the_second() -> bool:
        complete = {file.parent for file in output.glob("cells/*/complete.json")}
        saved = {file.parent.parent for file in output.glob("cells/*/checkpoints/last.ckpt")}
        return len(complete) == 1 and bool(saved - complete)

    wait_for(in_the_second, patience=180)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    begun = {file: file.stat().st_mtime_ns for file in output.glob("cells/*/config.yaml")}
    assert len(list(output.glob("cells/*/complete.json"))) == 1
    both = [start(data, output) for _ in range(2)]
    for process in both:
        told, said = process.communicate(timeout=180)
        assert process.returncode == 0, said
        assert "Traceback" not in said
        assert "--backbone" in told
    found = rows(output)
    assert sorted(row["state"] for row in found) == ["complete", "complete", "complete", "stopped"]
    assert [row["note"] for row in found] == ["", "", "continues trial 1", ""]
    assert len({row["architecture"] for row in found}) == 3
    assert len(list(output.glob("cells/*/complete.json"))) == 3
    assert not list(output.glob("cells/*/checkpoints"))  # nobody goes on from a trial; forty would fill a disk
    assert {file: file.stat().st_mtime_ns for file in begun} == begun
    records = [json.loads(file.read_text()) for file in output.glob("cells/*/record.json")]
    assert {record["config"]["data"]["holdout"] for record in records} == {0.2}
    counted = {(float(row["params"]), float(row["macs"])) for row in found if row["state"] == "complete"}
    assert {(record["params"], record["macs"]) for record in records} == counted
