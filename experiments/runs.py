"""Finished runs, for use in Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from backbones.errors import BadInput
from data.images import read_image
from engine.checkpoint import RunInfo, read_run
from engine.predictor import Predictor
from engine.task import Task
from experiments.tasks import TASKS

if TYPE_CHECKING:
    from classification.prediction import ClassificationResult
    from detection.prediction import DetectionResult
    from segmentation.prediction import SegmentationResult

    Result = DetectionResult | SegmentationResult | ClassificationResult

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray


class Run:
    """A trained model, and what it takes to use it.

    Attributes:
        model: in evaluation mode, with the weights that the run was scored with.
        classes: names by index.
        preprocessing: `mean` and `std` by channel, of RGB in 0..1, `size` as (height, width), and what else the task's
            transform needs.
        info: all that the checkpoint says of the run.
    """

    def __init__(self, info: RunInfo, load: Any) -> None:
        self.info = info
        self.classes: tuple[str, ...] = tuple(info.classes)
        self.preprocessing = info.preprocessing
        self._load = load
        self.model: nn.Module = load().model.eval()

    def __repr__(self) -> str:
        backbone, data = self.info.config["backbone"], self.info.dataset.get("root")
        return f"{self.info.task} run: {backbone}, {len(self.classes)} classes, trained on {data or 'the demo scenes'}"

    def predict(self, images: ImageLike | Sequence[ImageLike]) -> Result | list[Result]:
        """What the model finds in an image, or in each of several, in pixels of the original image.

        Args:
            images: a path, a PIL image, or an array (H, W, 3) or (H, W), uint8, RGB or gray; or a sequence of them.
                Files are read in the orientation in which they are stored.

        Returns a `DetectionResult`, `SegmentationResult` or `ClassificationResult`, each with `plot()`; a list of them
        for a sequence. Runs on the CPU.

        Raises BadInput naming the file for one that cannot be read, TypeError for what is no image.
        """
        if isinstance(images, (str, os.PathLike, Image.Image, np.ndarray)):
            return self._predict(images)
        return [self._predict(image) for image in images]

    def _predict(self, source: ImageLike) -> Result:
        image = as_array(source)
        return self._predictor.task.result(image, self._predictor(self._predictor.prepare(image)))

    @cached_property
    def _predictor(self) -> Predictor:
        task: Task = self._load()  # of its own, since prediction replaces the model by a folded copy
        return Predictor(task, torch.device("cpu"))


def load_run(path: str | Path) -> Run:
    """The run at `path`, a run folder or a checkpoint file. Raises BadInput where there is none that can be read."""
    info, state = read_run(path)
    if info.task not in TASKS:
        raise BadInput(f"{path} holds a run of an unknown task, '{info.task}'")
    spec = TASKS[info.task]
    return Run(info, lambda: spec.load_task().restore(info, state, spec.predict_config()))


def as_array(image: ImageLike) -> np.ndarray:
    """An image from a file, from PIL, or as an array -> (H, W, 3) uint8 RGB.

    Raises BadInput naming the file for one that cannot be read, TypeError for what is no image.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"))
    if not isinstance(image, np.ndarray):
        raise TypeError(f"an image is a path, a PIL image or an array, not {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise TypeError(f"an array is (H, W, 3) or (H, W) uint8, not {image.shape} {image.dtype}")
    return np.ascontiguousarray(image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2))
