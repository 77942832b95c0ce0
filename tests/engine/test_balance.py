"""`--class_weights` and `--data.balance` of the train commands: what is trained with, stored and resumed."""

import json
import shutil
import signal
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from classification import train as train_classifier
from classification.config import TrainConfig as ClassificationConfig
from classification.loss import ClassificationLoss
from classification.task import ClassificationTask
from data.balance import effective_number_weights, median_frequency_weights, repeat_factors
from data.loader import train_loader
from detection import train as train_detector
from detection.config import TrainConfig as DetectionConfig
from detection.task import DetectionTask
from engine.cli import parse
from engine.config import TrainData
from engine.schema import flat
from experiments.jobs.cell import Cell
from segmentation import train as train_segmenter
from segmentation.config import MaskTrainData
from segmentation.config import TrainConfig as SegmentationConfig
from segmentation.task import SegmentationTask
from tests.classification.conftest import folders  # noqa: F401 - a fixture
from tests.commands import fails, run
from tests.detection.conftest import coco_root  # noqa: F401 - a fixture
from tests.reliability.test_resume import stopped_at
from tests.segmentation.conftest import mask_root  # noqa: F401 - a fixture

TINY = ["--image_size", "64", "--epochs", "2", "--batch_size", "4", "--device", "cpu"]
BOTH = ["--class_weights", "auto", "--data.balance", "true"]


@pytest.fixture(scope="module")
def unequal(folders, tmp_path_factory):  # noqa: F811
    """The folders of rectangles, with six blue, two green images and one red image to train on."""
    root = shutil.copytree(folders, tmp_path_factory.mktemp("unequal") / "data")
    for name, kept in (("green", 2), ("red", 1)):
        for file in sorted((root / "train" / name).iterdir())[kept:]:
            file.unlink()
    return root


def test_classification_counts_images(unequal):
    config = ClassificationConfig(pretrained=False, image_size=64, class_weights="auto", data=TrainData(balance=True))
    task, train_set, _ = ClassificationTask.prepare(config, unequal)
    labels = train_set.label_counts()
    assert labels.sum(axis=0).tolist() == [6, 2, 1]
    expected = effective_number_weights(labels)
    weights = task.criterion.class_weights.numpy()
    np.testing.assert_allclose(weights / weights[0], expected / expected[0], rtol=1e-6)
    assert (weights * [6, 2, 1]).sum() == pytest.approx(9)
    assert task.info.extra["class_weights"] == pytest.approx(dict(zip(task.info.classes, weights, strict=True)))
    assert task.expected_draws[train_set.labels == 2].tolist() == pytest.approx([3])  # a third of nine draws
    drawn = [i for batch in train_loader(train_set, 3, 0, 0, expected=task.expected_draws) for i in batch.image_ids]
    labels = {int(i): label for i, label in zip(train_set.image_ids, train_set.labels, strict=True)}
    assert sorted(labels[int(i)] for i in drawn) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_detection_counts_boxes(coco_root):  # noqa: F811
    config = DetectionConfig(pretrained=False, image_size=64, class_weights="auto", data=TrainData(balance=True))
    task, train_set, _ = DetectionTask.prepare(config, coco_root)
    labels = train_set.label_counts()
    _, boxes = train_set.boxes_by_image()
    assert labels.sum() == len(boxes)
    by_hand = np.zeros(labels.shape, int)
    for index in range(len(train_set)):
        sample = train_set.with_transform(None)[index]
        np.add.at(by_hand[index], sample.labels, 1)
    assert (labels.toarray() == by_hand).all()
    np.testing.assert_allclose(task.expected_draws, repeat_factors(labels))


def test_segmentation_counts_pixels(mask_root):  # noqa: F811
    data = MaskTrainData(ignore_index=9, balance=True)
    config = SegmentationConfig(pretrained=False, image_size=64, class_weights="auto", data=data)
    task, train_set, _ = SegmentationTask.prepare(config, mask_root)
    labels = train_set.label_counts()
    for index in range(len(train_set)):
        mask = train_set.columns.class_map(index)
        assert labels[[index]].toarray()[0].tolist() == [(mask == c).sum() for c in range(3)]
    expected = median_frequency_weights(labels)
    weights = task.criterion.class_weights.numpy()
    np.testing.assert_allclose(weights / weights[0], expected / expected[0], rtol=1e-6)
    assert weights[0] < 1 < weights[1]  # ground is frequent


