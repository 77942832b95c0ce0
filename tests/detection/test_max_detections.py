"""`max_detections`: more than COCO's 100 detections of an image, in prediction and in scoring."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from backbones.errors import UserError
from data.batch import Batch
from detection import eval as eval_command
from detection import predict as predict_command
from detection import train as train_command
from detection.config import check_max_detections
from detection.evaluator import METRICS, CocoEvaluator
from detection.model import create_detector
from detection.postprocess import Detections
from detection.results import match_detections
from detection.task import DetectionTask, warn_about_many_objects
from detection.truth import coco_document
from tests.commands import fails, run
from tests.detection.columns import box_columns

SIDE, EACH = 20, 150


def grid(images=2):
    """Images of 300 px with 150 squares that do not overlap."""
    x, y = np.meshgrid(np.arange(15) * SIDE, np.arange(10) * SIDE)
    corner = np.stack([x.ravel(), y.ravel()], axis=1).astype(float)
    boxes = np.tile(np.hstack([corner, corner + SIDE - 4]), (images, 1))
    image = np.repeat(np.arange(images), EACH)
    return box_columns(images, 1, image, np.zeros(len(boxes), int), boxes, size=300)


def perfect(truth, limit):
    """An evaluator after the truth was detected, with scores that all differ."""
    evaluator = CocoEvaluator(truth, max_detections=limit)
    count = len(truth)
    boxes = torch.from_numpy(truth.boxes).view(count, EACH, 4).float()
    scores = torch.linspace(0.9, 0.1, count * EACH).view(EACH, count).T
    batch = Batch(
        images=torch.zeros(count, 3, 1, 1, dtype=torch.uint8),
        image_ids=torch.from_numpy(truth.image_ids),
        sizes=torch.full((count, 2), 300),
        scales=torch.ones(count, 2),
        boxes=torch.zeros(count, 0, 4),
        labels=torch.zeros(count, 0, dtype=torch.long),
        readable=torch.ones(count, dtype=torch.bool),
    )
    evaluator.update(Detections(boxes, scores, torch.zeros(count, EACH, dtype=torch.long)), batch)
    return evaluator


@pytest.mark.parametrize(
    ("limit", "ap", "recalls"),
    [
        (100, 0.663, [1 / 150, 10 / 150, 100 / 150]),  # the precision is 1 at 67 of 101 recalls
        (150, 1.0, [1 / 150, 10 / 150, 100 / 150]),
        (1000, 1.0, [1 / 150, 10 / 150, 100 / 150]),
        (5, 4 / 101, [1 / 150, 5 / 150, 5 / 150]),
    ],
)
def test_a_perfect_detector(limit, ap, recalls):
    evaluator = perfect(grid(), limit)
    metrics = evaluator.compute()
    share = min(limit, EACH) / EACH
    assert metrics["AP"] == metrics["AP50"] == pytest.approx(ap, abs=5e-4)
    assert [metrics[name] for name in ("AR1", "AR10", "AR100")] == pytest.approx(recalls)
    assert [metrics["ARs"], metrics["recall"]] == pytest.approx([share, share])
    assert metrics["precision"] == 1
    truth = evaluator.truth
    found = [
        {"image_id": int(row[0]), "category_id": 1, "bbox": row[1:5].tolist(), "score": float(row[5])}
        for row in evaluator.detections
    ]
    document = coco_document(truth, truth.image_ids, [1])
    for name in (*METRICS, "precision", "recall", "F1"):
        (resampled,) = match_detections(document, found, name, limit).score(np.ones((1, 2), int))
        assert resampled == pytest.approx(metrics[name], nan_ok=True), name


@pytest.mark.parametrize("nms", ["soft", "hard", "voting"])
def test_the_network_predicts_as_many(nms):
    torch.manual_seed(0)
    images = torch.randn(1, 3, 128, 128)
    counts = []
    for limit in (7, 100, 300):
        torch.manual_seed(1)
        model = create_detector("resnet18", 3, nms=nms, max_detections=limit).eval()
        with torch.inference_mode():
            counts.append(int((model.predict(images).labels >= 0).sum()))
    assert counts == [7, 100, 300]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data set with 150 objects in each image."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "annotations").mkdir()
    truth = grid()
    for split in ("train", "val"):
        (folder / split).mkdir()
        for name in truth.names:
            Image.new("RGB", (300, 300), (90, 120, 60)).save(folder / split / name)
        document = coco_document(truth, truth.image_ids, [1])
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return folder


def test_commands(root, tmp_path, monkeypatch, capsys):
    """The network is replaced by one that detects the truth. The limit of the training is that of `eval`."""
    flags = ["--image_size", "64", "--epochs", "1", "--batch_size", "2", "--device", "cpu", "--pretrained", "false"]
    run(train_command, "--data.root", root, "--output", tmp_path / "run", "--max_detections", 120, *flags)
    assert "2 of 2 images have more than 120 objects, the most 150" in " ".join(capsys.readouterr().err.split())
    assert json.loads((tmp_path / "run" / "record.json").read_text())["config"]["max_detections"] == 120
    run(predict_command, "--checkpoint", tmp_path / "run", "--images", root / "val" / "1.jpg", "--output",
        tmp_path / "predicted", "--max_detections", 3)  # fmt: skip
    assert len(json.loads((tmp_path / "predicted" / "predictions.json").read_text())) <= 3
    truth = COCO(str(root / "annotations" / "instances_val.json"))

    def predictions(self, images, batch):
        boxes = torch.tensor([[a["bbox"] for a in truth.imgToAnns[int(i)]] for i in batch.image_ids])
        boxes[..., 2:] += boxes[..., :2]
        scores = torch.linspace(0.9, 0.1, EACH).expand(len(boxes), EACH)
        limit = self.model.max_detections
        labels = torch.zeros(len(boxes), EACH, dtype=torch.long)
        return Detections(boxes[:, :limit], scores[:, :limit], labels[:, :limit])

    monkeypatch.setattr(DetectionTask, "predictions", predictions)
    for limit, expected in ((None, 81 / 101), (100, 0.663), (150, 1.0)):
        flags = [] if limit is None else ["--max_detections", limit]
        run(eval_command, "--checkpoint", tmp_path / "run", "--data.root", root, "--output", tmp_path / "s", *flags)
        assert json.loads((tmp_path / "s" / "metrics.json").read_text())["AP"] == pytest.approx(expected, abs=5e-4)
        assert ("more than" in capsys.readouterr().err) == (limit != 150)


@pytest.mark.parametrize("number", [0, 5001])
def test_numbers_out_of_range(number, root, tmp_path, capsys):
    message = fails(capsys, 2, train_command, "--data.root", root, "--max_detections", number)
    assert f"--max_detections {number} must be from 1 to 5000" in message
    with pytest.raises(UserError, match=f"`max_detections={number}` must be from 1"):
        check_max_detections(number)
    check_max_detections(None)


def test_crowds_and_difficult_objects_do_not_count_as_too_many(caplog):
    truth = grid(1)
    caplog.set_level(logging.WARNING)
    warn_about_many_objects(box_columns(1, 1, truth.image, truth.label, truth.boxes, crowd=np.arange(EACH) >= 100), 100)
    assert not caplog.records
    warn_about_many_objects(truth, 149)
    assert "1 of 1 images have more than 149 objects, the most 150" in caplog.text
    assert "--max_detections" in caplog.text
