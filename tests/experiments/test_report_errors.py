"""The report's section on errors: means over seeds, runs of earlier versions, images on which two networks differ."""

import base64
import csv
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from engine.image_results import ImageResults
from engine.scored_images import scores_of_images
from experiments.report import errors as section
from experiments.report.errors import csv_tables, what_went_wrong
from experiments.report.html import html
from experiments.report.image_differences import image_differences
from experiments.report.results import Comparison
from experiments.report.svg import reliability
from tests.experiments.test_report import HOSTILE, write_comparison

NETWORKS = [("resnet50", 0.6, "random", 4.1e9), ("efficientnet_b0", 0.8, "random", 0.4e9)]
FEW = [("resnet50", ["cat", "dog", "cat"], "1:0.9 0:0.6 0:0.7"), (HOSTILE, ["cat", "dog", "cat"], "1:0.8 1:0.5 0:0.9")]


@pytest.fixture
def folder(tmp_path):
    write_comparison(tmp_path, NETWORKS)
    for number in range(4):
        file = tmp_path / "cells" / str(number) / "record.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"seed": number % 2}))
    return tmp_path


@pytest.fixture
def small(tmp_path):
    """Two networks, two seeds each, on three images that exist: 0.jpg to 2.jpg in class folders."""
    write_comparison(tmp_path, [(name, 0.5, "random", 1e9) for name, _, _ in FEW])
    root = tmp_path / "data"
    for split in ("train", "val"):
        for label, number in (("cat", 0), ("dog", 1), ("cat", 2)):
            (root / split / label).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (60, 40), (80 * number, 90, 120)).save(root / split / label / f"{number}.jpg")
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    for cell in comparison["cells"][:-1]:
        labels, results = next((labels, results) for name, labels, results in FEW if name == cell["backbone"])
        run = tmp_path / cell["folder"]
        rows = ["file,class,predicted,probability,correct"]
        for number, (label, result) in enumerate(zip(labels, results.split(), strict=True)):
            right, probability = result.split(":")
            predicted = label if right == "1" else {"cat": "dog", "dog": "cat"}[label]
            rows.append(f"{label}/{number}.jpg,{label},{predicted},{probability},{right}")
        (run / "images.csv").write_text("\n".join(rows) + "\n")
        record = json.loads((run / "record.json").read_text())
        record["dataset"]["root"] = str(root)
        (run / "record.json").write_text(json.dumps(record))
    return tmp_path


def rows_of(folder):
    comparison = Comparison(folder)
    return [row for row in comparison.rows if row.runs], comparison.baseline


def test_results_of_each_image_are_sufficient_for_runs_of_earlier_versions(small):
    found = what_went_wrong(*rows_of(small))
    assert found["missing"] == ""
    calibration, confusions = found["tables"]
    values = {name: [text for text, _ in cells] for name, cells in calibration["rows"]}
    # Confidences 0.9 (right), 0.6 and 0.7 (wrong), each in a bin of its own.
    assert values["resnet50"] == [f"{100 * (0.1 + 0.6 + 0.7) / 3:.1f}", "70.0"]
    assert values[HOSTILE] == [f"{100 * (0.2 + 0.5 + 0.9) / 3:.1f}", "90.0"]
    assert confusions["headings"] == ["true class as predicted class", *values]
    counts = {name: [text for text, _ in cells] for name, cells in confusions["rows"]}
    order = confusions["headings"][1:]
    assert dict(zip(order, counts["cat as dog"], strict=True)) == {"resnet50": "1.0", HOSTILE: "1.0"}
    assert dict(zip(order, counts["dog as cat"], strict=True)) == {"resnet50": "1.0", HOSTILE: "0.0"}
    rows = list(csv.reader(io.StringIO(csv_tables(found)["errors"])))
    assert rows[0] == ["backbone", "ECE", "MCE"]
    assert float({row[0]: row[1] for row in rows[1:]}[HOSTILE]) == pytest.approx((0.2 + 0.5 + 0.9) / 3, abs=1e-6)


def test_stored_files_are_preferred_and_means_are_over_seeds(folder):
    for seed, ece in enumerate((0.1, 0.3)):
        run = folder / "cells" / str(seed)
        calibration = {"ECE": ece, "MCE": None, "predictions": 4, "bins": [
            {"from": 0.5, "to": 0.6, "count": 1 + 2 * seed, "confidence": 0.5, "accuracy": seed}]}  # fmt: skip
        (run / "calibration.json").write_text(json.dumps(calibration))
        (run / "errors.json").write_text(json.dumps({"confusions": []}))
    rows, baseline = rows_of(folder)
    table = what_went_wrong(rows, baseline)["tables"][0]
    assert dict(table["rows"])["resnet50"] == [("20.0", "0.200000"), ("--", "")]
    found = [section._files(run) for row in rows if row.backbone == "resnet50" for run in row.runs]
    assert section._diagrams({"resnet50": found}) == {"resnet50": [(50.0, 75.0, 4)]}


