"""Tables and figures of a comparison for a paper: CSV, LaTeX, SVG and PDF."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from engine.record import write_text
from experiments.records import scores_by_epoch
from experiments.report.errors import csv_tables, what_went_wrong
from experiments.report.formatting import COST_AXES, column_headings, percent, row_texts
from experiments.report.pareto import pareto_front
from experiments.report.results import Comparison, Row, groups, per_class
from experiments.report.writer import result_tables
from experiments.statistics.difference import BETTER, WORSE

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$",
}  # fmt: skip


def export(folder: Path, target: Path) -> list[Path]:
    """Write all tables and figures of the comparison in `folder` to `target`. Returns the files."""
    comparison = Comparison(folder)
    target.mkdir(parents=True, exist_ok=True)
    texts = {**result_tables(comparison), "results.tex": latex(comparison)}
    figures: dict[str, Figure] = {}
    for task in comparison.tasks:
        rows = [row for row in comparison.rows_of(task) if row.runs]
        if not rows:
            continue
        texts[f"classes-{task}.csv"] = classes_csv(rows)
        if section := what_went_wrong(rows, comparison.baseline, with_images=False):
            texts |= {f"{name}-{task}.csv": text for name, text in csv_tables(section).items()}
            if section["lines"]:
                bins = {name: [(x, y / 100) for x, y, _ in line] for name, line in section["lines"].items()}
                figures[f"{task}-reliability"] = _lines(bins, "confidence, %", "correct, %")
        metric = f"{comparison.metric(task)}, %"
        for cost, (label, unit) in COST_AXES.items():
            figures[f"{task}-{cost}"] = _scatter(rows, cost, label, unit, metric)
        curves = {row.backbone: scores_by_epoch(row.runs[0].folder, row.metric) for row in rows}
        figures[f"{task}-curves"] = _lines(curves, "epoch", metric)
        if comparison.at_budgets:
            scores = {row.backbone: [(b, r.mean) for b, at in comparison.at_budgets for r in at.rows_of(task)
                                     if r.backbone == row.backbone and r.runs] for row in rows}  # fmt: skip
            figures[f"{task}-budgets"] = _lines(scores, "epochs of the training", metric)
    files = []
    for name, text in texts.items():
        write_text(target / name, text)
        files.append(target / name)
    for name, figure in figures.items():
        for suffix in ("svg", "pdf"):
            files.append(target / f"{name}.{suffix}")
            # Text stays text, and the file does not depend on when it was written.
            with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "pdf.fonttype": 42}):
                figure.savefig(files[-1], metadata={"Date" if suffix == "svg" else "CreationDate": None})
    return files


def classes_csv(rows: Sequence[Row]) -> str:
    """Scores by class of each backbone, means over seeds, as fractions. Undefined scores are empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    scores = [per_class(row) for row in rows]
    table.writerow(["class", *(row.backbone for row in rows)])
    for name in scores[0]:
        values = [score.get(name, float("nan")) for score in scores]
        table.writerow([name, *("" if value != value else f"{value:.6f}" for value in values)])
    return text.getvalue()


def latex(comparison: Comparison) -> str:
    """The main table of each task and provenance, for the package booktabs. The best score is bold, if there is one."""
    lines = []
    for task in comparison.tasks:
        headings = column_headings(comparison.metric(task))
        for provenance, rows in groups(comparison.rows_of(task)):
            lines += [f"% {task}, {provenance}", rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}"]
            lines += [r"\toprule", " & ".join(map(escaped, headings)) + r" \\", r"\midrule"]
            best = best_of(rows, comparison.baseline)
            for row in rows:
                texts = [escaped(text) for text in row_texts(row, comparison.baseline)]
                if row is best:
                    texts[1] = rf"\textbf{{{texts[1]}}}"
                lines.append(" & ".join(texts + [""] * (len(headings) - len(texts))) + r" \\")
            lines += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(lines)


def best_of(rows: Sequence[Row], baseline: str) -> Row | None:
    """The row with the best score, where the verdicts find it better; None otherwise, and for a tie as printed.

    Verdicts are on differences to the baseline. The best row is better than the baseline, or it is the baseline and all
    others are worse. Another row that is not worse than the best within the printed digits makes a tie.
    """
    finished = [row for row in rows if row.mean == row.mean]
    if len(finished) < 2:
        return None
    best, second = sorted(finished, key=lambda row: -row.mean)[:2]
    if percent(best.mean) == percent(second.mean):
        return None
    others = [row for row in finished if row is not best]
    if best.backbone == baseline:
        return best if all(row.difference and row.difference.verdict == WORSE for row in others) else None
    is_better = best.difference is not None and best.difference.verdict == BETTER
    # Of two that are both better than the baseline, none is found to be the best.
    alone = not any(row.difference and row.difference.verdict == BETTER for row in others)
    return best if is_better and alone else None


def escaped(text: str) -> str:
    """Text in which LaTeX's special characters are themselves."""
    return "".join(SPECIAL.get(character, character) for character in text)


def _scatter(rows: Sequence[Row], cost: str, label: str, unit: float, metric: str) -> Figure:
    figure, panel = _panel(label, metric)
    points = [(100 * row.mean, row.cost(cost) / unit) for row in rows]
    front = pareto_front(points)
    panel.plot([points[i][1] for i in front], [points[i][0] for i in front], color="0.6", lw=1, zorder=1)
    for row, (score, x) in zip(rows, points, strict=True):
        panel.errorbar(x, score, yerr=100 * row.spread if row.spread else None, fmt="o", capsize=2)
        panel.annotate(_plain(row.backbone), (x, score), xytext=(5, 4), textcoords="offset points", fontsize=8)
    panel.set_xscale("log")
    return figure


def _lines(lines: Mapping[str, Sequence[tuple[float, float]]], label: str, metric: str) -> Figure:
    figure, panel = _panel(label, metric)
    for name, points in lines.items():
        panel.plot([x for x, _ in points], [100 * y for _, y in points], marker="o", ms=3, lw=1.2, label=_plain(name))
    panel.legend(frameon=False, fontsize=8)
    return figure


def _panel(x_label: str, y_label: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.5, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    panel.set_xlabel(x_label)
    panel.set_ylabel(y_label)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)
    return figure, panel


def _plain(name: str) -> str:
    """A name that matplotlib does not read as mathematics, and that may start with an underscore in a legend."""
    return name.replace("$", r"\$") if not name.startswith("_") else f"\u200b{name}".replace("$", r"\$")
