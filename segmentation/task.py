"""The segmentation task: data, model, losses, evaluation and pictures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from backbones.errors import UserError
from backbones.scaling import scale_of
from data.balance import median_frequency_weights
from data.batch import IGNORE, Batch, Sample
from data.letterbox import ImageLetterbox, Letterbox
from data.mask_dataset import MaskDataset
from data.protocols import LabelledDataset
from data.reader import ImageReader
from engine import distributed
from engine.checkpoint import RunInfo, describe_data, values_of
from engine.config import parse_size, random_neck
from engine.micro_batches import shares
from engine.record import write_json
from engine.runtimes.files import Network
from engine.task import Task
from segmentation.config import METRIC, NAME, EvalConfig, PredictConfig, TrainConfig
from segmentation.draw import OPACITY, beside, legend, overlay, palette_of, palette_png
from segmentation.evaluator import SegmentationEvaluator
from segmentation.loss import SegmentationLoss
from segmentation.model import Segmenter, create_segmenter
from segmentation.prediction import SegmentationResult
from segmentation.tta import TTA, ClassMap, CoarseNetwork, class_maps, in_original_pixels

if TYPE_CHECKING:
    from scipy.sparse import csr_array

log = logging.getLogger(__name__)

POWER = 0.9  # exponent of the polynomial schedule: DeepLab (arXiv:1606.00915, section 4.1)
MIN_LR = 0.01  # final factor of the polynomial schedule: mmsegmentation decays from 1e-2 to 1e-4


class SegmentationTask(Task):
    """Trains on random crops and evaluates whole images at their original size.

    Args:
        model: the network.
        config: settings of the run.
        info: description of the run.
        inference: settings of `eval` or `predict`; None in training.
    """

    name: ClassVar[str] = NAME
    metric: ClassVar[str] = METRIC
    dataset_class: ClassVar[type[ImageReader]] = MaskDataset
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    headline: ClassVar[tuple[str, ...]] = ("mIoU", "pixel_accuracy", "mean_accuracy", "fwIoU", "Dice")
    config: TrainConfig
    model: Segmenter
    evaluator: SegmentationEvaluator

    def __init__(
        self, model: Segmenter, config: TrainConfig, info: RunInfo, inference: EvalConfig | PredictConfig | None = None
    ) -> None:
        super().__init__(model, config, info, SegmentationEvaluator(info.classes))
        self.criterion = SegmentationLoss(config.losses, config.label_smoothing, config.hard_pixels)
        self.tta = TTA()
        if inference is not None:
            inference.check_scales()
            height, width = info.extra["crop"]
            self.tta = TTA(tuple(inference.scales), inference.flip, (height, width) if inference.slide else None)

    @classmethod
    def build(
        cls, config: TrainConfig, root: Path, train: MaskDataset, val: MaskDataset, model: Segmenter | None = None
    ) -> SegmentationTask:
        """The task of a new run."""
        if len(train.classes) == 1:
            log.warning(
                "%s has a single class, '%s'. Every pixel is predicted as this class, and its IoU is 100 whatever the "
                "network learns. Add the other pixels as a class, such as background",
                root,
                train.classes[0],
            )
        crop = parse_size(config.image_size or scale_of(config.phi).size)
        size = parse_size(config.eval_size) if config.eval_size else crop
        model = model or create_segmenter(
            config.backbone,
            len(train.classes),
            config.decoder,
            config.phi,
            False if config.protocol == "scratch" else config.pretrained,
            train.classes,
            config.data.input_channels,
            config.stochastic_depth,
        )
        if config.protocol == "linear" and not model.decoder_is_trained:
            raise random_neck()
        provenance = model.backbone.provenance
        info = RunInfo(
            task=cls.name,
            dataset=describe_data(root, train, val),
            config=asdict(config),
            classes=list(train.classes),
            preprocessing={"mean": list(provenance.mean), "std": list(provenance.std), "size": list(size)}
            | values_of(train),
            provenance=provenance.as_dict(),
            extra={"neck": config.decoder, "phi": str(config.phi), "crop": list(crop)},
        )
        task = cls(model, config, info)
        task.evaluator = SegmentationEvaluator(info.classes, val.columns.ignored)
        return task

    def datasets(self, train: MaskDataset, val: MaskDataset) -> tuple[MaskDataset, MaskDataset]:
        """Add the transforms: random crops in training, whole images in validation."""
        from data.augment import augmentation  # here, since importing albumentations takes a second
        from segmentation.transforms import STRONG, segmentation_train

        config, crop, vflip = self.config, tuple(self.info.extra["crop"]), 0.5 if self.config.vflip else 0.0
        color = STRONG if self.channels is None else None
        recipe = segmentation_train(crop, config.jitter, self.fill, 0.5, vflip, config.max_share, color)
        augment = augmentation(config.data.augment, recipe, Letterbox(crop, self.fill), "masks", self.channels)
        return train.with_transform(augment), val.with_transform(self.transform())

    def automatic_weights(self, labels: csr_array) -> np.ndarray:
        return median_frequency_weights(labels)

    @classmethod
    def from_run(
        cls,
        info: RunInfo,
        state: dict[str, Tensor] | None,
        config: EvalConfig | PredictConfig,
        model: Segmenter | None = None,
    ) -> SegmentationTask:
        """The task of a finished run."""
        stored = TrainConfig.of(info.config)
        if model is not None:
            return cls(model, stored, info, config)
        model = create_segmenter(
            stored.backbone,
            len(info.classes),
            info.extra["neck"],
            info.extra["phi"],
            channels=stored.data.input_channels,
        )
        if state is not None:
            model.load_state_dict(state)
        return cls(model, stored, info, config)

    def score_on(self, dataset: MaskDataset) -> MaskDataset:
        """The data set with the model's class indices, and an evaluator for it."""
        dataset = dataset.with_classes(self.info.classes, "the model")
        self.evaluator = SegmentationEvaluator(self.info.classes, dataset.columns.ignored)
        return dataset

    # --- hooks of the base task

    def losses_of(self, outputs: Any, size: tuple[int, int], batch: Batch) -> dict[str, Tensor]:
        assert batch.masks is not None
        return self.criterion(outputs, batch.masks)

    def network_outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, K, h, w) before upsampling, see `Segmenter.coarse`."""
        return (self.model.coarse(images),)

    def run_by(self, network: Network) -> None:
        description = network.description
        if self.tta != TTA() and (description.postprocess or self.tta != TTA(flip=True)):
            raise UserError(
                "`scales`, `flip` and `slide` are not available with an exported file or another runtime, which has "
                "one input size; `flip` is, without post-processing in the file",
                settings=("scales", "flip", "slide"),
            )
        super().run_by(network)

    def loss_factors(self, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """The losses ce and focal are means over pixels."""
        found = [self.criterion.counts(part.masks) for part in parts]
        return {name: shares(distributed.total(torch.stack([counts[name] for counts in found]))) for name in found[0]}

    def predictions(self, images: Tensor, batch: Batch) -> list[Tensor]:
        return [found.labels for found in self._class_maps(images, batch, with_confidence=False)]

    def predictions_to_score(self, images: Tensor, batch: Batch) -> list[Tensor] | list[ClassMap]:
        if self.with_errors:
            return self._class_maps(images, batch, with_confidence=True)
        return self.predictions(images, batch)

    def _class_maps(self, images: Tensor, batch: Batch, with_confidence: bool) -> list[ClassMap]:
        if self.has_results:
            labels, confidence = self.computed(images)
            found = [ClassMap(*maps) for maps in zip(labels, confidence, strict=True)]
            return found if self.takes_photographs else in_original_pixels(found, batch.scales, batch.sizes)
        network = CoarseNetwork(lambda images: self.computed(images)[0], self.model.spec)
        return class_maps(network, images, batch.scales, batch.sizes, self.tta, with_confidence)

    def transform(self) -> ImageLetterbox:
        height, width = self.info.preprocessing["size"]
        return ImageLetterbox(self.tta.input_size((height, width)), self.fill)

    def final_layer(self) -> list[nn.Module]:
        return [self.model.head]

    def lr_factor(self, step: int, warmup: int, steps: int) -> float:
        if self.config.schedule == "cosine" or step < warmup:
            return super().lr_factor(step, warmup, steps)
        remaining = 1 - min(1.0, (step - warmup) / max(1, steps - warmup))
        return MIN_LR + (1 - MIN_LR) * remaining**POWER

    # --- results and pictures

    def write_results(self, folder: Path) -> None:
        """Write the scores of each class and image.

        `confusion.csv`: pixels by true class (rows) and predicted class (columns).
        `images.json`: worst and best images. `images.npy`: counts of each image, see
        `SegmentationEvaluator.write_images`.
        """
        super().write_results(folder)
        self.evaluator.write_images(folder / "images.npy")
        header = ",".join(f'"{name}"' for name in self.info.classes)
        np.savetxt(folder / "confusion.csv", self.evaluator.matrix(), "%d", ",", header=header, comments="")
        ends = {"worst": self.evaluator.worst, "best": self.evaluator.best}
        write_json(
            folder / "images.json",
            {end: [{"image_id": i, "mIoU": score} for score, i in images] for end, images in ends.items()},
        )

    def what_went_wrong(self) -> dict[str, dict[str, Any]]:
        """See `segmentation.errors`."""
        errors = self.evaluator.errors
        return {"errors.json": errors.document(), "calibration.json": errors.reliability.document()}

    def picture_indices(self, dataset: LabelledDataset, count: int) -> dict[str, int]:
        """The worst and best validation images of the last evaluation, and some that are the same for every run."""
        index = {int(image_id): i for i, image_id in enumerate(dataset.image_ids)}
        ends = {"worst": self.evaluator.worst, "best": self.evaluator.best}
        extremes = {
            f"{end}-{place}-{Path(dataset.path(index[image_id])).stem}": index[image_id]
            for end, images in ends.items()
            for place, (_, image_id) in enumerate(images[: 3 * count // 8], start=1)
        }
        return extremes | super().picture_indices(dataset, count - len(extremes))

    def result(self, image: np.ndarray, predictions: list[Tensor]) -> SegmentationResult:
        """The class map of one image."""
        return SegmentationResult(image, tuple(self.info.classes), predictions[0].cpu().numpy().astype(np.int64))

    def prediction_records(self, predictions: list[Tensor], image_id: int) -> list[dict[str, Any]]:
        """One record per class in the image, the largest first: number of pixels and share of the image in 0..1."""
        labels = predictions[0].cpu().numpy()
        counts = np.bincount(labels.ravel(), minlength=len(self.info.classes))
        return [
            {"class": self.info.classes[i], "index": int(i), "pixels": int(counts[i]), "share": counts[i] / labels.size}
            for i in np.argsort(-counts, kind="stable")
            if counts[i]
        ]

    def save(self, predictions: list[Tensor], path: Path) -> None:
        """Write `NAME.png`, a palette image whose pixel values are the class indices."""
        labels = predictions[0].cpu().numpy()
        palette_png(labels, palette_of(self.info.classes)).save(path.with_name(f"{path.name}.png"))

    def picture(
        self, image: np.ndarray, predictions: list[Tensor], truth: Sample | None = None, config: Any = None
    ) -> np.ndarray:
        """Draw truth and prediction over the image, next to each other, with a legend."""
        opacity = OPACITY if config is None else config.opacity
        maps = [predictions[0].cpu().numpy()]
        if truth is not None and truth.mask is not None:
            maps.insert(0, truth.mask)
        palette = palette_of(self.info.classes)
        overlays = [overlay(image, labels, palette, opacity) for labels in maps]
        labelled = [labels[labels != IGNORE] for labels in maps]
        return beside([*overlays, legend(labelled, self.info.classes, palette, overlays[0].shape[0])])
