"""The detection task: data sets, model, losses, evaluation, result files and pictures."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from backbones.errors import BadInput
from backbones.scaling import scale_of
from backbones.weight_files import read_state
from data.batch import Batch, Sample
from data.formats.coco import CocoDetection
from data.transforms import Transform
from detection import effdet
from detection.anchors import fit_scale
from detection.classes import COCO_CLASSES, COCO_OUTPUTS, output_categories
from detection.config import METRIC, MIN_SCORE, NAME, EvalConfig, PredictConfig, TrainConfig
from detection.draw import above_score, draw_boxes, side_by_side
from detection.evaluator import CocoEvaluator
from detection.loss import DetectionLoss
from detection.model import Detector, create_detector, run_anchor_scale
from detection.postprocess import Detections, to_original
from detection.prediction import DetectionResult
from detection.transforms import detection_train, letterbox
from engine.checkpoint import RunInfo, describe_data
from engine.config import parse_size
from engine.record import write_json
from engine.task import Task


class DetectionTask(Task):
    """Training of EfficientDets, and evaluation with COCO's metrics."""

    name: ClassVar[str] = NAME
    monitor: ClassVar[str] = METRIC
    headline: ClassVar[tuple[str, ...]] = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    config: TrainConfig
    model: Detector
    evaluator: CocoEvaluator

    def __init__(
        self, model: Detector, config: TrainConfig, info: RunInfo, evaluator: CocoEvaluator | None = None
    ) -> None:
        super().__init__(model, config, info, evaluator)
        self.criterion = DetectionLoss(config.assignment, config.box_loss)

    @classmethod
    def read(cls, config: TrainConfig, root: Path) -> tuple[CocoDetection, CocoDetection]:
        """Training and validation images, without transforms. Raises BadInput if their categories differ."""
        data, (split, fraction) = config.data, config.data.scored_on()
        train = CocoDetection(root, "train", None, data.trained_on(), config.seed, data.skip_bad)
        val = CocoDetection(root, split, None, fraction, config.seed, data.skip_bad)
        if train.category_ids != val.category_ids:
            raise BadInput(f"{train.annotation_file} and {val.annotation_file} do not have the same categories")
        return train, val

    @classmethod
    def build(cls, config: TrainConfig, root: Path, train: CocoDetection, val: CocoDetection) -> DetectionTask:
        """The task of a new run.

        Without an anchor scale in the settings, it is that of the run in `pretrained`, whose heads know these anchors,
        or is fitted to the training boxes.
        """
        size = parse_size(config.image_size or scale_of(config.phi).size)
        scale = config.anchor_scale or run_anchor_scale(config.pretrained, size)
        scale = scale or fit_scale(network_sizes(train, size), pyramid_strides(config.phi))
        model = create_detector(
            config.backbone,
            len(train.classes),
            config.phi,
            config.neck,
            False if config.protocol == "scratch" else config.pretrained,
            anchor_scale=scale,
            nms=config.nms,
            style=config.style,
            classes=train.classes,
        )
        config = replace(config, style=model.style)  # weights of a complete detector override it
        provenance = model.backbone.provenance
        info = RunInfo(
            task=cls.name,
            dataset=describe_data(root, train, val),
            config=asdict(config),
            classes=list(train.classes),
            preprocessing={"mean": list(provenance.mean), "std": list(provenance.std), "size": list(size)},
            provenance=provenance.as_dict(),
            extra={
                "neck": config.neck,
                "phi": str(config.phi),
                "category_ids": list(train.category_ids),
                "anchor_scale": scale,
            },
        )
        return cls(model, config, info, cls.evaluator_for(val, info))

    def datasets(self, train: CocoDetection, val: CocoDetection) -> tuple[CocoDetection, CocoDetection]:
        """The data sets with their transforms: scale jitter, crops and flips in training; letterbox in validation."""
        size, vflip = tuple(self.info.preprocessing["size"]), 0.5 if self.config.vflip else 0.0
        augment = detection_train(size, self.config.jitter, self.fill, vflip=vflip)
        return train.with_transform(augment), val.with_transform(self.transform())

    @classmethod
    def from_run(cls, info: RunInfo, state: dict[str, Tensor], config: EvalConfig | PredictConfig) -> DetectionTask:
        """The task of a finished run."""
        stored = TrainConfig.of(info.config)
        model = create_detector(
            stored.backbone,
            len(info.classes),
            info.extra["phi"],
            info.extra["neck"],
            anchor_scale=info.extra["anchor_scale"],
            nms=config.nms or stored.nms,
            style=stored.style,
        )
        model.load_state_dict(state)
        return cls(model, stored, info)

    @classmethod
    def from_published(cls, file: Path, config: EvalConfig | PredictConfig) -> DetectionTask:
        """The task of a published COCO detector in effdet's file format. Raises BadInput for other files."""
        state = read_state(file)
        if not effdet.is_detector(state):
            raise BadInput(f"{file} is neither a run of this package nor a detector in effdet's format")
        backbone, phi, classes = effdet.describe(state, file.name, config.phi)
        model = create_detector(backbone, classes, phi, pretrained=str(file), nms=config.nms or "soft")
        coco = classes == COCO_OUTPUTS
        names = [COCO_CLASSES.get(i, f"({i} is unused)") if coco else str(i) for i in range(1, classes + 1)]
        size = scale_of(phi).size
        provenance = model.backbone.provenance
        info = RunInfo(
            task=cls.name,
            dataset={"root": None, "published": "COCO" if coco else None},
            config=asdict(TrainConfig(backbone=backbone, phi=phi, style=model.style)),
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

    def eval_dataset(self, root: Path, split: str, skip_bad: int) -> CocoDetection:
        """The images of `split`. Also creates the evaluator for them."""
        dataset = CocoDetection(root, split, self.transform(), skip_bad=skip_bad)
        self.evaluator = self.evaluator_for(dataset, self.info)
        return dataset

    @staticmethod
    def evaluator_for(dataset: CocoDetection, info: RunInfo) -> CocoEvaluator:
        """The evaluator for a data set. It maps the classes of the model to the data set's category ids.

        Raises BadInput if model and data set do not have the same classes.
        """
        ids = output_categories(dataset, info.classes, info.extra["category_ids"], info.dataset.get("published"))
        return CocoEvaluator(dataset.annotation_file, dataset.image_ids.tolist(), ids)

    # --- hooks of the base task

    def losses(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        return self.model.loss(images, batch.boxes, batch.labels, self.criterion)

    def predictions(self, images: Tensor, batch: Batch) -> Detections:
        sizes = (batch.sizes * batch.scales.flip(1)).round()  # (height, width) of each image within its letterbox
        return to_original(self.model.predict(images, sizes), batch.scales, batch.sizes)

    def transform(self) -> Transform:
        return letterbox(tuple(self.info.preprocessing["size"]), self.fill)

    def final_layer(self) -> list[nn.Module]:
        return [self.model.class_head.predict, self.model.box_head.predict]  # type: ignore[list-item]

    # --- result files and pictures

    def per_class(self) -> dict[str, float]:
        """AP of each class in the last evaluation."""
        return self.evaluator.per_class

    def write_results(self, folder: Path) -> None:
        """Write `per_class.json`, and `detections.json` in COCO's result format."""
        write_json(folder / "per_class.json", self.per_class())
        detections = self.evaluator.detections
        write_json(folder / "detections.json", coco_results(*np.split(detections, [1, 5, 6], axis=1)))

    def result(self, image: np.ndarray, predictions: Detections) -> DetectionResult:
        """The objects in one image."""
        boxes, scores, labels = above_score(predictions, 0.0)
        return DetectionResult(image, tuple(self.info.classes), boxes, scores, labels)

    def prediction_records(self, predictions: Detections, image_id: int) -> list[dict[str, Any]]:
        """The detections of one image in COCO's result format."""
        boxes, scores, labels = above_score(predictions, 0.0)
        boxes[:, 2:] -= boxes[:, :2]
        ids = np.array(self.info.extra["category_ids"])[labels]
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


def coco_results(image_ids: np.ndarray, boxes: np.ndarray, scores: np.ndarray, categories: np.ndarray) -> list[dict]:
    """COCO's result format of (N,) image ids, (N, 4) x, y, width, height in original px, (N,) scores, category ids."""
    return [
        {"image_id": int(image), "category_id": int(category), "bbox": [round(v, 2) for v in box], "score": score}
        for image, box, score, category in zip(
            image_ids.ravel().tolist(),
            boxes.tolist(),
            scores.ravel().round(5).tolist(),
            categories.ravel().tolist(),
            strict=True,
        )
    ]


def network_sizes(dataset: CocoDetection, size: tuple[int, int]) -> np.ndarray:
    """(N, 2) widths and heights in px of all training boxes, after a letterbox of their images to `size`."""
    image, boxes = dataset.boxes_by_image()
    scale = np.min(np.asarray(size) / dataset.sizes, axis=1)
    return (boxes[:, 2:] - boxes[:, :2]) * scale[image, None]


def pyramid_strides(phi: int | str) -> list[int]:
    """Strides of the detector's levels, finest first."""
    return [8 * 2**i for i in range(scale_of(phi).num_levels)]
