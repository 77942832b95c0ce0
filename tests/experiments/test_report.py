"""Tests the report of made-up trainings: groups, texts, escapes, charts; in a browser: sorting, tooltips, requests."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.errors import BadInput
from engine.schema import SCHEMA
from experiments.report import svg as charts
from experiments.report.formatting import (
    billions,
    micro_batch_sentence,
    millions,
    sentences,
    stopped_sentence,
    style_sentence,
    unlearned_text,
)
from experiments.report.pareto import pareto_front
from experiments.report.results import Comparison, FinishedRun, Row
from experiments.report.writer import results_md, screen_tables, write_report

HOSTILE = 'evil:<script>alert("x")</script>'
CLASSES = ["cat", "<b>dog</b>"]


def write_run(folder: Path, backbone: str, seed: int, accuracy: float, source: str, macs: float) -> None:
    """Write the run folder of a classifier as a training does."""
    random = np.random.default_rng([seed, *backbone.encode()])
    (folder / "pictures").mkdir(parents=True)
    correct = random.permutation(np.arange(100) < round(100 * accuracy))
    rows = [f"{i}.jpg,cat,dog,0.9,{int(right)}" for i, right in enumerate(correct)]
    (folder / "images.csv").write_text("\n".join(["file,class,predicted,probability,correct", *rows]) + "\n")
    (folder / "metrics.csv").write_text(f"epoch,step,loss,top1\n0,9,1.5,\n0,9,,{accuracy / 2}\n1,19,,{accuracy}\n")
    (folder / "per_class.json").write_text(json.dumps({CLASSES[0]: accuracy, CLASSES[1]: None}))
    Image.new("RGB", (900, 300), (seed * 60, 90, 120)).save(folder / "pictures" / "val-00000.jpg")
    record = {
        "schema": SCHEMA,
        "task": "classification",
        "backbone": backbone,
        "neck": None,
        "metrics": {"top1": accuracy, "top5": 1.0},
        "pretrained": {"source": source, "recipe": None, "sha256": "ab12", "license": "apache|2.0"}
        | ({"tag": None, "data": None} if source == "random" else {"tag": "in1k", "data": "ImageNet-1k"}),
        "config": {"backbone": backbone, "protocol": "finetune", "epochs": 2, "batch_size": 8, "data": {}},
        "dataset": {"root": "/data/<i>pets</i>", "fingerprint": {"train": "t", "val": "v"}, "train": {"images": 300},
                    "val": {"images": 100}},
        "params": 5e6, "macs": macs, "latency_ms": macs / 1e8, "peak_memory_mb": 900, "train_seconds": 60,
        "versions": {"torch": "2"}, "device": {"type": "cpu"}, "git_commit": "c0ffee",
        "command_line": f"train {backbone}",
    }  # fmt: skip
    (folder / "record.json").write_text(json.dumps(record))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two seeds of four networks, one of which starts from weights, and one network that failed."""
    root = tmp_path_factory.mktemp("comparison")
    networks = [
        ("resnet50", 0.6, "random", 4.1e9),
        ("efficientnet_b0", 0.8, "random", 0.4e9),
        (HOSTILE, 0.61, "random", 1e9),
        ("tf_efficientnet_lite0", 0.9, "packaged:x", 0.4e9),
    ]
    write_comparison(root, networks)
    write_report(root)
    return root


def write_comparison(root: Path, networks: list[tuple[str, float, str, float]]) -> None:
    """Write a comparison of (name, accuracy, source of the weights, multiply-adds), with two seeds each."""
    cells = []
    for name, accuracy, source, macs in networks:
        for seed in range(2):
            cell = {"task": "classification", "backbone": name, "neck": None, "seed": seed, "lr": 0.1, "status": "done",
                    "key": f"{name}{seed}", "folder": f"cells/{len(cells)}", "error": None, "seconds": 60}  # fmt: skip
            write_run(root / cell["folder"], name, seed, accuracy + 0.02 * seed, source, macs)
            cells.append(cell)
    cells.append(cells[0] | {"backbone": "vgg16", "key": "v", "status": "failed", "error": "the loss <is> not finite"})
    about = {
        "version": SCHEMA, "command_line": "compare --backbones 'a'", "baseline": "resnet50", "protocol": "finetune",
        "shared": {"classification": {"epochs": 2}}, "differs": {"classification": ["lr"]}, "cells": cells,
        "learning_rates": [{"task": "classification", "backbone": "resnet50", "lr": 0.1, "epochs": 1,
                            "scores": {"0.1": 0.5, "1": None}}],
    }  # fmt: skip
    (root / "comparison.json").write_text(json.dumps(about))


