"""Run a task's network on single images. `predict` and `load_run` share this code."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from data.batch import Sample, collate
from data.images import Levels
from engine.execution import execution_for
from engine.runtimes.files import ran_on
from engine.task import Task


class Predictor:
    """Runs a task's network on one image at a time, in evaluation mode and with batch norm folded.

    Args:
        task: a trained task. Its model is replaced by the folded copy, unless it has a runtime.
        device: device to run on.
        precision: "fp32", "bf16" or "fp16".
    """

    def __init__(self, task: Task, device: torch.device, precision: str = "fp32") -> None:
        self.execution = execution_for(device.type, precision, "predict")
        self.execution.begin()
        self.ran_on = ran_on(task.runtime, device, self.execution)
        self.task = task.eval()
        if task.runtime is None:
            self.task.model = self.execution.place(task.to(device).model)
        self.device = task.device
        self._transform = task.input_transform()
        # Stored values of 16-bit images that became 0 and 255 in training, or None.
        self.levels: Levels | None = task.info.preprocessing.get("levels")
        self.channels = task.channels  # of images that are not 8-bit RGB

    def prepare(self, image: np.ndarray, number: int = 0) -> Sample:
        """Convert an image to the network's input. Other threads may call this.

        Args:
            image: (H, W, 3) uint8 RGB, or (H, W, C) of `channels`.
            number: becomes the image id.
        """
        sample = Sample(
            image=image,
            image_id=number,
            size=(image.shape[0], image.shape[1]),
            scale=(1.0, 1.0),
            boxes=np.zeros((0, 4), np.float32),
            labels=np.zeros(0, np.int64),
        )
        return self._transform(sample, 0)

    @torch.inference_mode()
    def __call__(self, sample: Sample) -> Any:
        """The task's predictions for one prepared image, in pixels of the original image."""
        batch = collate([sample]).to(self.device)
        with self.execution.arithmetic(self.device.type) if self.task.runtime is None else nullcontext():
            return self.task.predictions(self.task.normalised(batch), batch)
