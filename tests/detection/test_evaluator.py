"""COCO's metrics, compared with pycocotools, with crowds and gaps in the category ids."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data.batch import Batch
from data.formats import coco_json
from detection.evaluator import METRICS, CocoEvaluator
from detection.postprocess import Detections

CATEGORIES = (2, 5, 7)


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """40 images, 3 categories with gaps, boxes of all sizes, a few crowds, two images without boxes."""
    random = np.random.default_rng(0)
    annotations = []
    for image in range(1, 39):
        for _ in range(random.integers(1, 9)):
            x, y = random.uniform(0, 300, 2)
            w, h = random.choice([12, 50, 200]) * random.uniform(0.8, 1.4, 2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(random.choice(CATEGORIES)),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(random.random() < 0.08),
                }
            )
    file = tmp_path_factory.mktemp("coco") / "instances_val.json"
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 640} for i in range(1, 41)]
    categories = [{"id": i, "name": f"thing {i}"} for i in CATEGORIES]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def detections(truth, image):
    """Noisy copies of the ground truth and some false positives: boxes xyxy, scores, class indices."""
    random = np.random.default_rng(image)
    rows = []
    for a in json.loads(truth.read_text())["annotations"]:
        if a["image_id"] == image and random.random() < 0.85:
            x, y, w, h = np.array(a["bbox"]) + random.normal(0, 3, 4)
            label = CATEGORIES.index(a["category_id"]) if random.random() < 0.9 else random.integers(3)
            rows.append([x, y, x + max(w, 1), y + max(h, 1), random.random(), label])
    for _ in range(random.integers(0, 5)):
        x, y = random.uniform(0, 400, 2)
        rows.append([x, y, x + 40, y + 40, random.random() * 0.7, random.integers(3)])
    return np.array(sorted(rows, key=lambda r: -r[4])).reshape(-1, 6)


def evaluator_of(file, image_ids):
    columns = coco_json.parse(file)
    return CocoEvaluator(columns.select(np.flatnonzero(np.isin(columns.image_ids, image_ids))))


def evaluated(truth, image_ids, batch_size):
    evaluator = evaluator_of(truth, image_ids)
    for start in range(0, len(image_ids), batch_size):
        ids = image_ids[start : start + batch_size]
        rows_by_image = [detections(truth, i) for i in ids]
        most = max(len(f) for f in rows_by_image)
        boxes, scores = torch.zeros(len(ids), most, 4), torch.zeros(len(ids), most)
        labels = torch.full((len(ids), most), -1)
        for row, f in enumerate(rows_by_image):
            boxes[row, : len(f)] = torch.from_numpy(f[:, :4])
            scores[row, : len(f)] = torch.from_numpy(f[:, 4])
            labels[row, : len(f)] = torch.from_numpy(f[:, 5]).long()
        batch = Batch(
            images=torch.zeros(len(ids), 3, 1, 1, dtype=torch.uint8),
            image_ids=torch.tensor(ids),
            sizes=torch.full((len(ids), 2), 640),
            scales=torch.ones(len(ids), 2),
            boxes=torch.zeros(len(ids), 0, 4),
            labels=torch.zeros(len(ids), 0, dtype=torch.long),
            readable=torch.ones(len(ids), dtype=torch.bool),
        )
        evaluator.update(Detections(boxes, scores, labels), batch)
    return evaluator


def official(truth, evaluator, image_ids):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        rows = evaluator.detections.copy()
        rows[:, 6] = np.array(CATEGORIES)[rows[:, 6].astype(int)]
        evaluation = COCOeval(coco, coco.loadRes(rows), "bbox")
        evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.case("R7")
@pytest.mark.parametrize("image_ids", [list(range(1, 41)), list(range(1, 41, 3))], ids=["all images", "a subset"])
def test_twelve_metrics_equal_pycocotools(truth, image_ids):
    evaluator = evaluated(truth, image_ids, 7)
    ours, expected_results = evaluator.compute(), official(truth, evaluator, image_ids)
    assert 0.2 < ours["AP"] < 0.9
    for name, expected in zip(METRICS, expected_results.stats, strict=True):
        assert ours[name] == pytest.approx(expected, abs=1e-9), name
    for index, value in enumerate(evaluator.per_class.values()):
        precision = expected_results.eval["precision"][:, :, index, 0, 2]
        assert value == pytest.approx(precision[precision > -1].mean(), abs=1e-6)


def test_batch_size_does_not_matter(truth):
    ids = list(range(1, 41))
    assert evaluated(truth, ids, 1).compute() == evaluated(truth, ids, 16).compute()


def test_without_detections_metrics_are_zero(truth):
    metrics = evaluator_of(truth, list(range(1, 41))).compute()
    assert metrics["AP"] == 0
    assert metrics["AR100"] == 0


def test_metrics_of_sizes_without_objects_are_nan(tmp_path):
    file = tmp_path / "instances_val.json"
    box = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [0, 0, 200, 200], "area": 40000, "iscrowd": 0}
    images = [{"id": 1, "file_name": "1.jpg", "width": 640, "height": 640}]
    file.write_text(json.dumps({"images": images, "annotations": [box], "categories": [{"id": 2, "name": "thing"}]}))
    metrics = evaluator_of(file, [1]).compute()
    assert math.isnan(metrics["APs"])
    assert metrics["APl"] == 0


def test_reset_removes_all_detections(truth):
    evaluator = evaluated(truth, list(range(1, 41)), 7)
    evaluator.reset()
    assert len(evaluator.detections) == 0
