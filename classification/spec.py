"""The `TaskSpec` of classification. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classification.config import METRIC, METRICS, NAME, PRESETS, EvalConfig, PredictConfig, TrainConfig
from engine.error_files import calibration_row
from engine.spec import Benchmark, TaskSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from classification.graphs import ClassificationGraphs
    from classification.task import ClassificationTask
    from engine.image_results import ImageResults


def load_task() -> type[ClassificationTask]:
    """The task class."""
    from classification.task import ClassificationTask

    return ClassificationTask


def load_graphs() -> type[ClassificationGraphs]:
    """The class of the graphs that `export` writes."""
    from classification.graphs import ClassificationGraphs

    return ClassificationGraphs


def build_model(config: TrainConfig, num_classes: int) -> nn.Module:
    """The model for these training settings, with random weights."""
    from classification.build import create_classifier

    return create_classifier(config.backbone, num_classes, neck=config.neck, channels=config.data.input_channels)


def read_images(run: Path, record: dict[str, Any], metric: str) -> ImageResults:
    """The results of each image of a finished run, for one of the task's `image_metrics`."""
    from classification.results import classification_results

    return classification_results(run / "images.csv", metric)


def read_errors(run: Path, record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a finished run gets wrong, see `Task.what_went_wrong`."""
    from classification.stored import stored_errors

    return stored_errors(run, record)


def error_row(files: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The main values of `read_errors` by heading, fractions in 0..1."""
    return calibration_row(files)


def image_scores(run: Path) -> dict[str, float]:
    """The probability of the predicted class of each image, negative if that class is wrong, by name."""
    from classification.stored import signed_probabilities

    return signed_probabilities(run)


def draw_images(run: Path, record: dict[str, Any], keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Pictures of the truth and of the run's predictions, by key."""
    from classification.stored import draw_images

    return draw_images(run, record, keys)


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
    load_graphs=load_graphs,
    build_model=build_model,
    read_images=read_images,
    read_errors=read_errors,
    error_row=error_row,
    error_title="calibration error",
    image_scores=image_scores,
    draw_images=draw_images,
    sized_by_backbone=True,
)
