"""Segmentation as a task: what is read, built, minimised, scored and drawn."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from backbones.errors import UserError
from backbones.scaling import scale_of
from data.batch import IGNORE, Batch, Sample
from data.formats.masks import MaskFolders
from data.reader import LabelledDataset
from engine.checkpoint import RunInfo, describe_data
from engine.config import parse_size
from engine.record import write_json
from engine.task import Task
from segmentation.classes import check_same_classes
from segmentation.config import METRIC, NAME, EvalConfig, PredictConfig, TrainConfig
from segmentation.decoders import spec_of
from segmentation.draw import OPACITY, beside, legend, overlay, palette_of, palette_png
from segmentation.evaluator import SegmentationEvaluator
from segmentation.loss import SegmentationLoss
from segmentation.model import Segmenter, create_segmenter
from segmentation.prediction import SegmentationResult
from segmentation.transforms import ImageLetterbox, segmentation_train
from segmentation.tta import Sight, label_maps

POWER = 0.9  # of the polynomial schedule; DeepLab (arXiv:1606.00915, section 4.1)
LEAST_LR = 0.01  # and where it ends: mmsegmentation's 1e-4 of 1e-2


class SegmentationTask(Task):
    """Training on crops, and evaluation of whole images at their original size."""

    name: ClassVar[str] = NAME
    monitor: ClassVar[str] = METRIC
    headline: ClassVar[tuple[str, ...]] = ("mIoU", "pixel_accuracy", "mean_accuracy", "fwIoU")
    config: TrainConfig
    model: Segmenter
    evaluator: SegmentationEvaluator

    def __init__(
        self, model: Segmenter, config: TrainConfig, info: RunInfo, looks: EvalConfig | PredictConfig | None = None
    ) -> None:
        super().__init__(model, config, info, SegmentationEvaluator(info.classes))
        self.criterion = SegmentationLoss(config.losses, config.label_smoothing, config.hard_pixels)
        self.ignore_index = config.data.ignore_index
        self.sight = Sight()
        if looks is not None:
            looks.check_looks()
            height, width = info.extra["crop"]
            self.sight = Sight(tuple(looks.scales), looks.flip, (height, width) if looks.slide else None)
        if isinstance(looks, EvalConfig) and looks.data.ignore_index is not None:
            self.ignore_index = looks.data.ignore_index

    @classmethod
    def read(cls, config: TrainConfig, root: Path) -> tuple[MaskFolders, MaskFolders]:
        """Training and validation images. Raises UserError where the decoder cannot train on so few at a time."""
        data, (split, part) = config.data, config.data.scored_on()
        train = MaskFolders(root, "train", None, data.trained_on(), config.seed, data.skip_bad, data.ignore_index)
        val = MaskFolders(root, split, None, part, config.seed, data.skip_bad, data.ignore_index)
        if spec_of(config.decoder).pools_to_one and min(config.batch_size, len(train)) < 2:
            raise UserError(
                f"--decoder {config.decoder} has a batch norm over single pixels, which takes two images or more in "
                "each step: raise --batch_size"
            )
        return train, val

    @classmethod
    def build(cls, config: TrainConfig, root: Path, train: MaskFolders, val: MaskFolders) -> SegmentationTask:
        """The task of a new run."""
        crop = parse_size(config.image_size or scale_of(config.phi).size)
        size = parse_size(config.eval_size) if config.eval_size else crop
        model = create_segmenter(
            config.backbone,
            len(train.classes),
            config.decoder,
            config.phi,
            False if config.protocol == "scratch" else config.pretrained,
        )
        provenance = model.backbone.provenance
        info = RunInfo(
            task=cls.name,
            dataset=describe_data(root, train, val),
            config=asdict(config),
            classes=list(train.classes),
            preprocessing={"mean": list(provenance.mean), "std": list(provenance.std), "size": list(size)},
            provenance=provenance.as_dict(),
            extra={"neck": config.decoder, "phi": str(config.phi), "crop": list(crop)},
        )
        return cls(model, config, info)

    def datasets(self, train: MaskFolders, val: MaskFolders) -> tuple[MaskFolders, MaskFolders]:
        """Random crops in training, whole images in validation."""
        config, crop, vflip = self.config, tuple(self.info.extra["crop"]), 0.5 if self.config.vflip else 0.0
        augment = segmentation_train(crop, config.jitter, self.fill, vflip=vflip, max_share=config.max_share)
        return train.with_transform(augment), val.with_transform(self.transform())

    @classmethod
    def restore(cls, info: RunInfo, state: dict[str, Tensor], config: EvalConfig | PredictConfig) -> SegmentationTask:
        """The task of a finished run."""
        stored = TrainConfig.of(info.config)
        model = create_segmenter(stored.backbone, len(info.classes), info.extra["neck"], info.extra["phi"])
        model.load_state_dict(state)
        return cls(model, stored, info, config)

    def eval_dataset(self, root: Path, split: str, skip_bad: int) -> MaskFolders:
        """The images of `split`. Raises BadInput where their classes are not the model's, in the same order."""
        dataset = MaskFolders(root, split, self.transform(), skip_bad=skip_bad, ignore_index=self.ignore_index)
        check_same_classes(self.info.classes, dataset.classes, root)
        self.evaluator = SegmentationEvaluator(self.info.classes)
        return dataset

    # --- hooks of the base task

    def losses(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        assert batch.masks is not None
        return self.criterion(self.model(images), batch.masks)

    def predictions(self, images: Tensor, batch: Batch) -> list[Tensor]:
        return label_maps(self.model, images, batch.scales, batch.sizes, self.sight)

    def transform(self) -> ImageLetterbox:
        height, width = self.info.preprocessing["size"]
        return ImageLetterbox(self.sight.canvas((height, width)), self.fill)

    def final_layer(self) -> list[nn.Module]:
        return [self.model.head]

    def lr_factor(self, step: int, warmup: int, steps: int) -> float:
        if self.config.schedule == "cosine" or step < warmup:
            return super().lr_factor(step, warmup, steps)
        left = 1 - min(1.0, (step - warmup) / max(1, steps - warmup))
        return LEAST_LR + (1 - LEAST_LR) * left**POWER

    # --- what a person looks at

    def per_class(self) -> dict[str, float]:
        """IoU of each class in the last evaluation."""
        return self.evaluator.per_class

    def write_results(self, folder: Path) -> None:
        """Scores by class and by image.

        `per_class.json`; `confusion.csv`, rows: truth, columns: prediction; `images.json`: worst and best images;
        `images.npy`: each image's own counts, see `SegmentationEvaluator.write_images`.
        """
        write_json(folder / "per_class.json", self.per_class())
        self.evaluator.write_images(folder / "images.npy")
        header = ",".join(f'"{name}"' for name in self.info.classes)
        np.savetxt(folder / "confusion.csv", self.evaluator.matrix(), "%d", ",", header=header, comments="")
        ends = {"worst": self.evaluator.worst, "best": self.evaluator.best}
        write_json(
            folder / "images.json",
            {end: [{"image_id": i, "mIoU": score} for score, i in images] for end, images in ends.items()},
        )

    def pictured(self, dataset: LabelledDataset, count: int) -> dict[str, int]:
        """The worst and the best validation images of the last evaluation, and some that every run draws."""
        index = {int(image_id): i for i, image_id in enumerate(dataset.image_ids)}
        ends = {"worst": self.evaluator.worst, "best": self.evaluator.best}
        extremes = {
            f"{end}-{place}-{Path(dataset.path(index[image_id])).stem}": index[image_id]
            for end, images in ends.items()
            for place, (_, image_id) in enumerate(images[: 3 * count // 8], start=1)
        }
        return extremes | super().pictured(dataset, count - len(extremes))

    def result(self, image: np.ndarray, predictions: list[Tensor]) -> SegmentationResult:
        """The classes of one image's pixels."""
        return SegmentationResult(image, tuple(self.info.classes), predictions[0].cpu().numpy().astype(np.int64))

    def records(self, predictions: list[Tensor], image_id: int) -> list[dict[str, Any]]:
        """The classes of one image, the largest first, with their pixels and share of the image."""
        labels = predictions[0].cpu().numpy()
        counts = np.bincount(labels.ravel(), minlength=len(self.info.classes))
        return [
            {"class": self.info.classes[i], "index": int(i), "pixels": int(counts[i]), "share": counts[i] / labels.size}
            for i in np.argsort(-counts, kind="stable")
            if counts[i]
        ]

    def save(self, predictions: list[Tensor], path: Path) -> None:
        """`NAME.png`, whose pixel values are the class indices, with a palette."""
        labels = predictions[0].cpu().numpy()
        palette_png(labels, palette_of(self.info.classes)).save(path.with_name(f"{path.name}.png"))

    def picture(
        self, image: np.ndarray, predictions: list[Tensor], truth: Sample | None = None, config: Any = None
    ) -> np.ndarray:
        """Truth and prediction laid over the image, and the names of their colours."""
        opacity = OPACITY if config is None else config.opacity
        maps = [predictions[0].cpu().numpy()]
        if truth is not None and truth.mask is not None:
            maps.insert(0, truth.mask)
        palette = palette_of(self.info.classes)
        parts = [overlay(image, labels, palette, opacity) for labels in maps]
        seen = [labels[labels != IGNORE] for labels in maps]
        return beside([*parts, legend(seen, self.info.classes, palette, parts[0].shape[0])])
