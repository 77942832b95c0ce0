"""The `TaskSpec` of segmentation. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.error_files import calibration_row
from engine.spec import Benchmark, TaskSpec
from segmentation.config import METRIC, METRICS, NAME, PRESETS, EvalConfig, PredictConfig, TrainConfig

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from engine.image_results import ImageResults
    from segmentation.graphs import SegmentationGraphs
    from segmentation.task import SegmentationTask


def load_task() -> type[SegmentationTask]:
    """The task class."""
    from segmentation.task import SegmentationTask

    return SegmentationTask


def load_graphs() -> type[SegmentationGraphs]:
    """The class of the graphs that `export` writes."""
    from segmentation.graphs import SegmentationGraphs

    return SegmentationGraphs


def build_model(config: TrainConfig, num_classes: int) -> nn.Module:
    """The model for these training settings, with random weights."""
    from segmentation.model import create_segmenter

    return create_segmenter(
        config.backbone, num_classes, config.decoder, config.phi, channels=config.data.input_channels
    )


def read_images(run: Path, record: dict[str, Any], metric: str) -> ImageResults:
    """The results of each image of a finished run, for one of the task's metrics."""
    from segmentation.results import segmentation_results

    return segmentation_results(run / "images.npy", metric)


def read_errors(run: Path, record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a finished run gets wrong, see `Task.what_went_wrong`. Runs of earlier versions have no such files."""
    from engine.error_files import read_errors

    return read_errors(run)


def error_row(files: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The main values of `read_errors` by heading, fractions in 0..1."""
    from segmentation.errors import main_values

    return (main_values(files["errors.json"]) if "errors.json" in files else {}) | calibration_row(files)


def draw_images(run: Path, record: dict[str, Any], keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Pictures of the truth and of the run's predictions, by key."""
    from segmentation.stored import draw_images

    return draw_images(run, record, keys)


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
    load_graphs=load_graphs,
    build_model=build_model,
    read_images=read_images,
    read_errors=read_errors,
    error_row=error_row,
    error_title="boundaries, regions and calibration error",
    draw_images=draw_images,
    averages_true_classes=True,
    recipe=2,
)
