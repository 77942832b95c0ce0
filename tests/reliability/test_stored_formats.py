"""Runs, checkpoints and comparisons of earlier versions load. Those of a newer version are refused."""

import csv
import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

from backbones.errors import BadInput
from engine import schema
from engine.checkpoint import read_run
from engine.cli import parse
from engine.leaderboard import read_records
from experiments import load_run
from experiments.compare import __main__ as compare
from experiments.jobs import cell as cells
from experiments.jobs import local
from experiments.jobs.cell import Cell
from experiments.records import config_of, read_record
from experiments.report.results import Comparison
from experiments.report.writer import write_report
from experiments.tasks import TASKS as SPECS
from tests.commands import fails, loads, run

FIXTURES = Path(__file__).parent.parent / "fixtures"
TASKS = ("classification", "detection", "segmentation")
DEMO_VERSION = 6  # of the drawn scenes that the fixtures were trained on

# Trainings, and the SHA-256 that version 1 computed of their settings (experiments/cells.py of commit e49782b).
CELLS = {
    "linear resnet18": Cell(
        "classification", ("--backbone", "resnet18", "--protocol", "linear", "--data.cached_augmentations", "4")
    ),
    "resnet18": Cell("detection", ("--backbone", "resnet18", "--epochs", "3")),
    "lite0": Cell("detection", ("--backbone", "tf_efficientnet_lite0", "--style", "tensorflow")),
    "unet": Cell("segmentation", ("--backbone", "tf_efficientnet_lite0", "--decoder", "unet")),
}
KEYS = {
    "linear resnet18": "06253f6226ea32e4fa9ff307afe82b52a65feb3ae708b2b12f71c5ceff24ea7b",
    "resnet18": "9c92db176ea9801109725c94aa2c1c17944146e90fb7a2ff11c125b820f7718d",
    "lite0": "878b368d9bac6a06bf911b9df4e4635dcca71b284378c01f936e7bdb3474a580",
    "unet": "33ea23212ba72165a80fb34004e4fd436b2a8ee5136b48f66871857d49b337c1",
}


@pytest.fixture
def v1(tmp_path, monkeypatch):
    """A copy of what version 1 stored. Its paths are relative to it, and one backbone is a module beside it."""
    shutil.copytree(FIXTURES / "v1", tmp_path / "v1")
    monkeypatch.chdir(tmp_path / "v1")
    monkeypatch.syspath_prepend(FIXTURES)
    monkeypatch.setattr(cells, "VERSION", DEMO_VERSION)
    return tmp_path / "v1"


@pytest.mark.case("formats")
@pytest.mark.parametrize("task", TASKS)
def test_a_run_of_version_1_is_scored_as_recorded(v1, tmp_path, task):
    recorded = json.loads((v1 / task / "record.json").read_text())
    assert "schema" not in recorded
    command = import_module(f"{task}.eval")
    run(command, "--checkpoint", task, "--output", tmp_path / "scores", "--device", "cpu", "--data.workers", 0)
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert set(config_of(task).metrics) <= scores.keys()
    scores = {name: scores[name] for name in recorded["metrics"]}  # this version has more metrics
    assert scores == {name: pytest.approx(value, abs=1e-6) for name, value in recorded["metrics"].items()}
    if task == "detection":  # whose AP is low: each of the detections is the same
        found, before = (json.loads((f / "detections.json").read_text()) for f in (tmp_path / "scores", v1 / task))
        assert len(found) == len(before) > 50
        assert sorted(d["score"] for d in found) == pytest.approx(sorted(d["score"] for d in before), abs=2e-5)


@pytest.mark.case("formats")
@pytest.mark.parametrize("task", TASKS)
def test_a_run_of_version_1_predicts_and_loads(v1, tmp_path, task):
    images = sorted((v1 / "data" / task).rglob("val/**/*.jpg"))
    run(import_module(f"{task}.predict"), "--checkpoint", task, "--images", images[0], "--output", tmp_path / "out",
        "--device", "cpu")  # fmt: skip
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())
    loaded, outputs = loads(v1 / task, torch.zeros(1, 3, 64, 64))
    assert all(torch.isfinite(o).all() for o in (outputs if isinstance(outputs, tuple) else (outputs,)))
    stored = config_of(task).of(loaded.info.config)
    assert stored.data.cached_augmentations == (2 if task == "detection" else 0)
    if task == "detection":  # by the backbone's name, tf_tiny:Tiny
        assert loaded.model.style == stored.style == "tensorflow"