def test_weighted_cross_entropy_of_classes_and_of_mixed_classes():
    """Probabilities of 0 and 1 have the loss of the class indices."""
    logits, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    criterion = ClassificationLoss(3, label_smoothing=0.1)
    criterion.class_weights = torch.tensor([1.0, 4.0, 0.5])
    expected = F.cross_entropy(logits, targets, criterion.class_weights, label_smoothing=0.1)
    torch.testing.assert_close(criterion(logits, targets)["cross_entropy"], expected)
    torch.testing.assert_close(criterion(logits, F.one_hot(targets, 3).float())["cross_entropy"], expected)


@pytest.mark.parametrize(
    ("command", "root", "flags"),
    [
        (train_classifier, "unequal", ["--mixup", "0.2"]),
        (train_detector, "coco_root", []),
        (train_segmenter, "mask_root", ["--data.ignore_index", "9", "--losses", "ce", "focal"]),
    ],
    ids=["classification", "detection", "segmentation"],
)
def test_trainings_store_what_they_used(command, root, flags, request, tmp_path, capsys):
    run(command, "--data.root", request.getfixturevalue(root), "--output", tmp_path / "run", *TINY, *BOTH, *flags)
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["config"]["class_weights"] == "auto"
    assert record["config"]["data"]["balance"] is True
    assert len(record["class_weights"]) in (2, 3)
    printed = " ".join(capsys.readouterr().err.split())
    assert "class weights: " in printed
    assert "balanced sampling draws each image " in printed


@pytest.mark.slow
def test_the_content_of_a_file_is_stored_and_resumed(unequal, tmp_path, monkeypatch, capsys):
    """The run resumes without the file and ends as a run that was not stopped."""
    file = tmp_path / "weights.csv"
    file.write_text("green,2\nblue <b>,1\nred,4\n")
    flags = ["--data.root", unequal, *TINY, "--class_weights", file, "--data.balance", "true"]
    run(train_classifier, *flags, "--output", tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "on_train_batch_start", stopped_at(1, 0, ClassificationTask))
        fails(capsys, 130, train_classifier, *flags, "--output", tmp_path / "stopped")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stored = yaml.safe_load((tmp_path / "stopped" / "config.yaml").read_text())["class_weights"]
    assert stored == {"green": 2.0, "blue <b>": 1.0, "red": 4.0}
    file.write_text("green,3\nblue <b>,1\nred,4\n")
    message = fails(capsys, 2, train_classifier, "--resume", tmp_path / "stopped", "--class_weights", file)
    assert "--class_weights" in message
    file.unlink()
    run(train_classifier, "--resume", tmp_path / "stopped")
    first, second = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "stopped")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_content_of_a_file_decides_whether_trainings_are_the_same(tmp_path):
    for name, text in (("a.yaml", "no: 2\na.b: 1\n"), ("b.csv", "a.b,1\nno,2\n"), ("c.yaml", "no: 2\na.b: 2\n")):
        (tmp_path / name).write_text(text)
    files = [str(tmp_path / name) for name in ("a.yaml", "b.csv", "c.yaml")]
    first, same, other = (Cell("detection", ("--class_weights", file)) for file in files)
    assert first.key == same.key != other.key
    assert dict(flat(first.settings))["class_weights"] == {"no": 2.0, "a.b": 1.0}
    stored = tmp_path / "config.yaml"
    stored.write_text(yaml.safe_dump(asdict(first.config)))
    again = parse("detection.train", DetectionConfig, ["--config", str(stored)], "", tmp_path)
    assert again.class_weights == {"no": 2.0, "a.b": 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [("green: 2\nred: 1\n", "no weight for blue <b>"), ("green: 2\nred: 1\nblue <b>: 1\ngrey: 1\n", "called grey")],
)
def test_names_that_do_not_fit(text, message, unequal, tmp_path, capsys):
    (tmp_path / "w.yaml").write_text(text)
    flags = ["--class_weights", tmp_path / "w.yaml", "--output", tmp_path / "run"]
    found = fails(capsys, 3, train_classifier, "--data.root", unequal, *flags, *TINY)
    assert message in found
    assert "--class_weights" in found
    assert not (tmp_path / "run").exists()


def test_segmentation_needs_a_loss_that_is_weighted(mask_root, tmp_path, capsys):  # noqa: F811
    found = fails(capsys, 2, train_segmenter, "--data.root", mask_root, "--output", tmp_path / "run", *BOTH, "--losses",
                  "dice")  # fmt: skip
    assert "--losses dice has neither" in found
