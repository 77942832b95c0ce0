"""The effect of choosing the settings of each backbone: scores and ranking on held-out images, and the time."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.jobs.progress import duration
from experiments.report.formatting import percent, points
from experiments.report.results import Comparison

HEADINGS: tuple[str, ...] = ("backbone", "recipe, %", "chosen, %", "difference", "settings", "trials", "pruned", "time")


def tuning_of(comparison: Comparison, task: str) -> list[dict[str, Any]]:
    """The entries of `comparison.json` on a task, see `experiments.compare.tuning.Tuned`."""
    return [entry for entry in comparison.about.get("tuning", []) if entry["task"] == task]


def tuning_rows(entries: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The texts of one row for each backbone, in the order of `HEADINGS`."""
    rows = []
    for entry in entries:
        recipe, best = score_of(entry, 0), score_of(entry, entry["chosen"])
        budget = "" if entry["budget"] is None else f", {entry['budget']} epochs"
        states = [trial["state"] for trial in entry["trials"]]
        failed = states.count("failed")
        rows.append(
            [
                entry["backbone"] + budget,
                percent(recipe),
                percent(best),
                "" if recipe is None or best is None else points(best - recipe),
                settings_text(entry),
                f"{len(states)} of {entry['epochs']} epochs, {len(entry['finals'])} of {entry['full_epochs']}"
                + (f"; {failed} failed" if failed else ""),
                str(states.count("pruned")),
                duration(entry["seconds"]),
            ]
        )
    return rows


def settings_text(entry: Mapping[str, Any]) -> str:
    """The chosen settings, such as `lr 0.003, weight_decay 0.01`."""
    chosen = entry["trials"][entry["chosen"]]["settings"]
    text = ", ".join(f"{name} {value:g}" for name, value in chosen.items())
    return text if entry["chosen"] else f"the recipe's: {text}"


def tuning_sentences(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the ranking on the held-out images changed, for each budget, and how far these scores can be trusted."""
    texts = []
    for budget in dict.fromkeys(entry["budget"] for entry in entries):
        same = [entry for entry in entries if entry["budget"] == budget]
        before, after = ranking(same, recipe=True), ranking(same, recipe=False)
        at = "" if budget is None else f" at {budget} epochs"
        texts.append(
            f"Ranking on held-out training images{at}, all with the recipe's settings: {before}. "
            f"Each with its own settings: {after}."
        )
    if entries:
        texts.append(
            "Each of these scores is that of one training, and the best of several is partly chance. The verdicts "
            "compare trainings on the validation images, which the choice did not use."
        )
    return texts


def ranking(entries: Sequence[Mapping[str, Any]], recipe: bool) -> str:
    """Backbones and scores, best first, with the recipe's settings or the chosen ones. Without a score: last."""
    scores = {entry["backbone"]: score_of(entry, 0 if recipe else entry["chosen"]) for entry in entries}
    names = sorted(scores, key=lambda name: -1.0 if scores[name] is None else scores[name] or 0.0, reverse=True)
    return ", ".join(f"{name} {percent(scores[name])}" for name in names)


def score_of(entry: Mapping[str, Any], number: int) -> float | None:
    """The score of a trial in the second round, with all epochs, a fraction; None if it failed or is undefined."""
    trial = entry["finals"][str(number)]
    return trial["score"] if trial["state"] == "complete" else None


def tuning_csv(comparison: Comparison) -> str:
    """One line for each trial of both rounds. Scores are fractions; that of a pruned trial is its last one."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    trials = [trial for entry in comparison.about["tuning"] for trial in entry["trials"]]
    names = list(dict.fromkeys(name for trial in trials for name in trial["settings"]))
    columns = ["task", "backbone", "budget", "trial", "chosen", "epochs", *names, "state", "metric", "score", "seconds"]
    table.writerow([*columns, "error"])
    for entry in comparison.about["tuning"]:
        short = [(number, entry["epochs"], trial) for number, trial in enumerate(entry["trials"])]
        full = [(int(number), entry["full_epochs"], trial) for number, trial in entry["finals"].items()]
        for number, epochs, trial in [*short, *full]:
            score = "" if trial["score"] is None else f"{trial['score']:.6f}"
            table.writerow(
                [
                    *(entry[name] for name in ("task", "backbone", "budget")),
                    number,
                    int(number == entry["chosen"]),
                    epochs,
                    *(f"{trial['settings'][name]:g}" if name in trial["settings"] else "" for name in names),
                    trial["state"],
                    entry["metric"],
                    score,
                    f"{trial['seconds']:.1f}",
                    trial["error"] or "",
                ]
            )
    return text.getvalue()