@pytest.mark.case("formats")
def test_an_unfinished_run_of_version_1_is_resumed(v1):
    """It ends as the same training that was not stopped, and stores the schema of this version."""
    run(import_module("classification.train"), "--resume", "unfinished")
    record, whole = read_record(v1 / "unfinished"), read_record(v1 / "classification")
    assert record["schema"] == schema.SCHEMA
    metrics = {name: record["metrics"][name] for name in whole["metrics"]}  # this version has more
    assert metrics == {name: pytest.approx(value, abs=1e-6) for name, value in whole["metrics"].items()}
    ours, theirs = (read_run(folder)[1] for folder in ("unfinished", "classification"))
    for name, value in theirs.items():
        # Stored on another CPU. Adam makes steps of up to the learning rate, 1e-3, from gradients that are rounding.
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-4)
    content = torch.load(v1 / "unfinished" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["run"]["schema"] == schema.SCHEMA


def measured(comparison: Path) -> list[dict[str, str]]:
    """The rows of a `results.csv` without interval and verdict, whose rules have changed, and without new columns."""
    with (comparison / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    changed = ("low", "high", "verdict", "verdict_reason")
    new = ("group", "method", "data", "license")
    return [{name: value for name, value in row.items() if name not in (*changed, *new)} for row in rows]


@pytest.mark.case("formats")
@pytest.mark.parametrize("flag", [["--config", "FILE"], ["--config=FILE"]])
def test_settings_of_version_1_serve_a_new_run(v1, flag):
    arguments = [word.replace("FILE", "detection/config.yaml") for word in flag]
    config = parse("detection.train", config_of("detection"), [*arguments, "--epochs", "3"], "", Path("presets"))
    assert (config.style, config.data.cached_augmentations, config.epochs) == ("tensorflow", 2, 3)


def test_a_comparison_of_version_1_finds_its_trainings(v1, capsys, monkeypatch):
    """The command that made it trains nothing and writes the same figures."""

    def trains(*arguments, **settings):
        raise AssertionError(f"a training was started: {arguments}")

    monkeypatch.setattr(local.subprocess, "Popen", trains)
    before = measured(v1 / "comparison")
    for name in ("results.csv", "results.md", "report.html"):
        (v1 / "comparison" / name).unlink()
    words = json.loads((v1 / "comparison" / "comparison.json").read_text())["command_line"].split()
    run(compare, *words[3:])
    assert "2 of 2 trainings were finished already" in capsys.readouterr().err
    assert measured(v1 / "comparison") == before
    about = json.loads((v1 / "comparison" / "comparison.json").read_text())
    assert about["version"] == schema.SCHEMA
    assert [cell["status"] for cell in about["cells"]] == ["done", "done"]


@pytest.mark.case("formats")
def test_a_comparison_of_version_1_is_reported(v1):
    before = measured(v1 / "comparison")
    page = write_report(v1 / "comparison")
    assert measured(v1 / "comparison") == before
    assert "test_efficientnet" in page.read_text()
    about = Comparison(v1 / "comparison").about
    assert about["version"] == schema.SCHEMA
    assert about["shared"]["classification"]["data.cached_augmentations"] == 0
    assert "data.views" not in about["shared"]["classification"]


@pytest.mark.case("formats")
@pytest.mark.parametrize(
    ("backbones", "style", "differs"),
    [
        (["tf_b0", "tf_b1"], "tensorflow", ["lr"]),
        (["a", "b"], "pytorch", ["lr"]),
        (["tf_b0", "a"], None, ["lr", "style"]),
    ],
)
def test_styles_of_a_comparison_of_version_1(tmp_path, backbones, style, differs):
    """Version 1 chose a detector's style by the backbone's name: it is shared, or it is what differs."""
    about = {"version": 1, "shared": {"detection": {"epochs": 3, "data.views": 2}}, "differs": {"detection": ["lr"]},
             "cells": [{"task": "detection", "backbone": name} for name in backbones]}  # fmt: skip
    (tmp_path / "comparison.json").write_text(json.dumps(about))
    found = schema.read_comparison(tmp_path / "comparison.json", config_of)
    expected = {"epochs": 3, "data.cached_augmentations": 2} | ({"style": style} if style else {})
    assert found["shared"] == {"detection": expected}
    assert found["differs"] == {"detection": differs}
    assert found["cells"] == about["cells"]


@pytest.mark.case("formats")
def test_records_of_version_1_have_this_versions_settings(v1, tmp_path):
    record = read_record(v1 / "detection")
    assert record["schema"] == schema.SCHEMA
    assert record["config"]["style"] == "tensorflow"
    assert record["config"]["data"]["cached_augmentations"] == 2
    assert "views" not in record["config"]["data"]
    (beside,) = read_records([v1 / "detection" / "record.json"], config_of("detection"))
    assert beside == record
    (tmp_path / "record.json").write_text("[]")
    with pytest.raises(BadInput, match="not the record of a run"):
        read_record(tmp_path)
    with pytest.raises(BadInput, match="cannot be read"):
        read_record(tmp_path / "absent")


@pytest.mark.case("formats")
@pytest.mark.parametrize("name", KEYS)
def test_a_training_is_found_under_the_key_of_version_1(monkeypatch, name):
    """Renamed settings go by their earlier name, and a new one counts only where it changes what is trained."""
    monkeypatch.setattr(cells, "VERSION", DEMO_VERSION)
    task = CELLS[name].task
    monkeypatch.setitem(SPECS, task, replace(SPECS[task], recipe=1))
    cell = replace(CELLS[name])  # without what it has computed already
    assert cell.earlier_key == KEYS[name] != cell.key


@pytest.mark.case("formats")
@pytest.mark.parametrize(
    ("backbone", "style", "counts"),
    [
        ("resnet18", "pytorch", False),
        ("resnet18", "tensorflow", True),
        ("tf_efficientnet_lite0", "tensorflow", False),
        ("tf_efficientnet_lite0", "pytorch", True),
    ],
)
def test_a_style_counts_where_version_1_had_the_other(backbone, style, counts):
    cell = Cell("detection", ("--backbone", backbone, "--style", style))
    hashed = schema.hashed_settings(cell.settings, type(cell.config))
    assert hashed.get("style") == (style if counts else None)
    assert hashed["data"]["views"] == 0
    assert hashed.keys() - {"style"} == schema.VERSION_1 & cell.settings.keys()


@pytest.mark.case("formats")
@pytest.mark.parametrize(
    ("flag", "value", "name"),
    [
        ("--class_weights", "auto", "class_weights"),
        ("--data.balance", "true", "data.balance"),
        ("--data.augment", "none", "data.augment"),
        ("--patience", "3", "patience"),
        ("--monitor", "precision", "monitor"),
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_a_setting_that_version_1_lacked_counts_unless_it_has_its_default(task, flag, value, name):
    plain, changed = (Cell(task, ("--backbone", "resnet18", *words)) for words in ((), (flag, value)))
    for cell, counts in ((plain, False), (changed, True)):
        assert (name in dict(schema.flat(schema.hashed_settings(cell.settings, type(cell.config))))) == counts
    assert plain.key != changed.key


@pytest.mark.case("formats")
@pytest.mark.parametrize("task", TASKS)
def test_settings_that_one_task_had_count_in_others_unless_they_have_their_default(task):
    """Version 1 had both in classification only."""
    words = ("--first_layer_lr", "0.5", "--stochastic_depth", "0.1")
    plain, changed = (Cell(task, ("--backbone", "resnet18", *added)) for added in ((), words))
    names = {"first_layer_lr", "stochastic_depth"}
    for cell, counts in ((plain, task == "classification"), (changed, True)):
        hashed = schema.hashed_settings(cell.settings, type(cell.config))
        assert names & hashed.keys() == (names if counts else set())
    assert Cell(task, ("--backbone", "resnet18", "--checkpointing", "true")).key == plain.key


@pytest.mark.case("formats")
def test_what_a_newer_version_wrote_is_refused(v1, capsys, caplog):
    """One message that says what to do, wherever it is read; a leaderboard warns and leaves the run out."""
    newer = schema.SCHEMA + 1
    for file, field in (
        ("classification/record.json", "schema"),
        ("comparison/comparison.json", "version"),
        ("comparison/cells/classification/test_efficientnet-s0-48618b3d/record.json", "schema"),
    ):
        content = json.loads((v1 / file).read_text())
        (v1 / file).write_text(json.dumps(content | {field: newer}))
        reads = read_record if file.startswith("classification") else Comparison
        with pytest.raises(BadInput, match=f"newer version.*schema {newer}.*update the package"):
            reads(v1 / file.split("/")[0])
        if field == "version":
            (v1 / file).write_text(json.dumps(content))
    assert read_records([v1 / "classification" / "record.json"], config_of("classification")) == []
    assert "update the package" in caplog.text
    for folder in ("classification", "unfinished"):
        checkpoint = v1 / folder / "checkpoints" / "last.ckpt"
        content = torch.load(checkpoint, weights_only=True)
        content["run"]["schema"] = newer
        torch.save(content, checkpoint)
    with pytest.raises(BadInput, match="update the package"):
        load_run(v1 / "classification")
    score, train = import_module("classification.eval"), import_module("classification.train")
    assert "update the package" in fails(capsys, 3, score, "--checkpoint", "classification")
    assert "update the package" in fails(capsys, 3, train, "--resume", "unfinished")


@pytest.mark.case("formats")
@pytest.mark.parametrize("number", [0, -1, "2", None, 1.0])
def test_a_version_that_is_no_number_is_damage(tmp_path, number):
    with pytest.raises(BadInput, match="damaged"):
        schema.version({"schema": number}, "schema", tmp_path)


def test_every_version_is_described():
    assert list(schema.CHANGES) == list(range(1, schema.SCHEMA + 1))
    folders = sorted(path.name for path in FIXTURES.glob("v*"))
    assert folders == [f"v{number}" for number in range(1, schema.SCHEMA)], "each earlier version has a fixture"
    for folder in folders:
        config = yaml.safe_load((FIXTURES / folder / "detection" / "config.yaml").read_text())
        assert config_of("detection").of(config).backbone == "tf_tiny:Tiny"
