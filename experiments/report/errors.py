"""The section "What went wrong" of a task: tables of errors by backbone, reliability diagrams, and lists of classes."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from engine.error_files import CALIBRATION, ERRORS
from experiments.report.formatting import percent
from experiments.report.image_differences import image_differences
from experiments.report.results import FinishedRun, Row
from experiments.report.svg import reliability
from experiments.tasks import TASKS

CONFUSIONS = 10  # pairs of classes to list
CLASSES = 50  # with more classes, the table by class has those with most errors

Files = dict[str, dict[str, Any]]


def what_went_wrong(rows: Sequence[Row], baseline: str, with_images: bool = True) -> dict[str, Any] | None:
    """The content of the section of a task; None without finished trainings.

    Args:
        rows: of the task, those with finished trainings.
        baseline: name of the backbone that the others are compared with.
        with_images: whether to select and draw the images with the largest differences, which takes longest.
    """
    if not rows:
        return None
    spec = TASKS[rows[0].task]
    by_row: dict[str, list[Files]] = {}
    missing = []
    for row in rows:
        for run in row.runs:
            files = _files(run)
            absent = [name for name in (ERRORS, CALIBRATION) if name not in files]
            if absent:
                missing.append(f"{row.backbone} with seed {run.record['seed']} ({' and '.join(absent)})")
            by_row.setdefault(row.backbone, []).append(files)
    values = {name: _means([spec.error_row(files) for files in found]) for name, found in by_row.items()}
    headings = list(dict.fromkeys(heading for means in values.values() for heading in means))
    lines = _diagrams(by_row)
    tables = [_table("errors", f"{spec.error_title}, percent; means over seeds", "backbone", headings, values, percent)]
    tables += [*_crowding(by_row), *_confusions(by_row)]
    return {
        "missing": _missing(missing),
        "tables": [table for table in tables if table["rows"] and len(table["headings"]) > 1],
        "by_class": _by_class(by_row),
        "at_threshold": any("at_threshold" in files.get(ERRORS, {}) for found in by_row.values() for files in found),
        "lines": lines,
        "diagram": Markup(reliability(lines)),
        "pairs": image_differences(rows, baseline) if with_images else [],
        "score": (
            "the probability of the predicted class, with a minus sign if that class is wrong"
            if spec.image_scores
            else f"the {rows[0].metric} of the image alone"
        ),
    }


def _files(run: FinishedRun) -> Files:
    """The files on errors of a run; none if they are damaged."""
    try:
        return TASKS[run.record["task"]].read_errors(run.folder, run.record)
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _missing(runs: Sequence[str]) -> str:
    """Say which trainings are not in the tables, at most ten by name."""
    if not runs:
        return ""
    rest = f" and {len(runs) - 10} more" if len(runs) > 10 else ""
    return (
        f"Not included, because these files of an earlier version are absent or damaged: {', '.join(runs[:10])}{rest}. "
        "Train them again to include them."
    )


def _means(values: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """The mean of each value over the mappings that have it. Undefined values are left out; NaN if all are."""
    means = {}
    for name in dict.fromkeys(name for each in values for name in each):
        known = [v for each in values if (v := each.get(name)) is not None and v == v]
        means[name] = statistics.fmean(known) if known else math.nan
    return means


def csv_tables(section: Mapping[str, Any]) -> dict[str, str]:
    """The tables of `what_went_wrong` as CSV by name: fractions and counts, empty where undefined."""
    rows = {
        table["name"]: [table["headings"], *([name, *(value for _, value in cells)] for name, cells in table["rows"])]
        for table in section["tables"]
    }
    if section["by_class"]:
        rows["errors-by-class"] = [
            ["backbone", *section["by_class"][0]["headings"]],
            *(
                [table["caption"], name, *(value for _, value in cells)]
                for table in section["by_class"]
                for name, cells in table["rows"]
            ),
        ]
    texts = {}
    for name, lines in rows.items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        texts[name] = text.getvalue()
    return texts


def _table(
    table_name: str,
    caption: str,
    first: str,
    headings: Sequence[str],
    values: Mapping[str, Mapping[str, float]],
    text: Callable[[float], str],
) -> dict[str, Any]:
    """A table of the values by row and heading; rows without any value are left out."""
    rows = []
    for name, row in values.items():
        if row:
            cells = [row.get(heading, math.nan) for heading in headings]
            rows.append((name, [(text(v), "" if v != v else f"{v:.6f}") for v in cells]))
    return {"name": table_name, "caption": caption, "headings": [first, *headings], "rows": rows}


def _crowding(by_row: Mapping[str, Sequence[Files]]) -> list[dict[str, Any]]:
    """Recall and AP50 by the number of overlapping true boxes; for detection."""
    values: dict[str, dict[str, float]] = {}
    counts: dict[str, int] = {}
    iou = math.nan
    for name, found in by_row.items():
        seeds = []
        for files in found:
            if crowding := files.get(ERRORS, {}).get("crowding"):
                iou, groups = crowding["iou"], crowding["overlapping_boxes"]
                counts |= {group: each["objects"] for group, each in groups.items()}
                seeds.append({f"{k}, {m}": each[m] for k, each in groups.items() for m in ("recall50", "AP50")})
        values[name] = _means(seeds)
    if not counts:
        return []
    listed = ", ".join(f"{count} objects with {group}" for group, count in counts.items())
    caption = (
        f"by the number of true boxes that overlap an object with an IoU of {iou:g} or more ({listed}): share of the "
        "objects that any detection finds at an IoU of 0.5, and AP50 of these objects; percent, means over seeds"
    )
    headings = [f"{group}, {metric}" for group in counts for metric in ("recall50", "AP50")]
    return [_table("crowding", caption, "backbone", headings, values, percent)]


def _confusions(by_row: Mapping[str, Sequence[Files]]) -> list[dict[str, Any]]:
    """The most frequent pairs of a true and a wrongly predicted class; for classification."""
    counts: dict[str, dict[str, float]] = {}
    for name, found in by_row.items():
        stored = [files[ERRORS]["confusions"] for files in found if "confusions" in files.get(ERRORS, {})]
        for confusions in stored:
            for row in confusions:
                pair = counts.setdefault(f"{row['class']} as {row['predicted']}", {})
                pair[name] = pair.get(name, 0.0) + row["images"] / len(stored)
    ranked = sorted(counts, key=lambda pair: (-max(counts[pair].values()), pair))[:CONFUSIONS]
    chosen = {pair: {name: counts[pair].get(name, 0.0) for name in by_row} for pair in ranked}
    caption = "most frequent confusions, number of images; means over seeds"
    return [_table("confusions", caption, "true class as predicted class", list(by_row), chosen, "{:.1f}".format)]


def _by_class(by_row: Mapping[str, Sequence[Files]]) -> list[dict[str, Any]]:
    """A table of each backbone: number of errors and other values of each class."""
    tables = []
    for name, found in by_row.items():
        stored = []
        for files in found:
            errors = files.get(ERRORS, {})
            stored.append((errors.get("at_threshold") or errors).get("per_class", {}))
        values = {label: _means([each[label] for each in stored if label in each]) for label in _labels(stored)}
        if values:
            columns = next(iter(values.values()))
            headings = ["wrong class" if column == "class" else column.replace("_", " ") for column in columns]
            plain = {
                label: dict(zip(headings, row.values(), strict=True)) for label, row in list(values.items())[:CLASSES]
            }
            tables.append(_table("by class", name, "class", headings, plain, _number))
    return tables


def _labels(stored: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(label for each in stored for label in each))


def _number(value: float) -> str:
    return "--" if value != value else f"{value:.2f}".rstrip("0").rstrip(".")


def _diagrams(by_row: Mapping[str, Sequence[Files]]) -> dict[str, list[tuple[float, float, int]]]:
    """(mean confidence, correct predictions, both in percent, number of predictions) of each bin, over all seeds."""
    lines = {}
    for name, found in by_row.items():
        sums: dict[float, list[float]] = {}
        for files in found:
            for row in files.get(CALIBRATION, {}).get("bins", []):
                if row["count"]:
                    total = sums.setdefault(row["to"], [0.0, 0.0, 0.0])
                    for i, value in enumerate((1.0, row["confidence"], row["accuracy"])):
                        total[i] += row["count"] * value
        if sums:
            lines[name] = [
                (100 * confidence / count, 100 * correct / count, int(count))
                for _, (count, confidence, correct) in sorted(sums.items())
            ]
    return lines