def test_runs_without_files_are_named(folder):
    rows, baseline = rows_of(folder)
    (folder / "cells" / "0" / "images.csv").rename(folder / "kept.csv")
    (folder / "cells" / "1" / "calibration.json").write_text("{damaged")
    found = what_went_wrong(rows, baseline)
    assert found["missing"].startswith("Not included, because")
    for seed in (0, 1):
        assert f"resnet50 with seed {seed} (errors.json and calibration.json)" in found["missing"]
    assert "efficientnet_b0" not in found["missing"]
    assert [name for name, _ in found["tables"][0]["rows"]] == ["efficientnet_b0"]


def test_images_with_the_largest_differences(small):
    rows, baseline = rows_of(small)
    (pair,) = image_differences(rows, baseline)
    assert (pair["backbone"], pair["baseline"], pair["problem"]) == (HOSTILE, "resnet50", "")
    assert [image["image"] for image in pair["better"]] == ["dog/1.jpg"]
    assert [image["image"] for image in pair["worse"]] == ["cat/2.jpg", "cat/0.jpg"]
    (image,) = pair["better"]
    assert [(side["backbone"], side["score"]) for side in image["sides"]] == [("resnet50", -0.6), (HOSTILE, 0.5)]
    for side in image["sides"]:
        content = base64.b64decode(side["uri"].removeprefix("data:image/jpeg;base64,"))
        assert Image.open(io.BytesIO(content)).width > 100


def test_pictures_of_the_run_folder_are_used(small):
    for cell in range(4):
        Image.new("RGB", (300, 100), (10, 200, 10)).save(small / "cells" / str(cell) / "pictures" / "mistake-00002.jpg")
    rows, baseline = rows_of(small)
    uri = image_differences(rows, baseline)[0]["better"][0]["sides"][0]["uri"]  # dog/1.jpg is the last by class
    content = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    assert np.asarray(Image.open(io.BytesIO(content)))[50, 150].tolist() == pytest.approx([10, 200, 10], abs=6)


def test_the_page_says_why_there_are_no_pictures(folder):
    page = html(Comparison(folder))
    assert "What went wrong" in page
    assert (
        "There are no pictures: no data set at /data/&lt;i&gt;pets&lt;/i&gt;: there is no such folder or file</p>"
        in page
    )
    assert re.search(r"Images on which efficientnet_b0 scores higher than\s+resnet50", page)


def test_there_are_no_pictures_while_trainings_are_pending(folder):
    rows, baseline = rows_of(folder)
    assert what_went_wrong(rows, baseline)["pairs"]
    assert what_went_wrong(rows, baseline, with_images=False)["pairs"] == []


def test_the_page_escapes_names(small):
    page = html(Comparison(small))
    assert HOSTILE not in page
    assert "data:image/jpeg;base64," in page
    assert "the probability of the predicted class" in page


def test_scores_of_single_images():
    values = np.array([0.5, np.nan, 1.0])
    results = ImageResults(
        tuple("abc"), "AP", lambda counts: np.nansum(counts * values, 1) / (counts @ ~np.isnan(values))
    )
    with np.errstate(invalid="ignore"):
        scores = scores_of_images(results)
    assert list(scores) == ["a", "b", "c"]
    assert [scores["a"], scores["c"]] == [0.5, 1.0]
    assert np.isnan(scores["b"])


def test_reliability_diagram():
    drawn = reliability({"a<b": [(20.0, 10.0, 5), (90.0, 80.0, 7)], "empty": []})
    assert "a&lt;b: 10 % correct at 20 % (5 predictions), 80 % correct at 90 % (7 predictions)" in drawn
    assert drawn.count("<polyline") == 1
    assert 'class="diagonal"' in drawn
    assert reliability({}) == ""


def test_detection_and_segmentation_have_tables_by_class():
    """Files of two seeds; the counts are means, undefined values are left out of means."""
    detection = [
        {"errors.json": {"at_threshold": {"per_class": {"cat": {"objects": 4, "class": n}}}, "crowding": {
            "iou": 0.1, "overlapping_boxes": {"0": {"objects": 3, "recall50": n / 4, "AP50": None}}}}}
        for n in (1, 2)
    ]  # fmt: skip
    (table,) = section._by_class({"resnet50": detection})
    assert table["headings"] == ["class", "objects", "wrong class"]
    assert [text for text, _ in table["rows"][0][1]] == ["4", "1.5"]
    (crowding,) = section._crowding({"resnet50": detection})
    assert crowding["headings"] == ["backbone", "0, recall50", "0, AP50"]
    assert [text for text, _ in crowding["rows"][0][1]] == ["37.5", "--"]
    segmentation = {"errors.json": {"per_class": {"sky": {"boundary_IoU": 0.25, "partly_found": 3}}}}
    (table,) = section._by_class({"resnet50": [segmentation]})
    assert table["headings"] == ["class", "boundary IoU", "partly found"]
    assert [text for text, _ in table["rows"][0][1]] == ["0.25", "3"]
