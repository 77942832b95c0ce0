"""The table beside ResNet: which runs are comparable, what is printed where there is none, and published figures."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from detection.spec import SPEC
from engine.leaderboard import comparable, print_leaderboard, read_records, resnet_command
from engine.published import table
from engine.schema import SCHEMA
from experiments.tasks import TASKS


def record(backbone: str, score: float, source: str = "random", **config) -> dict:
    settings = {"image_size": 64, "epochs": 3, "batch_size": 8, "protocol": "finetune", "data": {"fraction": 1.0}}
    return {
        "schema": SCHEMA, "task": "detection", "backbone": backbone, "neck": "bifpn",
        "metrics": {"AP": score, "AP50": 0.9},
        "pretrained": {"source": source, "data": None if source == "random" else "ImageNet-1k"},
        "config": settings | config, "dataset": {"fingerprint": {"train": "a", "val": "b"}}, "params": 4e6, "macs": 1e9,
        "latency_ms": 9.0, "train_seconds": 60.0,
        "command_line": f"python -m detection.train --backbone {backbone} --output o --data.root 'my data' --epochs 3",
    }  # fmt: skip


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """A run of this backbone, and others around it."""
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "here/mine": record("efficientnet_b0", 0.5),
        "here/r50": record("resnet50", 0.4),
        "here/r50-better": record("resnet50", 0.45),
        "here/longer": record("resnet101", 0.9, epochs=30),
        "here/pretrained": record("resnet34", 0.9, "timm:x"),
        "here/vgg": record("vgg16", 0.3),
        "runs/detection/r18": record("resnet18", 0.35),
    }.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "record.json").write_text(json.dumps(content))
    for name, text in {"broken": "{", "foreign": '{"task": 1}', "list": "[]"}.items():
        (tmp_path / "here" / name).mkdir()
        (tmp_path / "here" / name / "record.json").write_text(text)
    return tmp_path / "here"


def printed(content: dict, folder: Path | None, classes=("a", "b")) -> str:
    text = io.StringIO()
    print_leaderboard(Console(file=text, width=100), content, SPEC, classes, folder)
    return text.getvalue()


def test_only_runs_of_one_data_budget_and_provenance_are_compared(runs):
    found = comparable(record("efficientnet_b0", 0.5), runs / "mine", SPEC.train_config)
    assert [(run["backbone"], run["metrics"]["AP"]) for run in found] == [
        ("resnet50", 0.45),
        ("resnet18", 0.35),
        ("vgg16", 0.3),
    ]


def test_the_table_sets_resnets_beside_the_run(runs):
    lines = [line for line in printed(record("efficientnet_b0", 0.5), runs / "mine").splitlines() if "." in line]
    assert [line.split()[0] for line in lines] == ["efficientnet_b0", "resnet50", "resnet18"]
    assert "(this run)" in lines[0]
    assert "45.0" in lines[1]
    assert "published" not in "".join(lines)


def test_a_resnet_is_set_beside_the_others(runs):
    text = printed(record("resnet50", 0.45), runs / "r50-better")
    assert "resnet18" in text
    lonely = printed(record("resnet50", 0.4, epochs=7), runs / "r50")
    assert lonely == ""


def test_without_a_resnet_the_command_for_one_is_told(runs):
    mine = record("efficientnet_b0", 0.5, epochs=5)
    text = printed(mine, runs / "mine")
    command = "python -m detection.train --data.root 'my data' --epochs 3 --backbone resnet50 --pretrained false"
    assert resnet_command(mine) == command
    assert command in " ".join(text.split())
    pretrained = record("efficientnet_b0", 0.5, "timm:x")
    assert "--pretrained" not in resnet_command(pretrained)


def test_published_figures_are_told_on_their_benchmarks(runs):
    coco = ["person", "toothbrush", *map(str, range(78))]
    text = " ".join(printed(record("efficientnet_b0", 0.3), None, coco).split())
    assert "published on COCO: efficientnet_b0 AP 34.3 (bifpn 0, 300 epochs; EfficientDet" in text
    assert "resnet50 AP 39.2 (RetinaNet" in text
    benchmarks = {task: spec.benchmark for task, spec in TASKS.items()}
    assert {benchmark.dataset for benchmark in benchmarks.values()} == {"COCO", "ImageNet", "ADE20K"}
    assert benchmarks["detection"].dataset == "COCO"
    assert benchmarks["detection"].matches(coco)
    assert not benchmarks["detection"].matches(coco[1:])
    assert benchmarks["classification"].matches(["n"] * 1000)
    assert benchmarks["segmentation"].matches(["wall", "flag", *map(str, range(148))])
    assert {row.dataset for row in table()} == {"COCO", "ImageNet", "ADE20K"}


def test_foreign_files_are_no_records(runs):
    records = read_records([runs / "broken/record.json", runs / "r50/record.json"], SPEC.train_config)
    assert [record["backbone"] for record in records] == ["resnet50"]
