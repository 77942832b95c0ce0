"""Which checkpoints of a comparison's trainings stay, and the disk space that an estimate states."""

from dataclasses import replace

import pytest

from backbones.errors import BadInput
from classification import train as command
from classification.config import TrainConfig
from engine.checkpoint import find_checkpoint, read_run
from experiments.compare import estimate
from experiments.compare.config import CompareConfig
from experiments.compare.runner import ComparisonRunner
from experiments.jobs.cell import Cell
from experiments.jobs.checkpoints import checkpoint_bytes, kept, trim
from experiments.jobs.local import Outcome
from experiments.runs import load_run
from tests.classification.conftest import write_folders
from tests.commands import run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder."""
    folder = tmp_path_factory.mktemp("checkpoints")
    root = write_folders(folder / "data")
    settings = ["--backbone", "test_efficientnet", "--pretrained", "false", "--epochs", 1, "--image_size", 32]
    settings += ["--batch_size", 6, "--data.workers", 0, "--device", "cpu"]
    run(command, "--data.root", root, "--output", folder / "run", *settings)
    return folder / "run"


def test_the_stated_size_is_that_of_the_file(trained):
    config = TrainConfig.of(read_run(trained)[0].config)
    stated = checkpoint_bytes(load_run(trained).model, config)
    assert (trained / "checkpoints" / "last.ckpt").stat().st_size == pytest.approx(stated, rel=0.1)


def files(folder):
    return {path.stem for path in folder.glob("checkpoints/*.ckpt")}


@pytest.mark.parametrize(
    ("keep", "during", "settings"),
    [
        ("all", {"last", "best"}, {}),
        ("last", {"last"}, {}),
        ("best", {"best"}, {}),
        ("none", set(), {}),
        ("none", {"last"}, {"test_split": "test"}),
        ("best", {"last", "best"}, {"slots": 2}),
    ],
)
def test_checkpoints_of_finished_trainings(tmp_path, monkeypatch, keep, during, settings):
    class Display:
        def __getattr__(self, name):
            return lambda *arguments, **options: None

    def train(cell, folder, report):
        (folder / "checkpoints").mkdir(parents=True)
        for name in ("last", "best"):
            (folder / "checkpoints" / f"{name}.ckpt").touch()
        return Outcome(1.0)

    config = replace(CompareConfig(), keep=keep, tasks=["classification"], **settings)
    with open(tmp_path / "lock", "w") as lock:
        runner = ComparisonRunner(config, tmp_path, lock)
    monkeypatch.setattr(runner.runner, "train", train)
    monkeypatch.setattr(runner, "score_text", lambda cell: "")
    cell = Cell("classification", ("--backbone", "resnet18"))
    runner.train(cell, Display())
    folder = cell.folder_in(tmp_path / "cells")
    assert files(folder) == during
    trim(folder, kept(keep))  # as at the end of the comparison
    assert files(folder) == kept(keep)
    (folder / "record.json").touch()
    if "last" not in kept(keep):
        with pytest.raises(BadInput, match=r"no checkpoints/last\.ckpt any more"):
            find_checkpoint(folder)


def test_a_disk_that_is_too_small_is_announced(tmp_path, capsys, monkeypatch, caplog):
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2.5e9}))
    estimate.print_disk([10**9, 2 * 10**9], "all", tmp_path / "absent" / "folder")
    assert "checkpoints need 6.0 GB, 2.5 GB are free" in capsys.readouterr().out
    assert "--keep" in caplog.text
    for keep, needed in (("last", 5), ("none", 4)):
        estimate.print_disk([10**9, 2 * 10**9], keep, tmp_path)
        assert f"checkpoints need {needed}.0 GB" in capsys.readouterr().out
