"""Tests tables and figures for a paper, the comparison of two reports, and the page of an unfinished comparison."""

import csv
import json
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.report import __main__ as report
from experiments.report.export import best_of, escaped, export, latex
from experiments.report.results import Comparison, Row
from experiments.report.writer import write_page, write_report
from experiments.statistics import Difference
from tests.commands import fails, run
from tests.experiments.test_report import CLASSES, HOSTILE, write_comparison

NETWORKS = [
    ("resnet50", 0.6, "random", 4.1e9),
    ("efficientnet_b0", 0.8, "random", 0.4e9),
    (HOSTILE, 0.61, "random", 1e9),
    ("_a$b", 0.5, "random", 1e9),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("comparison")
    write_comparison(root, NETWORKS)
    write_report(root)
    return root


def test_every_table_and_figure_is_written(folder, tmp_path, capsys):
    run(report, folder, "--export", tmp_path / "paper")
    names = {path.name for path in (tmp_path / "paper").iterdir()}
    kinds = ("params", "macs", "latency_ms", "curves", "reliability")
    figures = {f"classification-{kind}.{s}" for kind in kinds for s in ("svg", "pdf")}
    tables = {f"{name}-classification.csv" for name in ("classes", "errors", "confusions")}
    assert names == {"results.csv", "results.tex", *tables, *figures}
    assert "15 files in" in capsys.readouterr().out
    for path in (tmp_path / "paper").glob("*.svg"):
        texts = "".join(ET.parse(path).getroot().itertext())
        assert "efficientnet_b0" in texts
        assert HOSTILE in texts
    assert all(path.read_bytes().startswith(b"%PDF") for path in (tmp_path / "paper").glob("*.pdf"))
    rows = list(csv.reader((tmp_path / "paper" / "classes-classification.csv").open()))
    assert [row[0] for row in rows] == ["class", *CLASSES]
    assert (tmp_path / "paper" / "results.csv").read_text() == (folder / "results.csv").read_text()


@pytest.mark.slow
def test_files_do_not_depend_on_when_they_are_written(folder, tmp_path):
    for name in ("first", "second"):
        export(folder, tmp_path / name)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name


def test_printed_digits_agree_between_formats(folder):
    table = latex(Comparison(folder))
    markdown = (folder / "results.md").read_text()
    for row in csv.DictReader((folder / "results.csv").open()):
        if row["scores"]:
            score = f"{100 * float(row['mean']):.1f}"
            spread = f"{100 * float(row['spread']):.1f}"
            assert f"{score} ± {spread}" in markdown
            assert f"{score} $\\pm$ {spread}" in table


def test_latex_shows_each_character_as_itself():
    assert escaped("50% & a_b #1 $x^2$ {~} <\\>") == (
        r"50\% \& a\_b \#1 \$x\textasciicircum{}2\$ \{\textasciitilde{}\} \textless{}\textbackslash{}\textgreater{}"
    )


def row(backbone: str, mean: float, verdict: str | None) -> Row:
    class Run:
        score = mean

    difference = verdict and Difference(0.1, 0.0, 0.2, verdict, "", 100, (3, 3))
    return Row("classification", backbone, (Run(), Run()), (), 0, difference or None)


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([row("a", 0.8, "better"), row("base", 0.7, None)], "a"),
        ([row("a", 0.8, "not distinguishable"), row("base", 0.7, None)], None),
        ([row("a", 0.80004, "better"), row("b", 0.80001, "better"), row("base", 0.7, None)], None),  # a printed tie
        ([row("a", 0.8, "better"), row("b", 0.79, "better"), row("base", 0.7, None)], None),  # not compared with it
        ([row("base", 0.9, None), row("a", 0.8, "worse")], "base"),
        ([row("base", 0.9, None), row("a", 0.8, "worse"), row("b", 0.7, "too little data")], None),
        ([row("base", 0.9, None)], None),
    ],
)
def test_the_best_is_marked_only_where_the_verdicts_find_it(rows, best):
    found = best_of(rows, "base")
    assert (found.backbone if found else None) == best


def test_two_comparisons(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "other")
    about = json.loads((tmp_path / "other" / "comparison.json").read_text())
    cells = [cell for cell in about["cells"] if cell["backbone"] in ("resnet50", "efficientnet_b0")]
    for cell in cells:  # the other comparison has the two networks' results exchanged
        cell["backbone"] = {"resnet50": "efficientnet_b0", "efficientnet_b0": "resnet50"}[cell["backbone"]]
    (tmp_path / "other" / "comparison.json").write_text(json.dumps(about | {"cells": cells}))
    run(report, folder, "--against", tmp_path / "other")
    printed = " ".join(capsys.readouterr().out.split())
    assert "classification, efficientnet_b0: better, the interval does not contain 0" in printed
    assert "classification, resnet50: worse, the interval does not contain 0" in printed
    (tmp_path / "other" / "comparison.json").write_text(json.dumps(about | {"cells": []}))
    assert "have no task and backbone in common" in fails(capsys, 3, report, folder, "--against", tmp_path / "other")
    assert "has no comparison that can be read" in fails(capsys, 3, report, tmp_path / "absent")


def test_the_page_reloads_itself_while_trainings_are_pending(tmp_path):
    write_comparison(tmp_path, NETWORKS[:2])
    about = json.loads((tmp_path / "comparison.json").read_text())
    pending = [
        cell | {"status": "pending"} if cell["backbone"] == "efficientnet_b0" else cell for cell in about["cells"]
    ]
    (tmp_path / "comparison.json").write_text(json.dumps(about | {"cells": pending}))
    write_page(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert '<meta http-equiv="refresh" content="20">' in page
    assert re.search(r"2 of 5 trainings finished so far; this page reloads itself", page)
    (tmp_path / "comparison.json").write_text(json.dumps(about))
    write_page(tmp_path)
    assert 'http-equiv="refresh"' not in (tmp_path / "report.html").read_text()


def test_a_row_is_compared_with_the_same_recipe_only(folder, tmp_path):
    from experiments.report.against import differences

    first, second = Comparison(folder), Comparison(folder)
    for key, found in second.runs.items():
        second.runs[key] = replace(found, record=found.record | {"recipe": 7})
    assert all(difference is None for _, _, difference in differences(first, second).values())
