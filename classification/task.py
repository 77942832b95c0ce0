"""Classification as a task: what is read, built, minimised, scored and drawn."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.errors import BadInput, UserError
from classification import classes as imagenet
from classification.config import METRIC, NAME, EvalConfig, PredictConfig, TrainConfig
from classification.draw import draw_confusion, draw_scores
from classification.evaluator import TOP, AccuracyEvaluator
from classification.loss import ClassificationLoss
from classification.model import Classifier, create_classifier
from classification.prediction import ClassificationResult
from classification.transforms import EvalCrop, TrainCrop, preprocessing
from classification.weight_imprinting import imprint
from data.batch import Batch, Sample
from data.formats.folders import ClassFolders
from data.loader import draw_seed
from data.reader import LabelledDataset
from engine.checkpoint import RunInfo, describe_data
from engine.config import parse_size
from engine.record import write_json
from engine.task import Task
from engine.trainer import device_of

DECAY, DECAY_EPOCHS = 0.97, 2.4  # tensorflow/tpu models/official/efficientnet/utils.py, in steps, not a smooth fall
PARTS = 8  # learning rates between a backbone's first and last layer


class ClassificationTask(Task):
    """Training and scoring of classifiers."""

    name: ClassVar[str] = NAME
    monitor: ClassVar[str] = METRIC
    headline: ClassVar[tuple[str, ...]] = ("top1", "top5")
    config: TrainConfig
    model: Classifier
    evaluator: AccuracyEvaluator
    dataset: ClassFolders  # what the evaluator scores

    def __init__(self, model: Classifier, config: TrainConfig, info: RunInfo) -> None:
        super().__init__(model, config, info)
        self.criterion = ClassificationLoss(len(info.classes), config.label_smoothing, config.mixup, config.cutmix)

    @classmethod
    def read(cls, config: TrainConfig, root: Path) -> tuple[ClassFolders, ClassFolders]:
        """Training and validation images. Raises BadInput where their classes differ."""
        data, (split, part) = config.data, config.data.scored_on()
        train = ClassFolders(root, "train", None, data.trained_on(), config.seed, data.skip_bad)
        val = ClassFolders(root, split, None, part, config.seed, data.skip_bad, known=train.classes)
        _check_classes(train, val)
        return train, val

    @classmethod
    def build(cls, config: TrainConfig, root: Path, train: ClassFolders, val: ClassFolders) -> ClassificationTask:
        """The task of a new run. Its class layer may start from the training images, see `imprint`."""
        model = cls._new_model(config, train)
        if config.freeze_stride and not isinstance(model.backbone, Backbone):
            raise UserError(
                f"--freeze_stride {config.freeze_stride} needs to know where '{config.backbone}' has its maps: use it "
                "with --neck bifpn, or with an EfficientNet"
            )
        provenance = model.provenance
        info = RunInfo(
            task=cls.name,
            dataset=describe_data(root, train, val),
            config=asdict(config),
            classes=list(train.classes),
            preprocessing=preprocessing(config.backbone, provenance, config.image_size),
            provenance=provenance.as_dict(),
            extra={"neck": config.neck},
        )
        task = cls(model, config, info)
        task._score_on(val)
        return task

    def datasets(self, train: ClassFolders, val: ClassFolders) -> tuple[ClassFolders, ClassFolders]:
        """Random crops in training, the published crop in validation."""
        config, provenance = self.config, self.model.provenance
        augment = TrainCrop(
            parse_size(config.image_size) if config.image_size else provenance.input_size,
            provenance.interpolation,
            config.min_crop,
            config.color,
            config.augment,
            self.fill,
            config.vflip,
        )
        return train.with_transform(augment), val.with_transform(self.transform())

    @classmethod
    def _new_model(cls, config: TrainConfig, train: ClassFolders) -> Classifier:
        """The network to train; its class layer is the published one's, or made from it, where there is one."""
        pretrained = False if config.protocol == "scratch" else config.pretrained
        published = get_pretrained_cfg(config.backbone)
        reads_off = pretrained is True and config.neck is None and config.class_layer == "published"
        outputs = published.num_classes if reads_off and published is not None else len(train.classes)
        model = create_classifier(config.backbone, outputs, pretrained, config.neck, config.stochastic_depth)
        if reads_off and train.classes != imagenet.synsets(outputs):
            settings = preprocessing(config.backbone, model.provenance, config.image_size)
            imprint(model.to(device_of(config.device)), train, EvalCrop.of(settings), settings)
        return model

    @classmethod
    def restore(cls, info: RunInfo, state: dict[str, Tensor], config: EvalConfig | PredictConfig) -> ClassificationTask:
        """The task of a finished run."""
        stored = TrainConfig.of(info.config)
        model = create_classifier(stored.backbone, len(info.classes), neck=stored.neck)
        model.load_state_dict(state)
        return cls(model, stored, info)

    @classmethod
    def published(cls, file: Path, config: EvalConfig | PredictConfig) -> ClassificationTask:
        """The task of a published weight file, whose network `--backbone` has to name."""
        if config.backbone is None:
            raise BadInput(f"{file} is not a run of this suite: say which network's weights it holds with --backbone")
        return cls._of_weights(config.backbone, str(file))

    @classmethod
    def of_backbone(cls, name: str, config: EvalConfig | PredictConfig) -> ClassificationTask:
        """The task of a network's published weights."""
        if config.pretrained is False:
            raise UserError("--pretrained false: random weights have nothing to score; leave it out for published ones")
        return cls._of_weights(name, config.pretrained)

    @classmethod
    def _of_weights(cls, name: str, pretrained: bool | str) -> ClassificationTask:
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

    def eval_dataset(self, root: Path, split: str, skip_bad: int) -> ClassFolders:
        """The images of `split`; sets this task's evaluator to score them."""
        known = imagenet.synsets(len(self.info.classes)) if self._is_published else self.info.classes
        dataset = ClassFolders(root, split, self.transform(), skip_bad=skip_bad, known=known)
        self._score_on(dataset)
        return dataset

    def _score_on(self, dataset: ClassFolders) -> None:
        """Score on these images. Raises BadInput where the model does not know one of their classes."""
        if self._is_published:
            outputs = imagenet.match(dataset.classes, len(self.info.classes))
        else:
            place = {name: i for i, name in enumerate(self.info.classes)}
            unknown = [name for name in dataset.classes if name not in place]
            if unknown:
                raise BadInput(
                    f"the model was not trained on {len(unknown)} of the classes of {dataset.folder}, such as "
                    f"{', '.join(unknown[:3])}; it knows {', '.join(self.info.classes[:5])}"
                    + (", ..." if len(self.info.classes) > 5 else "")
                )
            outputs = [place[name] for name in dataset.classes]
        self.dataset = dataset
        self.evaluator = AccuracyEvaluator(dataset.classes, outputs, len(self.info.classes))

    @property
    def _is_published(self) -> bool:
        return bool(self.info.dataset.get("published"))

    # --- hooks of the base task

    def losses(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        seed = draw_seed(self.config.seed, self.global_step, int(batch.image_ids[0]))
        images, targets = self.criterion.mix(images, batch.labels[:, 0], seed)
        return self.criterion(self.model(images), targets)

    def predictions(self, images: Tensor, batch: Batch) -> Tensor:
        """(B, K) logarithms of probabilities: unlike these, they never underflow to a tie."""
        return self.model(images).float().log_softmax(1)

    def transform(self) -> EvalCrop:
        return EvalCrop.of(self.info.preprocessing)

    def final_layer(self) -> list[nn.Module]:
        return [self.model.head.classifier]  # type: ignore[list-item]

    def train(self, mode: bool = True) -> ClassificationTask:
        """As the base task; below a linear layer that is trained alone, the head lies still as well."""
        super().train(mode)
        if self.config.protocol == "linear":
            self.model.eval()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = super().parameter_groups()
        factor = self.config.first_layer_lr
        return groups if factor == 1 else list(by_depth(groups, list(self.model.backbone.parameters()), factor))

    def lr_factor(self, step: int, warmup: int, steps: int) -> float:
        if self.config.schedule == "cosine" or step < warmup:
            return super().lr_factor(step, warmup, steps)
        return DECAY ** math.floor(step * self.config.epochs / steps / DECAY_EPOCHS)

    # --- what a person looks at

    def per_class(self) -> dict[str, float]:
        """Top-1 of each class in the last evaluation."""
        return self.evaluator.per_class

    def write_results(self, folder: Path) -> None:
        """`per_class.json`, `images.csv` with each image's class and prediction, and `pictures/confusion.png`."""
        scored = self.evaluator
        write_json(folder / "per_class.json", self.per_class())
        place = {image_id: i for i, image_id in enumerate(self.dataset.image_ids.tolist())}
        with (folder / "images.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file", "class", "predicted", "probability", "correct"])
            for (image_id, label, best), share in zip(scored.rows.tolist(), scored.probabilities, strict=True):
                names = self.dataset.name(place[image_id]), scored.classes[label], self.info.classes[best]
                table.writerow([*names, f"{share:.4f}", int(best == scored.outputs[label])])
        pictures = folder / "pictures"
        pictures.mkdir(exist_ok=True)
        of_classes = scored.confusion[:, scored.outputs]
        others = scored.confusion.sum(1) - of_classes.sum(1)
        shown = np.column_stack([of_classes, others]) if scored.total > len(scored.classes) else of_classes
        draw_confusion(shown, imagenet.readable(scored.classes), pictures / "confusion.png")

    def pictured(self, dataset: LabelledDataset, count: int) -> dict[str, int]:
        """Up to half of them the surest mistakes, the others evenly spaced."""
        rows, shares = self.evaluator.rows, self.evaluator.probabilities
        wrong = np.flatnonzero(rows[:, 2] != self.evaluator.outputs[rows[:, 1]])
        worst = rows[wrong[np.argsort(-shares[wrong], kind="stable")][: count // 2], 0]
        indices = np.searchsorted(dataset.image_ids, worst).tolist()
        return {f"mistake-{i:05d}": i for i in indices} | super().pictured(dataset, count - len(indices))

    def result(self, image: np.ndarray, predictions: Tensor) -> ClassificationResult:
        """The class probabilities of one image."""
        return ClassificationResult(image, tuple(self.info.classes), predictions[0].exp().cpu().numpy())

    def records(self, predictions: Tensor, image_id: int) -> list[dict[str, Any]]:
        """One record: the likeliest class, its probability, and the runners-up."""
        names, shares = self._likeliest(predictions)
        ranked = [{"class": name, "probability": round(share, 5)} for name, share in zip(names, shares, strict=True)]
        return [{"image_id": image_id, **ranked[0], "top": ranked}]

    def picture(
        self, image: np.ndarray, predictions: Tensor, truth: Sample | None = None, config: Any = None
    ) -> np.ndarray:
        names, shares = self._likeliest(predictions)
        right = None if truth is None else imagenet.readable([self.dataset.classes[int(truth.labels[0])]])[0]
        return draw_scores(image, imagenet.readable(names), shares, right)

    def _likeliest(self, predictions: Tensor) -> tuple[list[str], list[float]]:
        """Names and probabilities of the first image's likeliest classes, best first."""
        values, best = predictions[0].topk(min(TOP, len(self.info.classes)))
        return [self.info.classes[i] for i in best.tolist()], values.exp().tolist()


def _check_classes(train: ClassFolders, val: ClassFolders) -> None:
    """Raise BadInput where training and validation do not have the same classes, or training lacks images of one."""
    if differing := sorted(set(train.classes) ^ set(val.classes)):
        where = train.folder if differing[0] in train.classes else val.folder
        raise BadInput(
            f"{train.folder} and {val.folder} do not have the same classes: {', '.join(differing[:5])} "
            f"{'is' if len(differing) == 1 else 'are'} in only one of them ({differing[0]} in {where})"
        )
    if train.report.empty_classes:
        empty = ", ".join(train.report.empty_classes[:5])
        raise BadInput(f"{train.folder} has no image of {empty}: add some, or remove the folder there and in val")


def by_depth(groups: list[dict[str, Any]], layers: list[nn.Parameter], first: float) -> Iterator[dict[str, Any]]:
    """Split groups so that learning rates fall towards the input, geometrically and in eight parts.

    Place counts, not number of layers: networks of any depth get the same rates at stem and last layer.

    Args:
        groups: of an optimiser; those whose parameters are none of `layers` stay as they are.
        layers: parameters from input to output.
        first: factor for the first part; the last one's is 1.
    """
    part = {id(p): i * PARTS // len(layers) for i, p in enumerate(layers)}
    for group in groups:
        for step in [None, *range(PARTS)]:
            chosen = [p for p in group["params"] if part.get(id(p)) == step]
            factor = 1.0 if step is None else first ** (1 - step / (PARTS - 1))
            if chosen:
                yield group | {"params": chosen, "lr": group["lr"] * factor}
