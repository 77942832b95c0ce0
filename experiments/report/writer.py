"""Writes the report of a comparison: `results.csv`, `results.md`, `report.html`, and tables on the screen."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from engine.console import out
from engine.record import write_text
from experiments.report.budgets import budget_sentences, budgets_csv, unlearned_sentences
from experiments.report.formatting import (
    about_intervals,
    billions,
    column_headings,
    difference_fields,
    markdown_row,
    micro_batch_sentence,
    points,
    row_texts,
    score_text,
    stopped_sentence,
    style_sentence,
)
from experiments.report.html import html
from experiments.report.results import COSTS, Comparison, Row, groups
from experiments.report.tuning import HEADINGS as TUNING_HEADINGS
from experiments.report.tuning import tuning_csv, tuning_of, tuning_rows, tuning_sentences
from experiments.report.weights import HEADINGS as WEIGHTS_HEADINGS
from experiments.report.weights import weights_fields, weights_rows

LONGEST_NAME = 30  # longest name of a backbone that is not broken in an 80-column terminal


def write_page(folder: Path) -> None:
    """Write `report.html` for the trainings that have finished. It reloads itself while others are pending."""
    write_text(folder / "report.html", html(Comparison(folder)))


def write_report(folder: Path) -> Path:
    """Write the files next to `comparison.json` and print the tables; returns the path of the page."""
    comparison = Comparison(folder)
    page = folder / "report.html"
    files = [(page, html(comparison)), (folder / "results.md", results_md(comparison))]
    files += [(folder / name, text) for name, text in result_tables(comparison).items()]
    for path, text in files:
        write_text(path, text)
    for task in comparison.tasks:
        for table in screen_tables(comparison, task):
            out.print(table)
            out.print()
        rows = comparison.rows_of(task)
        for sentence in filter(None, (stopped_sentence(rows), micro_batch_sentence(rows))):
            out.print(sentence, markup=False)
        for sentence in _sentences(comparison, task, tuning_of(comparison, task)):
            out.print(sentence, markup=False)
    out.print(f"report {page}")
    return page


def result_tables(comparison: Comparison) -> dict[str, str]:
    """The tables of all backbones by file name: results, those on the test split, those at all budgets, and trials."""
    tables = {"results.csv": results_csv(comparison.rows)}
    if (tested := comparison.on_test_split) is not None:
        tables[f"results-{tested.split}.csv"] = results_csv(tested.rows)
    if comparison.at_budgets:
        tables["budgets.csv"] = budgets_csv(comparison.at_budgets)
    if comparison.about.get("tuning"):
        tables["tuning.csv"] = tuning_csv(comparison)
    return tables


def results_csv(rows: Iterable[Row]) -> str:
    """Return one line for each task and backbone. Scores and differences are fractions.

    If early stopping ended a training, the column `stopped_early` has the number of epochs of each seed's training, and
    a dash for a training of all epochs.
    """
    rows, text = list(rows), io.StringIO()
    names = ["task", "backbone", "neck", "provenance", "group", "method", "data", "license", "metric", "seeds", "mean",
             "spread", "scores", "difference", "low", "high", "verdict", "verdict_reason", *COSTS, "published",
             "source", "failed"]  # fmt: skip
    names += ["stopped_early"] if any(run.stopped_early for row in rows for run in row.runs) else []
    table = csv.DictWriter(text, names, lineterminator="\n")
    table.writeheader()
    for row in rows:
        line: dict[str, Any] = {
            "task": row.task,
            "backbone": row.backbone,
            "neck": row.runs[0].record["neck"] if row.runs else None,
            "provenance": row.provenance,
            **(weights_fields(row.runs[0]) if row.runs else {}),
            "metric": row.metric,
            "seeds": len(row.runs),
            "mean": f"{row.mean:.6f}",
            "spread": "" if row.spread is None else f"{row.spread:.6f}",
            "scores": " ".join(f"{score:.6f}" for score in row.scores),
            "failed": "; ".join(row.failures),
        }
        if "stopped_early" in names:
            line["stopped_early"] = " ".join(str(run.stopped_early or "-") for run in row.runs)
        line |= difference_fields(row.difference)
        line |= {name: f"{row.cost(name):g}" for name in COSTS}
        if (known := row.published) is not None:
            scores = " ".join(f"{metric} {value:g}" for metric, value in known.scores.items())
            line |= {"published": f"{scores} on {known.dataset}", "source": known.source}
        table.writerow(line)
    return text.getvalue()


def results_md(comparison: Comparison) -> str:
    """Return Markdown tables, one for each task and provenance."""
    baseline = comparison.baseline
    lines = [f"Differences are to {baseline}, in points. {about_intervals(comparison.about)}"]
    for task in comparison.tasks:
        headings = column_headings(comparison.metric(task))
        for provenance, rows in groups(comparison.rows_of(task)):
            lines += ["", f"**{task}**, {provenance}", "", f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
            for row in rows:
                texts = row_texts(row, baseline)
                lines.append(markdown_row(texts + [""] * (len(headings) - len(texts))))
        for say in (style_sentence, stopped_sentence, micro_batch_sentence):
            sentence = say(comparison.rows_of(task))
            lines += ["", sentence] if sentence else []
        entries = tuning_of(comparison, task)
        weights = weights_rows(comparison.rows_of(task))
        for columns, table in ((WEIGHTS_HEADINGS, weights), (TUNING_HEADINGS, tuning_rows(entries))):
            if table:
                lines += ["", markdown_row(columns), "|---" * len(columns) + "|", *map(markdown_row, table)]
        for sentence in _sentences(comparison, task, entries):
            lines += ["", sentence]
    return "\n".join(lines) + "\n"


def _sentences(comparison: Comparison, task: str, tuning: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        *unlearned_sentences(comparison, task),
        *budget_sentences(comparison, task),
        *tuning_sentences(tuning),
    ]


def screen_tables(comparison: Comparison, task: str) -> list[Table]:
    """The tables for the terminal, one for each provenance: score, difference, verdict, and cost."""
    tables = []
    for provenance, rows in groups(comparison.rows_of(task)):
        table = Table(
            box=SIMPLE_HEAD, title=f"{task}, {provenance}", title_justify="left", padding=(0, 1, 0, 0), show_edge=False
        )
        for heading in ("backbone", f"{comparison.metric(task)}, %", "difference", "verdict", "MACs"):
            is_text = heading in ("backbone", "verdict")
            table.add_column(heading, no_wrap=not is_text, justify="left" if is_text else "right", overflow="fold")
        table.columns[0].min_width = min(LONGEST_NAME, max(len(row.backbone) for row in rows))
        for row in rows:
            difference, verdict = "", "" if row.runs else "not finished"
            if row.difference is not None:
                difference, verdict = points(row.difference.value), row.difference.verdict
            elif row.runs and row.backbone == comparison.baseline:
                verdict = "baseline"
            texts = row.backbone, score_text(row), difference, verdict, billions(row.cost("macs"))
            table.add_row(*(text.replace("[", r"\[") for text in texts))
        tables.append(table)
    return tables
