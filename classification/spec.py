"""The `TaskSpec` of classification. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from classification.config import METRIC, METRICS, NAME, PRESETS, EvalConfig, PredictConfig, TrainConfig
from engine.spec import Benchmark, TaskSpec

if TYPE_CHECKING:
    from torch import nn

    from classification.task import ClassificationTask
    from engine.image_results import ImageResults


def load_task() -> type[ClassificationTask]:
    """The task class."""
    from classification.task import ClassificationTask

    return ClassificationTask


def build_model(config: TrainConfig, num_classes: int) -> nn.Module:
    """The model for these training settings, with random weights."""
    from classification.model import create_classifier

    return create_classifier(config.backbone, num_classes, neck=config.neck)


def read_images(run: Path, record: dict[str, Any], metric: str) -> ImageResults:
    """The results of each image of a finished run, for one of the task's `image_metrics`."""
    from classification.results import classification_results

    return classification_results(run / "images.csv", metric)


SPEC = TaskSpec(
    name=NAME,
    metric=METRIC,
    image_metrics=tuple(name for name in METRICS if name != "top5"),  # images.csv has the most probable class only
    train_config=TrainConfig,
    eval_config=EvalConfig,
    predict_config=PredictConfig,
    presets=PRESETS,
    benchmark=Benchmark("ImageNet", 1000),
    load_task=load_task,
    build_model=build_model,
    read_images=read_images,
    sized_by_backbone=True,
)
