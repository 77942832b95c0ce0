"""`--data.augment` of the train commands: what is trained with, stored, compared and resumed."""

import json
import signal

import albumentations as A
import numpy as np
import pytest
import torch
import yaml

from classification import train as train_classifier
from classification.config import TrainConfig as ClassificationConfig
from classification.task import ClassificationTask
from data.batch import IGNORE, Draw
from detection import train as train_detector
from detection.config import BoxTrainData
from detection.config import TrainConfig as DetectionConfig
from detection.task import DetectionTask
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

TINY = ["--image_size", "64x96", "--epochs", "2", "--batch_size", "4", "--device", "cpu"]
TASKS = {
    "classification": (train_classifier, "folders", []),
    "detection": (train_detector, "coco_root", []),
    "segmentation": (train_segmenter, "mask_root", ["--data.ignore_index", "9"]),
}


@pytest.fixture
def file(tmp_path):
    """A pipeline that turns images, saved by albumentations."""
    pipeline = A.Compose([A.Rotate((80, 100), p=1.0), A.RandomBrightnessContrast(p=0.5)])
    A.save(pipeline, tmp_path / "pipeline.yaml", data_format="yaml")
    return tmp_path / "pipeline.yaml"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("setting", ["none", "file"])
def test_every_task_trains(task, setting, file, request, tmp_path):
    command, root, flags = TASKS[task]
    setting = file if setting == "file" else setting
    run(command, "--data.root", request.getfixturevalue(root), "--output", tmp_path / "run", "--data.augment", setting,
        *TINY, *flags)  # fmt: skip
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    stored = record["config"]["data"]["augment"]
    assert stored == ("none" if setting == "none" else yaml.safe_load(file.read_text()))
    assert record["metrics"]


def test_none_trains_on_the_images_of_evaluation(folders, coco_root, mask_root):  # noqa: F811
    """The same images for every seed; for segmentation the mask is resized as well."""
    for task, config, root in (
        (ClassificationTask, ClassificationConfig(data=TrainData(augment="none")), folders),
        (DetectionTask, DetectionConfig(data=BoxTrainData(augment="none")), coco_root),
        (SegmentationTask, SegmentationConfig(data=MaskTrainData(augment="none", ignore_index=9)), mask_root),
    ):
        config.pretrained, config.image_size = False, "64x96"
        prepared, train_set, _ = task.prepare(config, root)
        first, second = (train_set[Draw(1, seed)] for seed in (5, 6))
        assert np.array_equal(first.image, second.image)
        evaluated = train_set.with_transform(prepared.transform())[1]
        assert np.array_equal(first.image, evaluated.image)
        assert first.image.shape == (64, 96, 3)
        if task is SegmentationTask:
            assert first.mask.shape == (64, 96)


def test_a_pipeline_of_ones_own(folders, coco_root, mask_root, file):  # noqa: F811
    content = yaml.safe_load(file.read_text())
    config = SegmentationConfig(pretrained=False, image_size="64x96")
    config.data = MaskTrainData(augment=content, ignore_index=9)
    _, train_set, _ = SegmentationTask.prepare(config, mask_root)
    out = train_set[Draw(0, 3)]
    assert out.image.shape == (64, 96, 3)
    assert out.mask.shape == (64, 96)
    assert set(np.unique(out.mask)) <= {0, 1, 2, IGNORE}
    assert (out.mask == IGNORE).mean() > 0.2  # corners of the rotation
    config = DetectionConfig(pretrained=False, image_size="64x96", data=BoxTrainData(augment=str(file)))  # by its name
    _, train_set, _ = DetectionTask.prepare(config, coco_root)
    tall, wide = train_set[Draw(0, 3)].boxes, train_set.with_transform(None)[0].boxes
    assert len(tall) in (1, 2)
    assert len(wide) == 2
    config = ClassificationConfig(pretrained=False, image_size="64x96", data=TrainData(augment=content))
    _, train_set, _ = ClassificationTask.prepare(config, folders)
    assert train_set[Draw(0, 3)].image.shape == (64, 96, 3)
    assert not np.array_equal(train_set[Draw(0, 3)].image, train_set[Draw(0, 4)].image)


def test_the_content_of_a_file_is_stored_and_resumed(folders, file, tmp_path, monkeypatch, capsys):  # noqa: F811
    """The run resumes without the file and ends as a run that was not stopped."""
    flags = ["--data.root", folders, *TINY, "--data.augment", file]
    run(train_classifier, *flags, "--output", tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "on_train_batch_start", stopped_at(1, 0, ClassificationTask))
        fails(capsys, 130, train_classifier, *flags, "--output", tmp_path / "stopped")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    A.save(A.HorizontalFlip(), file, data_format="yaml")
    message = fails(capsys, 2, train_classifier, "--resume", tmp_path / "stopped", "--data.augment", file)
    assert "contradicts" in message
    file.unlink()
    run(train_classifier, "--resume", tmp_path / "stopped")
    first, second = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "stopped")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_content_of_a_file_decides_whether_trainings_are_the_same(tmp_path):
    pipeline = A.Compose([A.HorizontalFlip(p=0.5)])
    A.save(pipeline, tmp_path / "a.yaml", data_format="yaml")
    A.save(pipeline, tmp_path / "b.json", data_format="json")
    A.save(A.Compose([A.HorizontalFlip(p=0.4)]), tmp_path / "c.yaml", data_format="yaml")
    files = [str(tmp_path / name) for name in ("a.yaml", "b.json", "c.yaml")]
    first, same, other = (Cell("segmentation", ("--data.augment", file)) for file in files)
    assert first.key == same.key != other.key
    assert other.key != Cell("segmentation", ()).key != Cell("segmentation", ("--data.augment", "none")).key
    assert Cell("segmentation", ("--data.augment", "recipe")).key == Cell("segmentation", ()).key
    assert dict(flat(first.settings))["data.augment"]["transform"]["__class_fullname__"] == "Compose"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data.augment", "nothing.yaml"], 3, "--data.augment nothing.yaml is neither recipe, none nor a file"),
        (["--data.augment", "none", "--vflip", "true"], 2, "--vflip is part of the task's augmentation"),
        (["--data.augment", "none", "--augment", "randaugment"], 2, "--augment randaugment is part of the task's own"),
    ],
)
def test_errors(arguments, code, message, folders, tmp_path, capsys):  # noqa: F811
    found = fails(capsys, code, train_classifier, "--data.root", folders, "--output", tmp_path / "run", *arguments)
    assert message in found
    assert not (tmp_path / "run").exists()


def test_a_transform_that_cannot_be_used_is_an_error_before_training(folders, tmp_path, capsys):  # noqa: F811
    A.save(A.Compose([A.HorizontalFlip(), A.Normalize()]), tmp_path / "p.json")
    found = fails(capsys, 3, train_classifier, "--data.root", folders, "--output", tmp_path / "run", "--data.augment",
                  tmp_path / "p.json", *TINY)  # fmt: skip
    assert "Normalize of the pipeline in --data.augment does not return an 8-bit RGB image: leave it out" in found
    assert not (tmp_path / "run").exists()
