"""The classification task: data, model, losses, evaluation and pictures."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from backbones.errors import BadInput, UserError
from classification import classes as imagenet
from classification.build import create_classifier
from classification.config import METRIC, NAME, EvalConfig, PredictConfig, TrainConfig
from classification.draw import draw_confusion, draw_scores
from classification.errors import what_went_wrong
from classification.evaluator import TOP, AccuracyEvaluator
from classification.loss import ClassificationLoss
from classification.model import Classifier
from classification.prediction import ClassificationResult
from classification.transforms import EvalCrop, TrainCrop, preprocessing
from classification.weight_imprinting import imprint
from data.balance import class_balanced
from data.batch import Batch, Sample
from data.class_dataset import ClassDataset
from data.protocols import LabelledDataset
from data.reader import ImageReader
from data.sampling import draw_seed
from engine import distributed
from engine.checkpoint import RunInfo, describe_data, values_of
from engine.config import parse_size, random_neck
from engine.execution import device_of
from engine.micro_batches import shares
from engine.task import Task

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# The decay is in discrete steps, as in tensorflow/tpu models/official/efficientnet/utils.py.
DECAY, DECAY_EPOCHS = 0.97, 2.4


class ClassificationTask(Task):
    """Trains and evaluates classifiers.

    Args:
        model: the network.
        config: settings of the run.
        info: description of the run.
    """

    name: ClassVar[str] = NAME
    metric: ClassVar[str] = METRIC
    dataset_class: ClassVar[type[ImageReader]] = ClassDataset
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    headline: ClassVar[tuple[str, ...]] = ("top1", "top5", "balanced_accuracy", "precision", "F1")
    config: TrainConfig
    model: Classifier
    evaluator: AccuracyEvaluator
    dataset: ClassDataset  # the images that the evaluator scores

    def __init__(self, model: Classifier, config: TrainConfig, info: RunInfo) -> None:
        super().__init__(model, config, info)
        self.criterion = ClassificationLoss(len(info.classes), config.label_smoothing, config.mixup, config.cutmix)

    @classmethod
    def read(cls, config: TrainConfig, root: Path) -> tuple[ClassDataset, ClassDataset]:
        """Training and validation images. Raises BadInput if a class has no training image."""
        train, val = super().read(config, root)
        if train.report.empty_classes:
            empty = ", ".join(train.report.empty_classes[:5])
            raise BadInput(f"{train.folder} has no image of {empty}: add images, or remove the folder there and in val")
        return train, val

    @classmethod
    def build(
        cls, config: TrainConfig, root: Path, train: ClassDataset, val: ClassDataset, model: Classifier | None = None
    ) -> ClassificationTask:
        """The task of a new run. Its class layer may be initialised from the training images, see `imprint`.

        Raises BadInput for a single class, UserError for a linear probe on a neck without trained weights.
        """
        if train.channels is not None and config.augment != "none":
            raise UserError(
                f"`augment={config.augment}` is made for 8-bit RGB images: omit it with `channels` or `bands`",
                settings=("augment", "data.channels", "data.bands"),
            )
        if len(train.classes) == 1:
            raise BadInput(
                f"{train.folder} has a single class, '{train.classes[0]}'. A classifier needs at least two: add a "
                "folder with images of everything else"
            )
        model = model or cls._new_model(config, train)
        if config.protocol == "linear" and config.has_neck() and not model.neck_is_trained:
            raise random_neck()
        provenance = model.provenance
        info = RunInfo(
            task=cls.name,
            dataset=describe_data(root, train, val),
            config=asdict(config),
            classes=list(train.classes),
            preprocessing=preprocessing(config.backbone, provenance, config.image_size) | values_of(train),
            provenance=provenance.as_dict(),
            extra={"neck": config.neck},
        )
        task = cls(model, config, info)
        task.score_on(val)
        return task

    def datasets(self, train: ClassDataset, val: ClassDataset) -> tuple[ClassDataset, ClassDataset]:
        """Add the transforms: random crops in training, the published crop in validation."""
        from data.augment import augmentation  # here, since importing albumentations takes a second

        config, provenance = self.config, self.model.provenance
        recipe = TrainCrop(
            parse_size(config.image_size) if config.image_size else provenance.input_size,
            provenance.interpolation,
            config.min_crop,
            config.color if self.channels is None else 0.0,
            config.augment,
            self.fill,
            config.vflip,
        )
        augment = augmentation(config.data.augment, recipe, self.transform(), "classes", self.channels)
        return train.with_transform(augment), val.with_transform(self.transform())

    def draws_of(self, labels: csr_array) -> np.ndarray:
        return class_balanced(labels)

    @classmethod
    def _new_model(cls, config: TrainConfig, train: ClassDataset) -> Classifier:
        """The model to train. With `class_layer="published"`, its class layer is the published one or made from it."""
        pretrained = False if config.protocol == "scratch" else config.pretrained
        from timm.models import get_pretrained_cfg

        published = get_pretrained_cfg(config.backbone)
        imprints = pretrained is True and config.neck is None and config.class_layer == "published"
        outputs = published.num_classes if imprints and published is not None else len(train.classes)
        classes = None if imprints else train.classes
        model = create_classifier(
            config.backbone,
            outputs,
            pretrained,
            config.neck,
            config.stochastic_depth,
            classes,
            config.data.input_channels,
        )
        if imprints and train.classes != imagenet.synsets(outputs):
            settings = preprocessing(config.backbone, model.provenance, config.image_size) | values_of(train)
            imprint(model.to(device_of(config.device)), train, EvalCrop.of(settings), settings)
        return model

    @classmethod
    def from_run(
        cls,
        info: RunInfo,
        state: dict[str, Tensor] | None,
        config: EvalConfig | PredictConfig,
        model: Classifier | None = None,
    ) -> ClassificationTask:
        """The task of a finished run."""
        stored = TrainConfig.of(info.config)
        if model is not None:
            return cls(model, stored, info)
        channels = stored.data.input_channels
        model = create_classifier(stored.backbone, len(info.classes), neck=stored.neck, channels=channels)
        if state is not None:
            model.load_state_dict(state)
        return cls(model, stored, info)

    @classmethod
    def from_published(cls, file: Path, config: EvalConfig | PredictConfig) -> ClassificationTask:
        """The task for a published weight file of the network `config.backbone`. Raises BadInput without that name."""
        if config.backbone is None:
            raise BadInput(
                f"{file} is not a run of this package: name the network of these weights with `backbone`",
                settings=("backbone",),
            )
        return cls._from_weights(config.backbone, str(file))

    @classmethod
    def from_backbone(cls, name: str, config: EvalConfig | PredictConfig) -> ClassificationTask:
        """The task with a network's published weights, or with the weight file `config.pretrained`."""
        if config.pretrained is False:
            raise UserError(
                "`pretrained=False` means random weights, which cannot classify: omit it to use published weights",
                settings=("pretrained",),
            )
        return cls._from_weights(name, config.pretrained)

    @classmethod
    def _from_weights(cls, name: str, pretrained: bool | str) -> ClassificationTask:
        from timm.models import get_pretrained_cfg

        published = get_pretrained_cfg(name)
        outputs = published.num_classes if published is not None else 1000
        model = create_classifier(name, outputs, pretrained)
        config = TrainConfig(backbone=name, pretrained=pretrained)
        info = RunInfo(
            task=cls.name,
            dataset={"root": None, "published": "ImageNet"},
            config=asdict(config),
            classes=list(imagenet.names(outputs)),
            preprocessing=preprocessing(name, model.provenance),
            provenance=model.provenance.as_dict(),
            extra={"neck": None},
        )
        return cls(model, config, info)

    def score_on(self, dataset: ClassDataset) -> ClassDataset:
        """The data set, and an evaluator for it. Raises BadInput for a class that the model does not know.

        Data for a published network keep their classes, since ImageNet's classes have several names each.
        """
        total = len(self.info.classes)
        if self._is_published:
            dataset = dataset.with_names(imagenet.synsets(total))
            outputs = imagenet.match(dataset.classes, total)
        else:
            dataset = dataset.with_classes(self.info.classes, "the model")
            outputs = list(range(total))
        self.dataset = dataset
        self.evaluator = AccuracyEvaluator(dataset.classes, outputs, total)
        return dataset

    @property
    def _is_published(self) -> bool:
        return bool(self.info.dataset.get("published"))

    # --- hooks of the base task

    def mixed(self, images: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        """MixUp or CutMix. The labels become (B, K) class probabilities."""
        if not self.criterion.mixes:
            return images, batch
        seed = draw_seed(self.config.seed, self.global_step, int(distributed.whole_batch(batch.image_ids)[0]))
        images, probabilities = self.criterion.mix(images, batch.labels[:, 0], seed)
        return images, replace(batch, labels=probabilities)

    def losses_of(self, outputs: Any, size: tuple[int, int], batch: Batch) -> dict[str, Tensor]:
        return self.criterion(outputs, _targets(batch))

    def loss_factors(self, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """The loss is a mean, weighted with `class_weights`."""
        counts = torch.stack([self.criterion.count(_targets(part)) for part in parts])
        return {"cross_entropy": shares(distributed.total(counts))}

    def network_outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, K)."""
        return (self.model(images),)

    def predictions(self, images: Tensor, batch: Batch) -> Tensor:
        """Log-probabilities (B, K). Unlike probabilities, they cannot underflow to equal values."""
        (found,) = self.computed(images)
        return found.log() if self.has_results else found.float().log_softmax(1)

    def transform(self) -> EvalCrop:
        return EvalCrop.of(self.info.preprocessing)

    def final_layer(self) -> list[nn.Module]:
        return [self.model.head.classifier]  # type: ignore[list-item]

    def train(self, mode: bool = True) -> ClassificationTask:
        """Set training mode as in the base class. With the protocol "linear", the head stays in evaluation mode too."""
        super().train(mode)
        if self.config.protocol == "linear":
            self.model.eval()
        return self

    def lr_factor(self, step: int, warmup: int, steps: int) -> float:
        if self.config.schedule == "cosine" or step < warmup:
            return super().lr_factor(step, warmup, steps)
        return DECAY ** math.floor(step * self.config.epochs / steps / DECAY_EPOCHS)

    # --- results and pictures

    def write_results(self, folder: Path) -> None:
        """Write scores by class, `images.csv` with the prediction for each image, and `pictures/confusion.png`."""
        evaluator = self.evaluator
        super().write_results(folder)
        positions = {image_id: i for i, image_id in enumerate(self.dataset.image_ids.tolist())}
        with (folder / "images.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file", "class", "predicted", "probability", "correct"])
            for (image_id, label, best), probability in zip(
                evaluator.rows.tolist(), evaluator.probabilities, strict=True
            ):
                names = self.dataset.name(positions[image_id]), evaluator.classes[label], self.info.classes[best]
                table.writerow([*names, f"{probability:.4f}", int(best == evaluator.outputs[label])])
        pictures = folder / "pictures"
        pictures.mkdir(exist_ok=True)
        counts = evaluator.confusion[:, evaluator.outputs]
        if evaluator.total > len(evaluator.classes):
            counts = np.column_stack([counts, evaluator.confusion.sum(1) - counts.sum(1)])  # all other outputs
        draw_confusion(counts, imagenet.readable(evaluator.classes), pictures / "confusion.png")

    def what_went_wrong(self) -> dict[str, dict[str, Any]]:
        """See `classification.errors.what_went_wrong`."""
        evaluator, (labels, best) = self.evaluator, self.evaluator.rows[:, 1:].T
        truth, predicted = [evaluator.classes[i] for i in labels], [self.info.classes[i] for i in best]
        return what_went_wrong(truth, predicted, evaluator.probabilities, best == evaluator.outputs[labels])

    def picture_indices(self, dataset: LabelledDataset, count: int) -> dict[str, int]:
        """Up to half of the images are the mistakes with the highest probability. The others are evenly spaced."""
        rows, probabilities = self.evaluator.rows, self.evaluator.probabilities
        wrong = np.flatnonzero(rows[:, 2] != self.evaluator.outputs[rows[:, 1]])
        worst = rows[wrong[np.argsort(-probabilities[wrong], kind="stable")][: count // 2], 0]
        indices = np.searchsorted(dataset.image_ids, worst).tolist()
        return {f"mistake-{i:05d}": i for i in indices} | super().picture_indices(dataset, count - len(indices))

    def result(self, image: np.ndarray, predictions: Tensor) -> ClassificationResult:
        """The class probabilities of one image."""
        return ClassificationResult(image, tuple(self.info.classes), predictions[0].exp().cpu().numpy())

    def prediction_records(self, predictions: Tensor, image_id: int) -> list[dict[str, Any]]:
        """One record: the most probable class, its probability, and the list of the most probable classes."""
        top = zip(*self._top(predictions), strict=True)
        ranked = [{"class": name, "probability": round(probability, 5)} for name, probability in top]
        return [{"image_id": image_id, **ranked[0], "top": ranked}]

    def picture(
        self, image: np.ndarray, predictions: Tensor, truth: Sample | None = None, config: Any = None
    ) -> np.ndarray:
        names, probabilities = self._top(predictions)
        true_class = None if truth is None else imagenet.readable([self.dataset.classes[int(truth.labels[0])]])[0]
        return draw_scores(image, imagenet.readable(names), probabilities, true_class)

    def _top(self, predictions: Tensor) -> tuple[list[str], list[float]]:
        """Names and probabilities of the first image's most probable classes, the most probable first."""
        values, best = predictions[0].topk(min(TOP, len(self.info.classes)))
        return [self.info.classes[i] for i in best.tolist()], values.exp().tolist()


def _targets(batch: Batch) -> Tensor:
    """(B,) class indices, or (B, K) class probabilities of mixed images."""
    return batch.labels if batch.labels.is_floating_point() else batch.labels[:, 0]
