"""Finished runs in several runtimes: one table, one picture, and the best trades."""

import csv
from importlib.util import find_spec

import pytest

from classification import train
from experiments.profile import __main__ as profile
from experiments.profile.deployed import Deployed, best_trades
from tests.classification.conftest import write_folders
from tests.commands import fails, run


def row(name, milliseconds, score):
    return Deployed(name, "net", "torch", "top1", score, milliseconds, 0, 0, 0, 0, 0, 0)


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
