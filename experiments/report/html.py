"""Writes `report.html`, a page without external files. The template escapes all text from data and arguments."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from experiments.records import scores_by_epoch
from experiments.report import svg as charts
from experiments.report.budgets import budget_sentences, epochs_of, unlearned_sentences
from experiments.report.deployed import deployed_section
from experiments.report.errors import what_went_wrong
from experiments.report.formatting import (
    COST_AXES,
    PUBLISHED_HEADINGS,
    about_intervals,
    column_headings,
    micro_batch_sentence,
    percent,
    points,
    published_row_texts,
    row_texts,
    score_text,
    sentences,
    stopped_sentence,
    style_sentence,
)
from experiments.report.results import COSTS, Comparison, FinishedRun, Row, groups, per_class
from experiments.report.tuning import HEADINGS as TUNING_HEADINGS
from experiments.report.tuning import tuning_of, tuning_rows, tuning_sentences
from experiments.report.weights import HEADINGS as WEIGHTS_HEADINGS
from experiments.report.weights import weights_rows
from experiments.tasks import TASKS

TEMPLATES = Path(__file__).parent / "templates"
PICTURES, WIDTH, QUALITY = 2, 640, 70  # validation images per task, their width in pixels, JPEG quality


def html(comparison: Comparison) -> str:
    """Return the page."""
    runs = list(comparison.runs.values())
    return render(
        "report.html",
        about=comparison.about,
        finished=len(runs),
        pending=any(cell["status"] == "pending" for cell in comparison.about["cells"]),
        total=len(comparison.cells),
        tasks=[_task(comparison, task) for task in comparison.tasks],
        learning_rates=[_learning_rate_text(choice) for choice in comparison.about["learning_rates"]],
        provenance=_provenance(runs),
        commands="\n".join(run.record["command_line"] for run in runs),
        about_intervals=about_intervals(comparison.about),
        published_headings=PUBLISHED_HEADINGS,
    )


def render(template: str, **values: Any) -> str:
    """A page without external files from a template in `TEMPLATES`, which escapes all values that are not `Markup`."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    values |= {name: Markup((TEMPLATES / f"report.{name}").read_text()) for name in ("css", "js")}
    return environment.get_template(template).render(**values)


def _task(comparison: Comparison, task: str) -> dict[str, Any]:
    rows = comparison.rows_of(task)
    finished = [row for row in rows if row.runs]
    curves = {
        row.backbone: [(e, 100 * score) for e, score in scores_by_epoch(row.runs[0].folder, row.metric)]
        for row in finished
    }
    return {
        "name": task,
        "metric": comparison.metric(task),
        "data": _data_text(finished),
        "style": style_sentence(finished),
        "stopped": " ".join(filter(None, (stopped_sentence(finished), micro_batch_sentence(finished)))),
        "unlearned": " ".join(unlearned_sentences(comparison, task)),
        "sentences": sentences(rows, comparison.baseline),
        "groups": [_table(comparison, task, provenance, group) for provenance, group in groups(rows)],
        "charts": [Markup(_scatter(finished, cost)) for cost in COST_AXES] if finished else [],
        "test_split": _test_split(comparison, task),
        "budgets": _budgets(comparison, task),
        "weights": {"headings": WEIGHTS_HEADINGS, "rows": weights_rows(rows)},
        "tuning": _tuning(comparison, task),
        "deployed": deployed_section(comparison.folder, task, TASKS[task].metric),
        "curves": Markup(charts.curves(curves, f"{comparison.metric(task)}, %")),
        "classes": _classes(comparison, finished),
        "errors": what_went_wrong(finished, comparison.baseline, not any(row.pending for row in rows)),
        "published": [texts for row in finished if (texts := published_row_texts(row))],
        "pictures": _pictures(finished),
        "differs": ", ".join(comparison.about["differs"][task]) or "nothing",
        "shared": comparison.about["shared"][task],
    }


def _test_split(comparison: Comparison, task: str) -> dict[str, Any] | None:
    """The same table as for the validation images, for another split; None without one."""
    if comparison.on_test_split is None:
        return None
    rows = comparison.on_test_split.rows_of(task)
    return {
        "name": comparison.on_test_split.split,
        "unlearned": " ".join(unlearned_sentences(comparison.on_test_split, task)),
        "sentences": sentences(rows, comparison.baseline),
        "groups": [_table(comparison, task, provenance, group) for provenance, group in groups(rows)],
    }


