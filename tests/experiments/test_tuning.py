"""Choosing settings: the trials, the choice, and that nothing is trained twice. Fake trainings replace real ones."""

import json
import math
from functools import partial
from types import SimpleNamespace

import optuna
import pytest
from optuna.pruners import MedianPruner

from engine.record import write_json
from experiments.compare.tuning import Tuner, search_ranges, trial_cell
from experiments.jobs.cell import Cell
from experiments.jobs.local import COMPLETE, Outcome, Pruned
from experiments.jobs.progress import ProgressDisplay
from experiments.jobs.pruning import SCORE, pruning_callback
from experiments.report.tuning import settings_text, tuning_csv, tuning_of, tuning_rows, tuning_sentences


def cell_of(backbone="resnet18", *more):
    return Cell("classification", ("--epochs", "30", "--protocol", "scratch", "--backbone", backbone, *more))


def fake_run(score_of, calls, fails, cell, folder, report):
    """Stands in for a training: writes what it would have written, or fails."""
    calls.append(cell)
    folder.mkdir(parents=True)
    if fails(cell):
        return Outcome(1.0, "the loss is not finite", 4)
    lines = ["epoch,top1"]
    for epoch in range(cell.config.epochs):
        lines.append(f"{epoch},{score_of(cell)}")
        (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
        report(f"epoch {epoch + 1}/{cell.config.epochs}")
    (folder / "checkpoints").mkdir()
    write_json(folder / COMPLETE, {"key": cell.key, "seconds": 2.0})
    return Outcome(2.0)


@pytest.fixture
def tune(tmp_path):
    """Runs eight trials for a cell, with the given scores. Returns the result and the trainings that ran."""

    def tune(cell, score_of, fails=lambda cell: False):
        calls = []
        runner = SimpleNamespace(train=partial(fake_run, score_of, calls, fails))
        with ProgressDisplay(8) as display:
            metrics = {"classification": "top1"}
            tuner = Tuner(tmp_path, runner, 8, metrics, lambda cell, folder: score_of(cell), display)
            return tuner.tune(cell), calls

    return tune


def test_the_backbones_factor_is_only_tried_where_a_pretrained_backbone_is_trained():
    assert search_ranges(cell_of())["lr"] == (1e-3, 1e-4, 1e-2)
    assert "backbone_lr" not in search_ranges(cell_of("resnet18", "--protocol", "frozen"))
    assert search_ranges(cell_of("resnet18", "--protocol", "finetune"))["backbone_lr"] == (0.3, 0.03, 1.0)


def test_trials_are_short_and_scored_on_held_out_images():
    config = trial_cell(cell_of(), {"lr": 0.002, "weight_decay": 0.01, "warmup": 0.1}).config
    assert (config.epochs, config.data.holdout, config.lr, config.weight_decay) == (10, 0.2, 0.002, 0.01)
    assert config.warmup_epochs == 1.0  # a tenth of the epochs
    assert trial_cell(cell_of("resnet18", "--warmup_epochs", "6")).config.warmup_epochs == 2.0


def test_the_best_third_and_the_recipe_are_trained_with_all_epochs(tune):
    """Short trainings prefer high learning rates here, long ones the recipe's neighbours."""
    best_at = lambda cell: 2e-3 if cell.config.epochs == 30 else 1e-2  # noqa: E731
    score = lambda cell: 1 - abs(cell.config.lr - best_at(cell))  # noqa: E731
    tuned, calls = tune(cell_of(), score)
    short, full = calls[:8], calls[8:]
    assert [cell.config.epochs for cell in calls] == [10] * 8 + [30] * 4
    assert all(cell.config.data.holdout == 0.2 for cell in calls)
    assert [trial.settings["lr"] for trial in tuned.trials] == [cell.config.lr for cell in short]
    assert short[0].config.lr == full[0].config.lr == 1e-3  # the recipe's
    assert sorted(cell.config.lr for cell in full[1:]) == sorted(cell.config.lr for cell in short)[-3:]
    assert tuned.applied(cell_of()).config.lr == max(full, key=score).config.lr
    assert tuned.applied(cell_of()).config.data.holdout == 0


def test_all_backbones_get_the_same_settings_that_cover_the_ranges(tune):
    first, other = (tune(cell_of(name), lambda cell: cell.config.lr)[0] for name in ("resnet18", "resnet50"))
    assert [trial.settings for trial in first.trials] == [trial.settings for trial in other.trials]
    rates = [trial.settings["lr"] for trial in first.trials[1:5]]
    assert sorted(int(4 * math.log(rate / 1e-4) / math.log(100)) for rate in rates) == [0, 1, 2, 3]


def test_the_recipe_stays_if_no_trial_is_better(tune):
    tuned, _ = tune(cell_of(), lambda cell: 0.5)
    assert tuned.chosen == 0
    assert tuned.applied(cell_of()) == cell_of()


def test_bad_trials_are_pruned_and_nothing_is_trained_twice(tune, tmp_path):
    score = lambda cell: 0.9 if cell.config.lr == 1e-3 else min(cell.config.lr, 1.0)  # noqa: E731
    tuned, calls = tune(cell_of(), score)
    states = [trial.state for trial in tuned.trials]
    assert states[:3] == ["complete"] * 3
    assert "pruned" in states
    assert len(calls) == 12
    assert not list(tmp_path.rglob("checkpoints"))
    again, calls = tune(cell_of(), score)
    assert calls == []
    assert plain(again) == plain(tuned)


@pytest.mark.parametrize("line", ["epoch 1/4  loss 1.0", "epoch 3/4  loss 1.0"])
def test_pruning_depends_on_scores_and_not_on_when_they_are_read(tmp_path, line):
    """The training is ahead of the line that is read, or was interrupted between the line and its end."""
    study = optuna.create_study(direction="maximize", pruner=MedianPruner(3, 0))
    for _ in range(3):
        trial = study.ask()
        for epoch in (1, 2, 3):
            trial.report(0.5, epoch)
        study.tell(trial, 0.5)
    trial = study.ask()
    (tmp_path / "metrics.csv").write_text("epoch,top1\n0,0.1\n1,0.9\n2,0.9\n")
    cell = cell_of("resnet18", "--epochs", "4")
    on_line = pruning_callback(trial, cell, tmp_path, "top1", float, lambda line: None)
    with pytest.raises(Pruned):
        on_line(line)
    assert trial.user_attrs[SCORE] == 0.1


def plain(tuned):
    """All trials of both rounds, without the time that they took."""
    return [vars(trial) | {"seconds": 0} for trial in (*tuned.trials, *tuned.finals.values())]


def test_failed_trials_are_listed_and_never_chosen(tune):
    tuned, _ = tune(cell_of(), lambda cell: cell.config.lr, lambda cell: cell.config.lr > 2e-3)
    failed = [trial for trial in tuned.trials if trial.state == "failed"]
    assert failed
    assert all(trial.error == "the loss is not finite" for trial in failed)
    assert tuned.trials[tuned.chosen].settings["lr"] <= 2e-3
    tuned, _ = tune(cell_of("resnet50"), lambda cell: 0.5, lambda cell: True)
    assert tuned.chosen == 0


def test_the_report_states_what_tuning_changed(tune):
    scores = {"resnet18": lambda cell: 0.4 + 10 * cell.config.lr, "resnet50": lambda cell: 0.5}
    entries = [json.loads(json.dumps(tune(cell_of(name), score)[0].as_dict())) for name, score in scores.items()]
    comparison = SimpleNamespace(about={"tuning": entries})
    assert tuning_of(comparison, "detection") == []
    first, second = tuning_rows(tuning_of(comparison, "classification"))
    lr = max(trial["settings"]["lr"] for trial in entries[0]["finals"].values())
    assert first[:4] == ["resnet18", "41.0", f"{40 + 1000 * lr:.1f}", f"+{1000 * lr - 1:.1f}"]
    assert f"lr {lr:g}" in first[4]
    assert second[3] == "+0.0"
    assert settings_text(entries[1]) == "the recipe's: lr 0.001, weight_decay 0.0001, warmup_epochs 1"
    order = "resnet50 50.0, resnet18 41.0."
    assert f"all with the recipe's settings: {order}" in tuning_sentences(entries)[0]
    lines = tuning_csv(comparison).splitlines()
    assert len(lines) == 1 + 2 * (8 + 4)
    assert lines[1].startswith("classification,resnet18,,0,0,10,0.001,0.0001,1,complete,top1,0.410000")
