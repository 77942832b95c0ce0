"""The `TaskSpec` of segmentation. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.spec import Benchmark, TaskSpec
from segmentation.config import METRIC, METRICS, NAME, PRESETS, EvalConfig, PredictConfig, TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from engine.image_results import ImageResults
    from segmentation.task import SegmentationTask


def load_task() -> type[SegmentationTask]:
    """The task class."""
    from segmentation.task import SegmentationTask

    return SegmentationTask


def build_model(config: TrainConfig, num_classes: int) -> nn.Module:
    """The model for these training settings, with random weights."""
    from segmentation.model import create_segmenter

    return create_segmenter(config.backbone, num_classes, config.decoder, config.phi)


def read_images(run: Path, record: dict[str, Any], metric: str) -> ImageResults:
    """The results of each image of a finished run, for one of the task's metrics."""
    from segmentation.results import segmentation_results

    return segmentation_results(run / "images.npy", metric)


SPEC = TaskSpec(
    name=NAME,
    metric=METRIC,
    image_metrics=METRICS,
    train_config=TrainConfig,
    eval_config=EvalConfig,
    predict_config=PredictConfig,
    presets=PRESETS,
    benchmark=Benchmark("ADE20K", 150, ("wall", "flag")),
    load_task=load_task,
    build_model=build_model,
    read_images=read_images,
    averages_true_classes=True,
)