def test_rows_are_grouped_by_provenance(folder):
    rows = list(csv.DictReader((folder / "results.csv").open()))
    names = [row["backbone"] for row in rows]
    assert names == ["tf_efficientnet_lite0", "efficientnet_b0", HOSTILE, "resnet50", "vgg16"]
    pretrained = "finetune, pretraining: supervised, ImageNet-1k"
    assert [row["provenance"] for row in rows[:3]] == [pretrained] + ["from scratch"] * 2
    assert [row["group"] for row in rows[:2]] == ["supervised, ImageNet-1k", "random"]
    assert [row["license"] for row in rows[:2]] == ["apache|2.0", ""]
    for text in ((folder / "report.html").read_text(), (folder / "results.md").read_text().replace("\\|", "|")):
        assert "apache|2.0" in text
    better = rows[1]
    assert (better["mean"], better["seeds"], better["verdict"]) == ("0.810000", "2", "better")
    assert float(better["spread"]) == pytest.approx(0.02 / 2**0.5, abs=1e-6)
    assert float(better["difference"]) == pytest.approx(0.2)
    assert float(better["low"]) > 0
    assert rows[2]["verdict"] == "not distinguishable"
    assert rows[3]["difference"] == ""
    assert rows[4]["failed"] == "the loss <is> not finite"


def test_published_figures_are_listed(folder):
    page = (folder / "report.html").read_text()
    assert '<button type="button">top1, %</button>' in page
    assert "top1 76.0, top5 93.0" in page
    assert "26.00 M / 25.56 M" in page
    assert "arXiv:1905.11946v5, table 2" in page


def test_sentences_state_different_provenance(folder):
    comparison = Comparison(folder)
    texts = {s.name: f"{s.before} {s.verdict}{s.after}" for s in sentences(comparison.rows, comparison.baseline)}
    assert texts["efficientnet_b0"].startswith("is better than the baseline: 81.0 ± 1.4, +20.0 (")
    assert "0.098 times the multiply-adds" in texts["efficientnet_b0"]
    assert "started differently" in texts["tf_efficientnet_lite0"]
    assert texts["vgg16"].strip() == "did not finish: the loss <is> not finite"
    assert "is not distinguishable from the baseline" in texts[HOSTILE]


