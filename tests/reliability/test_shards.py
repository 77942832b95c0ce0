"""A training on shards is the training on the data that they were made from, also when it was interrupted there."""

import csv

import pytest
import torch

from classification import train as train_classifier
from classification.task import ClassificationTask
from data.convert.runner import convert
from data.options import MaskOptions, ReadOptions
from detection import train as train_detector
from detection.task import DetectionTask
from segmentation import train as train_segmenter
from segmentation.task import SegmentationTask
from tests.classification.conftest import write_folders
from tests.commands import run
from tests.detection.conftest import write_coco
from tests.reliability.test_changed_data import TINY, stop
from tests.segmentation.conftest import UNLABELLED, write_masks

TASKS = {
    "classification": (ClassificationTask, train_classifier, write_folders, ReadOptions(), ()),
    "detection": (DetectionTask, train_detector, write_coco, ReadOptions(), ()),
    "segmentation": (
        SegmentationTask, train_segmenter, write_masks, MaskOptions(ignore_index=UNLABELLED),
        ("--data.ignore_index", UNLABELLED),
    ),
}  # fmt: skip


def result(folder):
    """The rows of metrics.csv, and the weights."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return rows, torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_losses_and_weights_are_those_of_the_folder(tmp_path, name):
    task, command, write, options, flags = TASKS[name]
    write(tmp_path / "data")
    convert(str(tmp_path / "data"), "shards", tmp_path / "shards", options)
    run(command, "--data.root", tmp_path / "data", "--output", tmp_path / "one", *TINY, *flags)
    run(command, "--data.root", tmp_path / "shards", "--output", tmp_path / "two", *TINY)
    stop(task, command, tmp_path / "three", "--data.root", tmp_path / "data", *flags)
    run(command, "--resume", tmp_path / "three", "--data.root", tmp_path / "shards")
    rows, weights = result(tmp_path / "one")
    assert len(rows) == 2
    for other in ("two", "three"):
        assert result(tmp_path / other)[0] == rows
        for key, value in result(tmp_path / other)[1].items():
            torch.testing.assert_close(value, weights[key], rtol=0, atol=0)
