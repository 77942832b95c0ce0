"""The detection task: data sets, model, losses, evaluation, result files and pictures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.errors import BadInput
from backbones.scaling import scale_of
from backbones.weight_files import read_state
from data.batch import Batch, Sample
from data.box_dataset import BoxDataset
from data.columns import BoxColumns
from data.letterbox import Letterbox
from data.reader import ImageReader
from detection import effdet
from detection.anchors import fit_scale
from detection.classes import COCO_CLASSES, COCO_OUTPUTS
from detection.config import (
    MAX_DETECTIONS,
    METRIC,
    MIN_SCORE,
    NAME,
    EvalConfig,
    PredictConfig,
    TrainConfig,
    check_max_detections,
)
from detection.draw import above_score, draw_boxes, side_by_side
from detection.errors import what_went_wrong
from detection.evaluator import CocoEvaluator
from detection.loss import DetectionLoss
from detection.model import Detector, create_detector, level_strides, run_anchor_scale
from detection.postprocess import Detections, to_original
from detection.prediction import DetectionResult
from detection.results import run_matches
from detection.truth import coco_document, coco_results
from engine import distributed
from engine.checkpoint import RunInfo, describe_data, values_of
from engine.config import parse_size, random_neck
from engine.micro_batches import shares
from engine.record import write_json
from engine.task import Task

log = logging.getLogger(__name__)


class DetectionTask(Task):
    """Training of EfficientDets, and evaluation with COCO's metrics."""

    name: ClassVar[str] = NAME
    metric: ClassVar[str] = METRIC
    dataset_class: ClassVar[type[ImageReader]] = BoxDataset
    outputs: ClassVar[tuple[str, ...]] = ("logits", "deltas")
    headline: ClassVar[tuple[str, ...]] = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    config: TrainConfig
    model: Detector
    evaluator: CocoEvaluator

    def __init__(self, model: Detector, config: TrainConfig, info: RunInfo) -> None:
        super().__init__(model, config, info)
        self.category_ids = tuple(info.extra["category_ids"])  # in result files
        self.criterion = DetectionLoss(config.assignment, config.box_loss)

    @classmethod
    def build(
        cls, config: TrainConfig, root: Path, train: BoxDataset, val: BoxDataset, model: Detector | None = None
    ) -> DetectionTask:
        """The task of a new run.

        Without an anchor scale in the settings, it is that of the run in `pretrained`, whose heads know these anchors,
        or is fitted to the training boxes.
        """
        size = parse_size(config.image_size or scale_of(config.phi).size)
        scale = cls.anchor_scale_of(config, train) if model is None else model.anchors.scale
        model = model or create_detector(
            config.backbone,
            len(train.classes),
            config.phi,
            config.neck,
            False if config.protocol == "scratch" else config.pretrained,
            anchor_scale=scale,
            nms=config.nms,
            style=config.style,
            classes=train.classes,
            max_detections=config.max_detections,
            channels=config.data.input_channels,
            stochastic_depth=config.stochastic_depth,
        )
        if config.protocol == "linear" and not model.neck_is_trained:
            raise random_neck()
        config = replace(config, style=model.style)  # weights of a complete detector override it
        provenance = model.backbone.provenance
        info = RunInfo(
            task=cls.name,
            dataset=describe_data(root, train, val),
            config=asdict(config),
            classes=list(train.classes),
            preprocessing={"mean": list(provenance.mean), "std": list(provenance.std), "size": list(size)}
            | values_of(train),
            provenance=provenance.as_dict(),
            extra={
                "neck": config.neck,
                "phi": str(config.phi),
                "category_ids": list(train.category_ids),
                "anchor_scale": scale,
            },
        )
        task = cls(model, config, info)
        task.score_on(val)
        return task

    @staticmethod
    def anchor_scale_of(config: TrainConfig, train: BoxDataset) -> float:
        """The anchor scale for these settings and training boxes, see `build`."""
        size = parse_size(config.image_size or scale_of(config.phi).size)
        scale = config.anchor_scale or run_anchor_scale(config.pretrained, size)
        return scale or fit_scale(network_sizes(train, size), level_strides(scale_of(config.phi)))

    def datasets(self, train: BoxDataset, val: BoxDataset) -> tuple[BoxDataset, BoxDataset]:
        """The data sets with their transforms: scale jitter, crops and flips in training; letterbox in validation."""
        from data.augment import augmentation  # here, since importing albumentations takes a second
        from detection.transforms import MILD, detection_train

        size, vflip = tuple(self.info.preprocessing["size"]), 0.5 if self.config.vflip else 0.0
        color = MILD if self.channels is None else None
        recipe = detection_train(size, self.config.jitter, self.fill, vflip=vflip, color=color)
        augment = augmentation(self.config.data.augment, recipe, self.transform(), "boxes", self.channels)
        return train.with_transform(augment), val.with_transform(self.transform())

    @classmethod
    def from_run(
        cls,
        info: RunInfo,
        state: dict[str, Tensor] | None,
        config: EvalConfig | PredictConfig,
        model: Detector | None = None,
    ) -> DetectionTask:
        """The task of a finished run."""
        check_max_detections(config.max_detections)
        stored = TrainConfig.of(info.config)
        stored = replace(stored, max_detections=config.max_detections or stored.max_detections)
        if model is not None:
            return cls(model, stored, info)
        model = create_detector(
            stored.backbone,
            len(info.classes),
            info.extra["phi"],
            info.extra["neck"],
            anchor_scale=info.extra["anchor_scale"],
            nms=config.nms or stored.nms,
            style=stored.style,
            max_detections=stored.max_detections,
            channels=stored.data.input_channels,
        )
        if state is not None:
            model.load_state_dict(state)
        return cls(model, stored, info)

    @classmethod
    def from_published(cls, file: Path, config: EvalConfig | PredictConfig) -> DetectionTask:
        """The task of a published COCO detector in effdet's file format. Raises BadInput for other files."""
        state = read_state(file)
        if not effdet.is_detector(state):
            raise BadInput(f"{file} is neither a run of this package nor a detector in effdet's format")
        backbone, phi, classes = effdet.describe(state, file.name, config.phi)
        check_max_detections(config.max_detections)
        limit = config.max_detections or MAX_DETECTIONS
        nms = config.nms or "soft"
        model = create_detector(backbone, classes, phi, pretrained=str(file), nms=nms, max_detections=limit)
        coco = classes == COCO_OUTPUTS
        names = [COCO_CLASSES.get(i, f"({i} is unused)") if coco else str(i) for i in range(1, classes + 1)]
        size = scale_of(phi).size
        provenance = model.backbone.provenance
        info = RunInfo(
            task=cls.name,
            dataset={"root": None, "published": "COCO" if coco else None},
            config=asdict(TrainConfig(backbone=backbone, phi=phi, style=model.style, nms=nms, max_detections=limit)),
            classes=names,
            preprocessing={"mean": list(provenance.mean), "std": list(provenance.std), "size": [size, size]},
            provenance=provenance.as_dict(),
            extra={
                "neck": "bifpn",
                "phi": phi,
                "category_ids": list(range(1, classes + 1)),
                "anchor_scale": model.anchors.scale,
            },
        )
        return cls(model, TrainConfig.of(info.config), info)

    def score_on(self, dataset: BoxDataset) -> BoxDataset:
        """The data set with the model's class indices, and an evaluator for it."""
        dataset = dataset.with_classes(self.info.classes, self.info.extra["category_ids"], "the model")
        self.evaluator = CocoEvaluator(dataset.columns, dataset.listed, self.config.max_detections)
        warn_about_many_objects(dataset.columns, self.config.max_detections)
        self.category_ids = dataset.category_ids
        return dataset

    # --- hooks of the base task

    def losses_of(self, outputs: Any, size: tuple[int, int], batch: Batch) -> dict[str, Tensor]:
        logits, deltas = outputs
        return self.criterion(logits, deltas, self.model.anchors, size, batch.boxes, batch.labels, batch.complete)

    def network_outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, A, K) and offsets (B, A, 4), see `Detector`."""
        return self.model(images)

    def loss_factors(self, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """Both losses are divided by the number of positive anchors + 1."""
        anchors, size = self.model.anchors, tuple(self.info.preprocessing["size"])
        counts = [self.criterion.positives(anchors, size, part.boxes, part.labels) for part in parts]
        factors = shares(distributed.total(torch.stack(counts)), added=1)
        return {"class": factors, "box": factors}

    def with_most_labels(self, batch: Batch, train: BoxDataset) -> Batch:
        """The batch with as many rows of padding as the image with most boxes needs."""
        most = int(np.diff(train.label_counts().indptr).max(initial=0))
        rows = max(0, most - batch.labels.shape[1])
        return replace(
            batch, boxes=F.pad(batch.boxes, (0, 0, 0, rows)), labels=F.pad(batch.labels, (0, rows), value=-1)
        )

    def predictions(self, images: Tensor, batch: Batch) -> Detections:
        if self.has_results:
            found = Detections(*self.computed(images))
            return found if self.takes_photographs else to_original(found, batch.scales, batch.sizes)
        logits, deltas = self.computed(images)
        sizes = (batch.sizes * batch.scales.flip(1)).round()  # (height, width) of each image within its letterbox
        height, width = images.shape[-2:]
        return to_original(self.model.detections(logits, deltas, (height, width), sizes), batch.scales, batch.sizes)

    def transform(self) -> Letterbox:
        return Letterbox(tuple(self.info.preprocessing["size"]), self.fill)

    def final_layer(self) -> list[nn.Module]:
        return [self.model.class_head.predict, self.model.box_head.predict]  # type: ignore[list-item]

    # --- result files and pictures

    def write_results(self, folder: Path) -> None:
        """Write the scores of each class, and the detections with the boxes that they were scored against.

        `per_class.json`: AP of each class. `detections.json`: COCO's result format. `truth.json`: COCO's instances
        format, with the ids of the data set; with both files, pycocotools computes the recorded AP. `matches.npz`: what
        comparisons need of the two.
        """
        super().write_results(folder)
        truth, detections = self._documents()
        write_json(folder / "detections.json", detections, indent=None)
        write_json(folder / "truth.json", truth, indent=None)
        run_matches(folder, self.config.max_detections)

    def _documents(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The scored boxes in COCO's instances format, and the detections in COCO's result format."""
        truth = self.evaluator.truth
        image_ids, boxes, scores, labels = np.split(self.evaluator.detections, [1, 5, 6], axis=1)
        categories = np.array(self.category_ids)[labels.astype(int)]
        document = coco_document(truth, truth.image_ids, list(self.category_ids))
        return document, coco_results(image_ids, boxes, scores, categories)

    def what_went_wrong(self) -> dict[str, dict[str, Any]]:
        """See `detection.errors.what_went_wrong`."""
        return what_went_wrong(*self._documents(), self.config.max_detections, self.scores["score_threshold"])

    def result(self, image: np.ndarray, predictions: Detections) -> DetectionResult:
        """The objects in one image."""
        boxes, scores, labels = above_score(predictions, 0.0)
        return DetectionResult(image, tuple(self.info.classes), boxes, scores, labels)

    def prediction_records(self, predictions: Detections, image_id: int) -> list[dict[str, Any]]:
        """The detections of one image in COCO's result format."""
        boxes, scores, labels = above_score(predictions, 0.0)
        boxes[:, 2:] -= boxes[:, :2]
        ids = np.array(self.category_ids)[labels]
        return coco_results(np.full(len(boxes), image_id), boxes, scores, ids)

    def picture(
        self, image: np.ndarray, predictions: Detections, truth: Sample | None = None, config: Any = None
    ) -> np.ndarray:
        min_score = MIN_SCORE if config is None else config.min_score
        boxes, scores, labels = above_score(predictions, min_score)
        detected = draw_boxes(image, boxes, labels, self.info.classes, scores)
        if truth is None:
            return detected
        expected = draw_boxes(image, truth.boxes, truth.labels, self.info.classes)
        return side_by_side(expected, detected, ("ground truth", f"detections, score {100 * min_score:.0f} or more"))


def warn_about_many_objects(truth: BoxColumns, limit: int) -> None:
    """Warn about images with more objects than detections that count."""
    objects = np.bincount(truth.image[~truth.crowd & ~truth.difficult], minlength=len(truth))
    if (objects > limit).any():
        log.warning(
            "%s: %d of %d images have more than %d objects, the most %d. Only the %d best detections of an image "
            "count: raise --max_detections",
            truth.source,
            (objects > limit).sum(),
            len(truth),
            limit,
            objects.max(),
            limit,
        )


def network_sizes(dataset: BoxDataset, size: tuple[int, int]) -> np.ndarray:
    """(N, 2) widths and heights in px of all training boxes, after a letterbox of their images to `size`."""
    image, boxes = dataset.boxes_by_image()
    scale = np.min(np.asarray(size) / dataset.sizes, axis=1)
    return (boxes[:, 2:] - boxes[:, :2]) * scale[image, None]
