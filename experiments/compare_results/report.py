"""The report of a comparison of result files: a table on the screen, results.csv, results.md and report.html."""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from backbones.errors import unwritable
from engine.record import command_line, write_text
from experiments.compare_results.compared import Compared, ScoredFile, Side
from experiments.compare_results.forest import Interval, forest
from experiments.report.formatting import (
    ABOUT_INTERVALS,
    difference_fields,
    difference_text,
    percent,
    points,
    score_text,
)
from experiments.report.html import render
from experiments.statistics import Difference

HEADINGS = ("name", "files", "score, %", "difference", "verdict", "reason")


@dataclass(frozen=True)
class Report:
    """Writes and prints a comparison.

    Args:
        compared: all results.
        baseline: name that the others are compared with.
        differences: name -> difference to the baseline.
    """

    compared: Compared
    baseline: str
    differences: Mapping[str, Difference]

    def print(self, console: Console) -> None:
        """Print the table, and what a person should know about the files."""
        console.print(self.compared.truth, markup=False)
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for heading in self.headings[:-1]:
            is_text = heading in ("name", "verdict")
            table.add_column(heading, justify="left" if is_text else "right", no_wrap=heading != "name")
        for side in self.compared.sides:
            table.add_row(*(text.replace("[", r"\[") for text in self.texts(side)[:-1]))
        console.print(table)
        for side in self.compared.sides:
            if (found := self.differences.get(side.name)) is not None:
                console.print(f"{side.name}: {found.verdict}, {found.reason}", markup=False)
        for note in [*self.facts(), *self.compared.notes]:
            console.print(note, markup=False)

    def write(self, folder: Path) -> Path:
        """Write the three files; returns the path of the page. Raises BadInput for a folder that cannot be written."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        write_text(folder / "results.csv", self.csv())
        write_text(folder / "results.md", self.markdown())
        write_text(folder / "report.html", self.html())
        return folder / "report.html"

    @property
    def headings(self) -> list[str]:
        """Headings of the table."""
        return [self.compared.metric + ", %" if heading == "score, %" else heading for heading in HEADINGS]

    def texts(self, side: Side) -> list[str]:
        """Texts of a row, one for each heading."""
        found = self.differences.get(side.name)
        return [
            f"{side.name} (baseline)" if side.name == self.baseline else side.name,
            str(len(side.files)),
            score_text(side),
            difference_text(found),
            found.verdict if found else "",
            found.reason if found else "",
        ]

    def facts(self) -> list[str]:
        """A sentence for each file about its content."""
        return [
            f"{side.name}, {file.file}: {', '.join(f'{name} {value}' for name, value in _fact_texts(file))}"
            for side in self.compared.sides
            for file in side.files
            if file.facts
        ]

    def csv(self) -> str:
        """One line for each name. Scores and differences are fractions. Spaces separate the values of files."""
        facts = list(dict.fromkeys(name for side in self.compared.sides for file in side.files for name in file.facts))
        names = ["task", "name", "metric", "seeds", "mean", "spread", "scores", "difference", "low", "high", "verdict",
                 "verdict_reason", *facts, "files"]  # fmt: skip
        text = io.StringIO()
        table = csv.DictWriter(text, names, lineterminator="\n")
        table.writeheader()
        for side in self.compared.sides:
            line: dict[str, Any] = {
                "task": self.compared.task,
                "name": side.name,
                "metric": self.compared.metric,
                "seeds": len(side.files),
                "mean": f"{side.mean:.6f}",
                "spread": "" if side.spread is None else f"{side.spread:.6f}",
                "scores": " ".join(f"{score:.6f}" for score in side.scores),
                "files": "; ".join(str(file.file) for file in side.files),
            }
            line |= difference_fields(self.differences.get(side.name))
            for fact in facts:
                line[fact] = " ".join(_cell(file.facts.get(fact)) for file in side.files)
            table.writerow(line)
        return text.getvalue()

    def markdown(self) -> str:
        """The tables in Markdown."""
        compared = self.compared
        lines = [f"**{compared.task}**: {_markdown(compared.truth)}", "", _markdown(self._about()), ""]
        lines += _markdown_table(self.headings, [self.texts(side) for side in compared.sides])
        lines.append("")
        lines += [f"- Warning: {_markdown(text)}." for text in compared.warnings]
        lines += [f"- {_markdown(text)}" for text in compared.notes]
        headings, rows = self._files()
        if rows:
            lines += ["", *_markdown_table(headings, rows)]
        lines += ["", f"{compared.class_metric} of each class, %:", ""]
        lines += _markdown_table(
            ["class", *(side.name for side in compared.sides)],
            [[name, *(percent(side.by_class[name]) for side in compared.sides)] for name in self._classes()],
        )
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """The page, without external files. The template escapes all text from data and arguments."""
        compared = self.compared
        intervals = [
            Interval(
                name=side.name,
                value=100 * found.value,
                low=100 * found.low,
                high=100 * found.high,
                description=f"{side.name}: {difference_text(found)} points, {found.verdict}",
            )
            for side in compared.sides
            if (found := self.differences.get(side.name)) is not None
        ]
        headings, rows = self._files()
        return render(
            "results.html",
            task=compared.task,
            truth=compared.truth,
            about=self._about(),
            headings=self.headings,
            rows=[self._sortable(side) for side in compared.sides],
            warnings=compared.warnings,
            notes=compared.notes,
            forest=Markup(forest(intervals, f"difference of {compared.metric} to {self.baseline}, points")),
            file_headings=headings,
            file_rows=rows,
            class_metric=compared.class_metric,
            class_headings=self._class_headings(),
            class_rows=self._class_rows(),
            command=shlex.join(command_line()),
        )

    def _about(self) -> str:
        return f"Differences are to {self.baseline}, in points. {ABOUT_INTERVALS}"

    def _sortable(self, side: Side) -> list[tuple[str, str]]:
        """The cells of a row: text, and the value that the table is sorted by."""
        found = self.differences.get(side.name)
        texts = self.texts(side)
        values = [side.name, texts[1], _value(side.mean), _value(found.value) if found else "", *texts[4:]]
        return list(zip(texts, values, strict=True))

    def _files(self) -> tuple[list[str], list[list[str]]]:
        """The table of the files: headings and rows. No rows if nothing is known about files."""
        files = [(side, file) for side in self.compared.sides for file in side.files]
        facts = list(files[0][1].facts)
        headings = ["name", "file", f"{self.compared.metric}, %", *(fact.replace("_", " ") for fact in facts)]
        rows = [
            [side.name, str(file.file), percent(file.score), *(value for _, value in _fact_texts(file))]
            for side, file in files
        ]
        return headings, rows

    def _classes(self) -> Sequence[str]:
        return list(self.compared.sides[0].by_class)

    def _class_headings(self) -> list[str]:
        others = [side.name for side in self.compared.sides if side.name != self.baseline]
        return ["class", self.baseline, *others]

    def _class_rows(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Class, and the cells: the baseline's score, and the others' difference to it."""
        by_name = {side.name: side.by_class for side in self.compared.sides}
        baseline = by_name.pop(self.baseline)
        rows = []
        for name, value in baseline.items():
            differences = [scores[name] - value for scores in by_name.values()]
            rows.append((name, [(percent(value), _value(value)), *((points(d), _value(d)) for d in differences)]))
        return rows


def _fact_texts(file: ScoredFile) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), _fact_text(value)) for name, value in file.facts.items()]


def _fact_text(value: float | int | None) -> str:
    return "none" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _cell(value: float | int | None) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _value(number: float) -> str:
    """The value that the table is sorted by; empty for NaN."""
    return "" if number != number else f"{number:.6f}"


def _markdown(text: str) -> str:
    """The text as it is, in a cell of a table: marks of Markdown and HTML are escaped."""
    text = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
    return re.sub(r"[\\|`*]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", text)


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    texts = [" | ".join(map(_markdown, line)) for line in (headings, *rows)]
    return [f"| {texts[0]} |", "|---" * len(headings) + "|", *(f"| {text} |" for text in texts[1:])]
