"""The `TaskSpec` of detection. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detection.config import METRIC, METRICS, NAME, PRESETS, EvalConfig, PredictConfig, TrainConfig
from engine.error_files import calibration_row
from engine.spec import Benchmark, TaskSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from detection.graphs import DetectionGraphs
    from detection.task import DetectionTask
    from engine.image_results import ImageResults


def load_task() -> type[DetectionTask]:
    """The task class."""
    from detection.task import DetectionTask

    return DetectionTask


def load_graphs() -> type[DetectionGraphs]:
    """The class of the graphs that `export` writes."""
    from detection.graphs import DetectionGraphs

    return DetectionGraphs


def build_model(config: TrainConfig, num_classes: int) -> nn.Module:
    """The model for these training settings, with random weights."""
    from detection.model import create_detector

    return create_detector(
        config.backbone, num_classes, config.phi, config.neck, style=config.style, channels=config.data.input_channels
    )


def read_images(run: Path, record: dict[str, Any], metric: str) -> ImageResults:
    """The results of each image of a finished run, for one of the task's metrics."""
    from detection.results import read_image_results

    return read_image_results(run, record, metric)


def read_errors(run: Path, record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a finished run gets wrong, see `Task.what_went_wrong`."""
    from detection.stored import stored_errors

    return stored_errors(run, record)


def error_row(files: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The main values of `read_errors` by heading, fractions in 0..1."""
    errors = files.get("errors.json", {}).get("dAP", {})
    return {name.replace("_", " "): cost for name, cost in errors.items()} | calibration_row(files)


def draw_images(run: Path, record: dict[str, Any], keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Pictures of the truth and of the run's predictions, by key."""
    from detection.stored import draw_images

    return draw_images(run, record, keys)


SPEC = TaskSpec(
    name=NAME,
    metric=METRIC,
    image_metrics=METRICS,
    recipe=2,
    train_config=TrainConfig,
    eval_config=EvalConfig,
    predict_config=PredictConfig,
    presets=PRESETS,
    benchmark=Benchmark("COCO", 80, ("person", "toothbrush")),
    load_task=load_task,
    load_graphs=load_graphs,
    build_model=build_model,
    read_images=read_images,
    read_errors=read_errors,
    error_row=error_row,
    error_title="AP50 that each type of error costs, and calibration error",
    draw_images=draw_images,
)
