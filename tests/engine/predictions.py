"""Random predictions for each task's evaluator."""

import numpy as np
import torch

from classification.evaluator import AccuracyEvaluator
from data.batch import Batch
from detection.evaluator import CocoEvaluator
from detection.postprocess import Detections
from segmentation.evaluator import SegmentationEvaluator
from segmentation.tta import ClassMap
from tests.detection.columns import box_columns

IMAGES, CLASSES = 6, 3


def evaluator(kind):
    if kind == "classification":
        return AccuracyEvaluator(list("abc"), range(CLASSES), CLASSES)
    if kind == "segmentation":
        return SegmentationEvaluator(list("abc"))
    random = np.random.default_rng(0)
    corner = random.uniform(0, 20, (2 * IMAGES, 2))
    boxes = np.hstack([corner, corner + 20])
    image, label = np.repeat(np.arange(IMAGES), 2), random.integers(0, CLASSES, 2 * IMAGES)
    return CocoEvaluator(box_columns(images=IMAGES, classes=CLASSES, image=image, label=label, boxes=boxes))


def batches(kind):
    """(predictions, batch) of one image each."""
    truth = evaluator("detection").truth
    for index in range(IMAGES):
        torch.manual_seed(index)
        labels = torch.from_numpy(truth.label[2 * index : 2 * index + 2])[None]
        batch = Batch(
            images=torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
            image_ids=torch.from_numpy(truth.image_ids[index : index + 1]),
            sizes=torch.tensor([[8, 8]]),
            scales=torch.ones(1, 2),
            boxes=torch.zeros(1, 0, 4),
            labels=labels,
            readable=torch.ones(1, dtype=torch.bool),
            masks=torch.randint(0, CLASSES, (1, 8, 8), dtype=torch.uint8),
        )
        if kind == "classification":
            yield torch.randn(1, CLASSES).log_softmax(1), batch
        elif kind == "segmentation":
            labels_map = torch.where(torch.rand(8, 8) < 0.5, batch.masks[0], torch.randint(0, CLASSES, (8, 8)))
            yield [ClassMap(labels_map, torch.rand(8, 8))], batch
        else:
            boxes = torch.from_numpy(truth.boxes[2 * index : 2 * index + 2]).float()[None] + 2 * torch.randn(1, 2, 4)
            yield Detections(boxes, torch.rand(1, 2), labels), batch
