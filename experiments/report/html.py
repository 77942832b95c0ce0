"""`report.html`: one file that needs nothing else. The template escapes all that comes from data or arguments."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from experiments.report import svg as charts
from experiments.report.formatting import (
    PUBLISHED_HEADS,
    cells,
    heads,
    percent,
    points,
    published_cells,
    score_text,
    sentences,
)
from experiments.report.results import COSTS, Comparison, Row, Run, groups, learning_curve, per_class
from experiments.tasks import TASKS

TEMPLATES = Path(__file__).parent / "templates"
PICTURES, WIDTH, QUALITY = 2, 640, 70  # validation images of a task, their width in pixels, and JPEG quality
COST_AXES = {"params": "parameters, millions", "macs": "multiply-adds, billions", "latency_ms": "milliseconds an image"}
UNITS = {"params": 1e6, "macs": 1e9, "latency_ms": 1.0}


def html(comparison: Comparison) -> str:
    """The whole page."""
    runs = list(comparison.runs.values())
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html").render(
        about=comparison.about,
        finished=len(runs),
        total=len(comparison.cells),
        tasks=[_task(comparison, task) for task in comparison.tasks],
        choices=[_choice(choice) for choice in comparison.about["learning_rates"]],
        origins=_origins(runs),
        commands="\n".join(run.record["command_line"] for run in runs),
        published_heads=PUBLISHED_HEADS,
        css=Markup((TEMPLATES / "report.css").read_text()),
        js=Markup((TEMPLATES / "report.js").read_text()),
    )


def _task(comparison: Comparison, task: str) -> dict[str, Any]:
    rows = comparison.rows_of(task)
    finished = [row for row in rows if row.runs]
    curves = {row.backbone: learning_curve(row.runs[0], TASKS[task].metric) for row in finished}
    return {
        "name": task,
        "metric": TASKS[task].metric,
        "data": _data(finished),
        "sentences": sentences(rows, comparison.baseline),
        "groups": [_group(comparison, task, provenance, group) for provenance, group in groups(rows)],
        "charts": [Markup(_scatter(task, finished, cost)) for cost in COST_AXES] if finished else [],
        "curves": Markup(charts.curves(curves, f"{TASKS[task].metric}, %")),
        "classes": _classes(comparison, finished),
        "published": [texts for row in finished if (texts := published_cells(row))],
        "pictures": _pictures(finished),
        "differs": ", ".join(comparison.about["differs"][task]) or "nothing",
        "shared": comparison.about["shared"][task],
    }


def _data(finished: Sequence[Row]) -> str:
    if not finished:
        return "No training has finished."
    dataset, config = finished[0].runs[0].record["dataset"], finished[0].runs[0].record["config"]
    return (
        f"{dataset['train']['images']} training and {dataset['val']['images']} validation images of {dataset['root']}; "
        f"{config['epochs']} epochs in batches of {config['batch_size']}."
    )


def _group(comparison: Comparison, task: str, provenance: str, rows: Sequence[Row]) -> dict[str, Any]:
    """A table of backbones that started alike."""
    seeds = max(len(row.runs) for row in rows)
    table = []
    for row in rows:
        texts = cells(row, comparison.baseline)
        difference = row.difference.value if row.difference else ""
        values = [row.mean, difference, *texts[3:4], *(row.cost(name) for name in COSTS)]
        pairs = list(zip(texts[1:], values, strict=True)) if row.runs else []
        table.append({"backbone": row.backbone, "failed": not row.runs, "texts": texts, "cells": pairs})
    caption = f"{provenance}; {seeds} seed{'' if seeds == 1 else 's'}, scores after the last epoch"
    return {"caption": caption, "heads": heads(task), "rows": table}


def _scatter(task: str, finished: Sequence[Row], cost: str) -> str:
    axis = COST_AXES[cost]
    marks = [
        charts.Point(
            name=row.backbone,
            x=row.cost(cost) / UNITS[cost],
            y=100 * row.mean,
            spread=100 * (row.spread or 0.0),
            says=f"{row.backbone}: {TASKS[task].metric} {score_text(row)}, {row.cost(cost) / UNITS[cost]:.3g} "
            f"{axis.replace(', ', ' (')}{')' if ', ' in axis else ''}",
        )
        for row in finished
    ]
    return charts.scatter(marks, axis, f"{TASKS[task].metric}, %")


def _classes(comparison: Comparison, finished: Sequence[Row]) -> dict[str, Any] | None:
    """Scores by class, and how each network differs from the baseline there."""
    baseline = next((row for row in finished if row.backbone == comparison.baseline), None)
    others = [row for row in finished if row is not baseline]
    if baseline is None or not others:
        return None
    scores = [per_class(row) for row in others]
    rows = []
    for name, value in per_class(baseline).items():
        differences = [score.get(name, float("nan")) - value for score in scores]
        rows.append((name, [(percent(value), _value(value)), *((points(d), _value(d)) for d in differences)]))
    names = [row.backbone for row in (baseline, *others)]
    return {"baseline": baseline.backbone, "heads": ["class", *names], "rows": rows}


def _value(number: float) -> str:
    """For sorting; empty where there is none."""
    return "" if number != number else f"{number:.6f}"


def _pictures(finished: Sequence[Row]) -> list[dict[str, str]]:
    """The validation images that all backbones were drawn on, side by side."""
    drawn = {row.backbone: {p.stem: p for p in (row.runs[0].folder / "pictures").glob("val-*.jpg")} for row in finished}
    common = sorted(set.intersection(*(set(pictures) for pictures in drawn.values()))) if drawn else []
    chosen = common[:: max(1, len(common) // PICTURES)][:PICTURES]
    return [
        {"alt": f"{name}: prediction of {backbone}", "uri": _data_uri(pictures[name]), "backbone": backbone}
        for name in chosen
        for backbone, pictures in drawn.items()
    ]


def _data_uri(path: Path) -> str:
    with Image.open(path) as image:
        image.thumbnail((WIDTH, WIDTH))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _choice(choice: dict[str, Any]) -> str:
    scores = ", ".join(f"{lr}: {percent(score)}" for lr, score in choice["scores"].items())
    chosen = "the recipe's, for none scored" if choice["lr"] is None else f"{choice['lr']:g}"
    return (
        f"Learning rate of {choice['backbone']} in {choice['task']}: {chosen}, chosen on images kept out of "
        f"training, after {choice['epochs']} epochs ({scores})."
    )


def _origins(runs: Sequence[Run]) -> dict[str, list[str]]:
    """What it takes to repeat the trainings, each value once."""
    told: dict[str, dict[str, None]] = {}
    for run in runs:
        record, weights = run.record, run.record["pretrained"]
        digest = f", SHA-256 {weights['sha256']}" if weights.get("sha256") else ""
        for name, value in {
            "weights": f"{record['backbone']}: {weights['source']}{digest}",
            "data": f"{record['task']}: validation images {record['dataset']['fingerprint']['val']}",
            "code": f"commit {record['git_commit']}",
            "versions": ", ".join(f"{package} {version}" for package, version in record["versions"].items()),
            "machine": ", ".join(f"{name} {value}" for name, value in record["device"].items()),
        }.items():
            told.setdefault(name, {})[value] = None
    return {name: list(values) for name, values in told.items()}
