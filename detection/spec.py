"""The `TaskSpec` of detection. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from detection.config import METRIC, METRICS, NAME, PRESETS, EvalConfig, PredictConfig, TrainConfig
from engine.spec import Benchmark, TaskSpec

if TYPE_CHECKING:
    from torch import nn

    from detection.task import DetectionTask
    from engine.image_results import ImageResults


def load_task() -> type[DetectionTask]:
    """The task class."""
    from detection.task import DetectionTask

    return DetectionTask


def build_model(config: TrainConfig, num_classes: int) -> nn.Module:
    """The model for these training settings, with random weights."""
    from detection.model import create_detector

    return create_detector(config.backbone, num_classes, config.phi, config.neck, style=config.style)


def read_images(run: Path, record: dict[str, Any], metric: str) -> ImageResults:
    """The results of each image of a finished run, for one of the task's metrics."""
    from detection.results import read_image_results

    return read_image_results(run, record, metric)


SPEC = TaskSpec(
    name=NAME,
    metric=METRIC,
    image_metrics=METRICS,
    train_config=TrainConfig,
    eval_config=EvalConfig,
    predict_config=PredictConfig,
    presets=PRESETS,
    benchmark=Benchmark("COCO", 80, ("person", "toothbrush")),
    load_task=load_task,
    build_model=build_model,
    read_images=read_images,
)
