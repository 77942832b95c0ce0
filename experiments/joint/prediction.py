"""Prediction of all heads of a joint network in one pass: results, records and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.batch import Batch, Sample, collate
from data.letterbox import Letterbox
from data.scan import evenly_spaced
from engine.task import Task
from experiments.joint.config import JointTrainConfig
from experiments.joint.network import MULTIPLE, JointNetwork
from experiments.joint.pictures import draw
from segmentation.model import Segmenter


class OnePass(Task):
    """Predicts with all heads in one pass. Predictions are those of the heads' tasks, by name of the head.

    Attributes:
        tasks: the task of each head.
    """

    config: JointTrainConfig
    model: JointNetwork
    tasks: dict[str, Task]

    def head(self, name: str) -> Task:
        """The task of a head, with the present network and trainer."""
        task = self.tasks[name]
        task.model, task.trainer = self.model.networks[name], self.trainer
        return task

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of `network_outputs`: HEAD_OUTPUT."""
        return tuple(f"{name}_{output}" for name, task in self.tasks.items() for output in task.outputs)

    def network_outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs of all heads, one after the other, as their tasks' `network_outputs`."""
        found: dict[str, tuple[Tensor, ...]] = {}
        for names in self.model.passes():
            pyramid = self.model.pyramid(images)
            for name in names:
                network: Any = self.model.networks[name]
                if isinstance(network, Segmenter):
                    found[name] = (network.coarse_outputs(pyramid),)
                else:
                    outputs = network.outputs(pyramid)
                    found[name] = outputs if isinstance(outputs, tuple) else (outputs,)
        return tuple(output for name in self.tasks for output in found[name])

    def predictions(self, images: Tensor, batch: Batch) -> dict[str, Any]:
        """The predictions of each head by name, in original pixels, from one pass."""
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % MULTIPLE, 0, -height % MULTIPLE))
        outputs = iter(self.computed(images))
        found = {}
        for name in self.tasks:
            task = self.head(name)
            own = tuple(next(outputs) for _ in task.outputs)
            task.runtime = _Computed(own)  # type: ignore[assignment]
            try:
                found[name] = task.predictions(images, batch)
            finally:
                task.runtime = None
        return found

    def transform(self) -> Letterbox:
        height, width = self.info.preprocessing["size"]
        return Letterbox((height, width), self.fill)

    def result(self, image: np.ndarray, predictions: Any) -> dict[str, Any]:
        """The result object of each head by name."""
        return {name: self.head(name).result(image, predictions[name]) for name in self.tasks}

    def prediction_records(self, predictions: Any, image_id: int) -> list[dict[str, Any]]:
        """The records of all heads, each with the name of its head."""
        return [
            {"head": name} | record
            for name in self.tasks
            for record in self.head(name).prediction_records(predictions[name], image_id)
        ]

    def picture(
        self, image: np.ndarray, predictions: Any, truth: Sample | None = None, config: Any = None
    ) -> np.ndarray:
        """Draw classes, boxes and class map of all heads in one picture."""
        return draw(image, self, predictions, config)

    def pictures(self, dataset: Any, count: int) -> Iterator[tuple[str, np.ndarray]]:
        """Pictures of evenly spaced validation images of the first head, with the predictions of all heads.

        Then those of each head as its task draws them, with the ground truth: NAME-KEY.
        """
        data = next(iter(dataset.by_head.values()))
        for index in evenly_spaced(len(data), count).tolist():
            plain = data.with_transform(None)[index].image
            empty = Sample(plain, index, plain.shape[:2], (1.0, 1.0), np.zeros((0, 4), np.float32), np.zeros(0, int))
            batch = collate([self.transform()(empty, 0)]).to(self.device)
            with torch.inference_mode():
                predictions = self.predictions(self.normalised(batch), batch)
            yield f"val-{index:05d}", self.picture(plain, predictions)
        for name, data in dataset.by_head.items():
            self.model.use_norms_of(name)
            yield from ((f"{name}-{key}", picture) for key, picture in self.head(name).pictures(data, count // 2))

    def save(self, predictions: Any, path: Path) -> None:
        """Write the further files of each head as `NAME-HEAD`."""
        for name in self.tasks:
            self.head(name).save(predictions[name], path.with_name(f"{path.name}-{name}"))


class _Computed:
    """Outputs that are computed already, in the place of a runtime."""

    class description:
        preprocess = postprocess = False

    def __init__(self, outputs: tuple[Tensor, ...]) -> None:
        self._outputs = outputs

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        return self._outputs
