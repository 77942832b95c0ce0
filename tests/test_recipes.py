"""A tiny training of each task has the losses that are stored here for the recipe version of the task.

If a test fails, the change alters scores. Raise `recipe` in the task's spec.py (CONTRIBUTING.md says when), and store
the new losses under the new version.
"""

import csv
import json
from dataclasses import replace
from importlib import import_module

import pytest

from experiments.tasks import TASKS
from tests.commands import run

# Task -> recipe version -> mean training loss of both epochs, with torch 2.15.
LOSSES = {
    "classification": {1: (2.3089420, 2.2934321)},
    "detection": {1: (1.7288814, 1.7024547), 2: (1.7288814, 1.7024547)},  # 2 changed non-maximum suppression only
    # 2 changed the backbone's learning rate in fine-tuning, and crops of images in which no crop is mixed.
    "segmentation": {1: (3.6935633, 3.5431512), 2: (3.6935633, 3.5431512)},
}
TINY = ("--backbone", "test_efficientnet", "--pretrained", "false", "--epochs", 2, "--data.fraction", 0.05,
        "--batch_size", 8, "--image_size", 64, "--data.workers", 0, "--device", "cpu")  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_the_recipe_has_the_stored_losses(task, tmp_path):
    run(import_module(f"{task}.train"), *TINY, "--output", tmp_path / "run")
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
    assert TASKS[task].recipe in LOSSES[task], f"store the losses of recipe version {TASKS[task].recipe}: {losses}"
    # Factors of 1 + 1e-7 on the logits, as another order of sums has, change the second epoch by up to 2e-4.
    assert losses == pytest.approx(LOSSES[task][TASKS[task].recipe], rel=5e-4)


def test_a_resumed_training_keeps_the_recipe_version_that_began_it(tmp_path, monkeypatch):
    from classification import train as command
    from classification.spec import SPEC
    from engine.entry import train_command

    run(command, *TINY, "--output", tmp_path / "run")
    record = tmp_path / "run" / "record.json"
    assert json.loads(record.read_text())["recipe"] == SPEC.recipe
    record.unlink()  # as if killed between the last epoch and the record
    monkeypatch.setattr(command, "main", train_command(replace(SPEC, recipe=SPEC.recipe + 1), ""))
    run(command, "--resume", tmp_path / "run")
    assert json.loads(record.read_text())["recipe"] == SPEC.recipe