@pytest.mark.case("R17")
def test_names_are_escaped_and_nothing_is_fetched(folder):
    page = (folder / "report.html").read_text()
    for name in (HOSTILE, CLASSES[1], "<i>pets</i>", "the loss <is>"):
        assert name not in page
    assert "&lt;script&gt;alert" in page
    tags: list[tuple[str, dict]] = []

    class Collect(HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.append((tag, dict(attributes)))

    Collect().feed(page)
    links = [a.get("src") or a.get("href") for t, a in tags if t in ("script", "img", "link", "a") and a]
    assert any(links)
    assert all(link.startswith(("data:", "#")) for link in links if link)
    assert sum(tag == "script" for tag, _ in tags) == 1
    assert {"img", "th"} <= {tag for tag, _ in tags}
    assert all(a.get("alt") for tag, a in tags if tag == "img")
    assert all(a.get("scope") for tag, a in tags if tag == "th")
    assert not re.findall(r"https?://|url\(|@import", page)


def test_markdown_keeps_its_columns(folder):
    parts = (folder / "results.md").read_text().split("\n\n")
    tables = [part.splitlines() for part in parts if part.startswith("|")]
    assert len(tables) == 4  # networks with weights, without, without results, and the initial weights
    for lines in tables:
        assert len({line.count("|") - line.count("\\|") for line in lines}) == 1


def test_pareto_front_by_hand():
    points = [(5, 1), (4, 2), (6, 2), (6, 3), (7, 9)]  # score, cost
    assert pareto_front(points) == [0, 2, 4]
    points = [(0.5, 3.0), (0.7, 5.0), (0.6, 5.0), (0.4, 1.0), (0.4, 2.0), (0.7, 9.0), (0.3, 0.5), (0.2, 4.0)]
    assert pareto_front(points) == [6, 3, 0, 1]
    assert pareto_front([]) == []


def test_another_metric_is_compared(folder, tmp_path):
    """The records have no F1, as those of earlier versions: it is computed from the results of each image."""
    shutil.copytree(folder, tmp_path / "c")
    about = json.loads((tmp_path / "c" / "comparison.json").read_text()) | {"metrics": {"classification": "recall"}}
    (tmp_path / "c" / "comparison.json").write_text(json.dumps(about))
    page = write_report(tmp_path / "c").read_text()
    assert "recall, %" in page
    assert "top1, %" not in page
    assert "top1 of resnet50 in percent" in page  # the table of classes
    assert "recall, %" in (tmp_path / "c" / "results.md").read_text()
    assert screen_tables(Comparison(tmp_path / "c"), "classification")[0].columns[1].header == "recall, %"
    before, rows = (list(csv.DictReader((f / "results.csv").open())) for f in (folder, tmp_path / "c"))
    assert {row["metric"] for row in rows} == {"recall"}
    # All images have one class, so that its recall is top-1.
    for name in ("backbone", "mean", "spread", "difference", "low", "high", "verdict"):
        assert [row[name] for row in rows] == [row[name] for row in before]


def test_trainings_that_stopped_early_are_labelled(folder, tmp_path, capsys):
    assert "stopped_early" not in (folder / "results.csv").read_text()
    shutil.copytree(folder, tmp_path / "c")
    for number, epochs in (("2", 1), ("3", None)):
        file = tmp_path / "c" / "cells" / number / "record.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"seed": 0, "stopped_early": epochs}))
    page = write_report(tmp_path / "c")
    text = "Trainings that stopped early, and their epochs: efficientnet_b0 with seed 0 after 1 of 2."
    for found in (
        page.read_text(),
        (tmp_path / "c" / "results.md").read_text(),
        " ".join(capsys.readouterr().out.split()),
    ):
        assert text in found
    rows = {row["backbone"]: row for row in csv.DictReader((tmp_path / "c" / "results.csv").open())}
    assert rows["efficientnet_b0"]["stopped_early"] == "1 -"
    assert rows["resnet50"]["stopped_early"] == "- -"
    assert stopped_sentence(Comparison(folder).rows) == ""


def test_networks_that_are_no_better_than_the_most_frequent_class_are_named(folder, tmp_path, capsys):
    """59 of the 100 images are cats, and resnet50 is right for 61 on average."""
    shutil.copytree(folder, tmp_path / "c")
    for file in (tmp_path / "c" / "cells").glob("*/images.csv"):
        lines = file.read_text().splitlines()
        file.write_text("\n".join(lines[:60] + [line.replace(",cat,", ",dog,") for line in lines[60:]]) + "\n")
    page = write_report(tmp_path / "c")
    text = (
        "These networks score hardly more than always answering with the most frequent class, which scores 59.0 "
        "(limit: 61.0): resnet50."
    )
    for found in (
        page.read_text(),
        (tmp_path / "c" / "results.md").read_text(),
        " ".join(capsys.readouterr().out.split()),
    ):
        assert text in found


def test_a_low_ap_is_nothing_learned_and_a_low_ap_of_small_boxes_may_be_much():
    assert unlearned_text("detection", "AP", {"a": 0.04, "b": 0.06, "c": float("nan")}, 0.0) == (
        "These networks have learned hardly anything, with an AP below 5.0: a"
    )
    assert unlearned_text("detection", "AP_small", {"a": 0.04, "b": 0.06}, 0.0) == ""


def test_micro_batches_of_different_sizes_are_labelled(folder, tmp_path):
    assert micro_batch_sentence(Comparison(folder).rows) == ""
    shutil.copytree(folder, tmp_path / "c")
    text = (
        "Batches were processed in micro-batches of different sizes, on which batch norm depends: 4 for resnet50, 8 for"
    )
    for file in (tmp_path / "c" / "cells").glob("*/record.json"):
        record = json.loads(file.read_text())
        size = 4 if record["backbone"] == "resnet50" else 8
        file.write_text(json.dumps(record | {"micro_batch": size}))
    page = write_report(tmp_path / "c")
    assert text in page.read_text()
    assert text in (tmp_path / "c" / "results.md").read_text()


def detection_row(backbone: str, style: str | None) -> Row:
    """A detector's row; without `style`, as versions before that setting stored it."""
    config = {"backbone": backbone, "data": {}} | ({} if style is None else {"style": style})
    return Row("detection", backbone, (FinishedRun(Path(), {"task": "detection", "config": config}),), (), 0, None)


def test_the_style_of_neck_and_heads_is_stated():
    same = [detection_row("tf_efficientnet_lite0", "pytorch"), detection_row("resnet18", "pytorch")]
    text = "Neck and heads have the same padding and biases for every backbone (style pytorch)."
    assert style_sentence(same) == text
    by_name = [detection_row(name, None) for name in ("tf_efficientnet_lite0", "resnet18", "vgg16")]
    assert style_sentence(by_name) == (
        "Padding and biases of neck and heads are not the same for every backbone: "
        "style tensorflow for tf_efficientnet_lite0, pytorch for resnet18 and vgg16."
    )
    assert style_sentence([]) == ""


def test_only_detectors_have_a_style(folder):
    assert style_sentence(Comparison(folder).rows) == ""
    assert "padding and biases" not in (folder / "report.html").read_text()


def test_the_style_is_in_both_files(tmp_path, monkeypatch):
    """The comparison is a classifier's, relabelled: what is tested is that both files contain the sentence."""
    write_comparison(tmp_path, [("resnet50", 0.6, "random", 4.1e9)])
    monkeypatch.setattr(FinishedRun, "style", "pytorch")
    write_report(tmp_path)
    for name in ("report.html", "results.md"):
        assert "for every backbone (style pytorch)." in (tmp_path / name).read_text()


def test_names_overlap_no_mark():
    mark = (195.0, 95.0, 205.0, 105.0)  # of another network, to the right at the same height
    taken = [(95.0, 95.0, 105.0, 105.0), mark]
    assert 'text-anchor="start"' in charts._name("short", 100, 100, taken[:])
    crowded = taken[:]
    assert 'text-anchor="end"' in charts._name(
        "a_name_of_many_letters", 390, 100, [*taken, (395.0, 90.0, 420.0, 110.0)]
    )
    charts._name("reaches_the_next_mark", 100, 100, crowded)
    assert not charts._overlap(crowded[-1], mark)


@pytest.mark.parametrize("values", [[5.0], [0.1, 0.1], [1, 1000], [24.9, 25.1], [0.0003, 90000]])
def test_axes_have_ticks_within_their_length(values):
    for axis in (charts.Log(values, 0, 100), charts.Linear(values, 0, 100)):
        ticks = axis.ticks()
        assert 2 <= len(ticks) <= 8
        assert all(0 <= axis(tick) <= 100 for tick in ticks)
        assert all(0 <= axis(value) <= 100 for value in values)


def test_counts_are_formatted():
    assert [millions(v) for v in (5.288e6, 138.36e6, float("nan"))] == ["5.29 M", "138.36 M", "--"]
    assert [billions(v) for v in (0.386e9, 15.47e9, float("nan"))] == ["0.39 G", "15.47 G", "--"]


def test_a_folder_without_a_comparison(tmp_path):
    with pytest.raises(BadInput, match="no comparison"):
        write_report(tmp_path)


def test_report_in_a_browser(browser, folder):
    page = (folder / "report.html").as_uri()
    browser.get(page)
    column = "return [...document.querySelectorAll('#classification tbody')][1].innerText"
    before = browser.execute_script(column)
    second = "[...document.querySelectorAll('#classification table')][1]"
    browser.execute_script(f"{second}.querySelectorAll('thead button')[0].click()")
    assert browser.execute_script(f"return {second}.querySelector('th').getAttribute('aria-sort')") == "descending"
    names = browser.execute_script(f"return [...{second}.tBodies[0].rows].map(r => r.children[0].dataset.value)")
    assert names == sorted(names, reverse=True)
    assert browser.execute_script(column) != before
    browser.execute_script(f"{second}.querySelectorAll('thead button')[1].click()")
    scores = browser.execute_script(f"return [...{second}.tBodies[0].rows].map(r => +r.children[1].dataset.value)")
    assert scores == sorted(scores, reverse=True)
    browser.execute_script(f"{second}.querySelectorAll('thead button')[1].click()")
    scores = browser.execute_script(f"return [...{second}.tBodies[0].rows].map(r => +r.children[1].dataset.value)")
    assert scores == sorted(scores)

    browser.execute_script("document.querySelector('.mark').focus()")
    shown = browser.execute_script("const t = document.getElementById('tip'); return [t.hidden, t.textContent]")
    assert shown[0] is False
    assert "top1 91.0" in shown[1]
    browser.execute_script("document.querySelector('.mark').blur()")
    assert browser.execute_script("return document.getElementById('tip').hidden")

    browser.set_window_size(500, 800)  # headless Chromium's least width
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    problems = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not problems
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert {url.partition(":")[0] for url in urls} <= {"file", "data"}
    assert [url for url in urls if url.startswith("file:")] == [page]


@pytest.mark.parametrize("undefined", [(0, 1), (0,), (2, 3), range(4)])
def test_undefined_scores(tmp_path, undefined):
    """Trainings whose score is undefined, of one seed or of all, of the baseline or of another network."""
    write_comparison(tmp_path, [("resnet50", 0.6, "random", 4.1e9), ("efficientnet_b0", 0.8, "random", 0.4e9)])
    for index in undefined:
        file = tmp_path / "cells" / str(index) / "record.json"
        record = json.loads(file.read_text())
        file.write_text(json.dumps(record | {"metrics": {"top1": None, "top5": None}}))
        (file.parent / "metrics.csv").write_text("epoch,step,loss,top1\n0,9,1.5,\n1,19,1.2,\n")
    write_report(tmp_path)
    lines = (tmp_path / "results.md").read_text().splitlines()
    for name, place in (("resnet50", 0), ("efficientnet_b0", 2)):
        (line,) = [line for line in lines if line.startswith(f"| {name}")]
        assert (line.split(" | ")[1] == "--") == (place in undefined)
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    last_defined = [row["backbone"] for row in rows if row["seeds"] == "2" and row["mean"] != "nan"]
    assert [row["backbone"] for row in rows][: len(last_defined)] == last_defined  # undefined ones come last


def test_divisions_of_the_images(tmp_path):
    """The runs of a seed share a division; the report says what the intervals cover."""
    write_comparison(tmp_path, [("resnet50", 0.6, "random", 4e9), ("efficientnet_b0", 0.8, "random", 4e8)])
    about = json.loads((tmp_path / "comparison.json").read_text())
    cells = [cell for cell in about["cells"] if cell["status"] == "done"]
    for backbone, accuracy in (("resnet50", 0.6), ("efficientnet_b0", 0.8)):
        cell = next(cell for cell in cells if cell["backbone"] == backbone)
        third = cell | {"seed": 2, "key": f"{backbone}2", "folder": f"cells/{backbone}2"}
        write_run(tmp_path / third["folder"], backbone, 2, accuracy + 0.01, "random", 4e8)
        cells.append(third)
    for cell in cells:
        record = json.loads((tmp_path / cell["folder"] / "record.json").read_text())
        record["config"]["data"]["holdout"] = 0.2
        (tmp_path / cell["folder"] / "record.json").write_text(json.dumps(record))
    (tmp_path / "comparison.json").write_text(json.dumps(about | {"cells": cells, "resplit": 3}))
    page = write_report(tmp_path).read_text()
    assert "each training has its own division of the images" in page
    row = next(row for row in csv.DictReader((tmp_path / "results.csv").open()) if row["difference"])
    assert (row["verdict"], float(row["difference"])) == ("better", pytest.approx(0.2))
    assert "over 3 divisions of the images" in row["verdict_reason"]
    text = results_md(Comparison(tmp_path))
    for cell in cells:
        (tmp_path / cell["folder"] / "images.csv").unlink()
    assert results_md(Comparison(tmp_path)) == text  # results by image are not needed