def _budgets(comparison: Comparison, task: str) -> dict[str, Any] | None:
    """Scores and verdicts at several budgets; None for a comparison with one."""
    budgets = comparison.at_budgets
    if not budgets:
        return None
    lines: dict[str, list[tuple[float, float]]] = {}
    table: dict[str, list[tuple[str, str]]] = {}
    for budget, at in budgets:
        for row in at.rows_of(task):
            lines.setdefault(row.backbone, []).append((budget, 100 * row.mean))
            verdict = row.difference.verdict if row.difference else ""
            table.setdefault(row.backbone, []).append((f"{score_text(row)}, {epochs_of(row)} epochs", verdict))
    return {
        "headings": ["backbone", *(f"{budget} epochs" for budget, _ in budgets)],
        "rows": list(table.items()),
        "sentences": budget_sentences(comparison, task),
        "chart": Markup(charts.curves(lines, f"{comparison.metric(task)}, %")),
        "equal": comparison.about.get("equal", "epochs"),
    }


def _tuning(comparison: Comparison, task: str) -> dict[str, Any] | None:
    """The choice of settings; None for a comparison with the recipe's."""
    entries = tuning_of(comparison, task)
    if not entries:
        return None
    return {
        "metric": entries[0]["metric"],
        "headings": TUNING_HEADINGS,
        "rows": tuning_rows(entries),
        "sentences": tuning_sentences(entries),
    }


def _data_text(finished: Sequence[Row]) -> str:
    if not finished:
        return "No training has finished."
    dataset, config = finished[0].runs[0].record["dataset"], finished[0].runs[0].record["config"]
    return (
        f"{dataset['train']['images']} training and {dataset['val']['images']} validation images of {dataset['root']}; "
        f"{'at most ' if config.get('patience') else ''}{config['epochs']} epochs in batches of {config['batch_size']}."
    )


def _table(comparison: Comparison, task: str, provenance: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The table of the backbones with the same provenance."""
    seeds = max(len(row.runs) for row in rows)
    table = []
    for row in rows:
        texts = row_texts(row, comparison.baseline)
        difference = row.difference.value if row.difference else ""
        values = [row.mean, difference, *texts[3:4], *(row.cost(name) for name in COSTS)]
        sortable = list(zip(texts[1:], values, strict=True)) if row.runs else []
        table.append({"backbone": row.backbone, "failed": not row.runs, "texts": texts, "columns": sortable})
    caption = f"{provenance}; {seeds} seed{'' if seeds == 1 else 's'}, scores after the last epoch"
    return {"caption": caption, "headings": column_headings(comparison.metric(task)), "rows": table}


def _scatter(finished: Sequence[Row], cost: str) -> str:
    axis, unit = COST_AXES[cost]
    marks = [
        charts.Point(
            name=row.backbone,
            x=row.cost(cost) / unit,
            y=100 * row.mean,
            spread=100 * (row.spread or 0.0),
            description=f"{row.backbone}: {row.metric} {score_text(row)}, {row.cost(cost) / unit:.3g} "
            f"{axis.replace(', ', ' (')}{')' if ', ' in axis else ''}",
        )
        for row in finished
    ]
    return charts.scatter(marks, axis, f"{finished[0].metric}, %")


def _classes(comparison: Comparison, finished: Sequence[Row]) -> dict[str, Any] | None:
    """The table of scores by class: the baseline's score, and each other network's difference to it."""
    baseline = next((row for row in finished if row.backbone == comparison.baseline), None)
    others = [row for row in finished if row is not baseline]
    if baseline is None or not others:
        return None
    scores = [per_class(row) for row in others]
    rows = []
    for name, value in per_class(baseline).items():
        differences = [score.get(name, float("nan")) - value for score in scores]
        rows.append((name, [(percent(value), _sort_value(value)), *((points(d), _sort_value(d)) for d in differences)]))
    names = [row.backbone for row in (baseline, *others)]
    metric = TASKS[baseline.task].metric  # per_class.json has the headline metric
    return {"metric": metric, "baseline": baseline.backbone, "headings": ["class", *names], "rows": rows}


def _sort_value(number: float) -> str:
    """The value that the table is sorted by; empty for NaN."""
    return "" if number != number else f"{number:.6f}"


def _pictures(finished: Sequence[Row]) -> list[dict[str, str]]:
    """Validation images with the predictions of each backbone, for images that all backbones have pictures of."""
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


def _learning_rate_text(choice: dict[str, Any]) -> str:
    scores = ", ".join(f"{lr}: {percent(score)}" for lr, score in choice["scores"].items())
    chosen = "the recipe's, because no training had a score" if choice["lr"] is None else f"{choice['lr']:g}"
    return (
        f"Learning rate of {choice['backbone']} in {choice['task']}: {chosen}, chosen on held-out training images "
        f"after {choice['epochs']} epochs ({scores})."
    )


def _provenance(runs: Sequence[FinishedRun]) -> dict[str, list[str]]:
    """Weights, data, code, versions and machines of the trainings, each value once."""
    values_by_name: dict[str, dict[str, None]] = {}
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
            values_by_name.setdefault(name, {})[value] = None
    return {name: list(values) for name, values in values_by_name.items()}
