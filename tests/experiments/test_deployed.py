"""Finished runs in several runtimes: one table, one picture, and the best trades."""

import csv
from importlib.util import find_spec

import pytest

from classification import train
from experiments.compare import __main__ as compare
from experiments.costs.deployed import TABLE, Deployed, best_trades, read_deployed
from experiments.profile import __main__ as profile
from experiments.profile.files import write_costs
from experiments.report.deployed import deployed_section
from tests.classification.conftest import write_folders
from tests.commands import fails, run


def row(name, milliseconds, score):
    return Deployed(name, "net", "torch", "top1", score, milliseconds, 0, 0, 0, 0, 0, 0, 1)


def test_best_trades():
    rows = [
        row("slow", 9, 0.9),
        row("beaten", 8, 0.7),
        row("middle", 5, 0.8),
        row("fast", 1, 0.5),
        row("worse", 5, 0.6),
    ]
    assert [each.run for each in best_trades(rows)] == ["fast", "middle", "slow"]


def test_formats_need_runs(capsys):
    assert "--runs" in fails(capsys, 2, profile, "--formats", "onnx")


def test_table(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    pytest.importorskip("openvino", reason="the extra `export` is not installed")
    root = write_folders(tmp_path / "data")
    run(train, "--image_size", 64, "--epochs", 1, "--data.root", root, "--output", tmp_path / "run")
    last = "openvino-int8" if find_spec("nncf") else "openvino"  # nncf is not in the lock
    flags = "--formats", "torch", "onnx", last, "--repeats", 2, "--output", tmp_path / "profile"
    run(profile, "--runs", tmp_path / "run", *flags)
    rows = list(csv.DictReader((tmp_path / "profile" / "deployed.csv").open()))
    assert [each["format"] for each in rows] == ["torch", "onnx", last]
    assert rows[0]["score"] == rows[1]["score"]
    for each in rows:
        assert all(float(each[name]) > 0 for name in each if name.endswith(("_ms", "_mb", "_second")))
    assert float(rows[2]["file_mb"]) < (0.5 if last == "openvino-int8" else 1.1) * float(rows[1]["file_mb"])
    assert (tmp_path / "profile" / "deployed.png").is_file()


def test_the_table_is_read_again_and_reported(tmp_path):
    rows = [Deployed("a/cells/classification/net-s0", "net", "onnx", "top1", 0.9125, 3.21, 4, 5, 6, 7, 8, 9.5, 2)]
    write_costs(rows, tmp_path / "deployed", "deployed", lambda file: None)
    assert read_deployed(tmp_path / "deployed" / TABLE) == rows
    section = deployed_section(tmp_path, "classification", "top1")
    assert section["rows"] == [["net", "onnx", "91.2", "3.2", "4.0", "5.0", "6.0", "7.0", "8.0", "9.5"]]
    assert section["threads"] == 2
    assert "net in onnx: top1 91.2, 3.21 ms" in section["chart"]
    assert deployed_section(tmp_path, "detection", "AP") is None
    assert deployed_section(tmp_path / "absent", "classification", "top1") is None


@pytest.mark.slow
def test_a_comparison_measures_its_first_trainings_once(tmp_path):
    root = write_folders(tmp_path / "data")
    flags = ["--backbones", "mobilenetv2_050", "mobilenetv2_035", "--seeds", 2, "--formats", "torch", "--keep", "none"]
    flags += ["--classification.image_size", 32, "--classification.epochs", 1, "--data.classification.root", root]
    run(compare, "--tasks", "classification", *flags, "--output", tmp_path / "out")
    table = tmp_path / "out" / "deployed" / TABLE
    assert [row.backbone for row in read_deployed(table)] == ["mobilenetv2_050", "mobilenetv2_035"]
    assert "In other runtimes" in (tmp_path / "out" / "report.html").read_text()
    before = table.stat().st_mtime_ns
    run(compare, "--tasks", "classification", *flags, "--output", tmp_path / "out")
    assert table.stat().st_mtime_ns == before
