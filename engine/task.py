"""The base class of all tasks.

A task implements how its model is built, its losses, its predictions, and how predictions are drawn and stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from backbones.errors import BadInput, UserError
from data.balance import effective_number_weights, repeat_factors, scaled
from data.batch import Sample, collate
from data.channels import Channels
from data.checks import left_out_files
from data.findings import warn_or_raise
from data.loader import eval_loader, train_loader
from data.open import read_scored, read_split
from data.protocols import LabelledDataset
from data.reader import ImageReader
from data.scan import evenly_spaced
from engine.checkpoint import RunInfo
from engine.config import EvalData
from engine.data_changes import data_changes
from engine.setting_files import in_order
from engine.task_scoring import TaskScoring
from engine.task_training import TaskTraining

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class Task(TaskTraining, TaskScoring):
    """A model with its losses and its evaluator, see `TaskBase`."""

    @classmethod
    def prepare(cls, config: Any, root: Path) -> tuple[Task, LabelledDataset, LabelledDataset]:
        """The task of a new run, and the training and validation images in the folder `root`.

        There are four steps. Each needs the results of earlier ones: `read` finds files, labels and classes; `build`
        creates the model, which needs the classes; `balance` computes what depends on the counts of labels; `datasets`
        adds the transforms, which need the normalisation of the model's weights.
        """
        config = config.with_files()
        train, val = cls.read(config, root)
        task = cls.build(config, root, train, val)
        task.balance(train)
        return task, *task.datasets(train, val)

    @classmethod
    def read(cls, config: Any, root: Path) -> tuple[Any, Any]:
        """Training images and images to score, without transforms, see `ImageReader.open_train_val`."""
        return cls.dataset_class.open_train_val(root, config.data, config.seed)

    @classmethod
    def build(cls, config: Any, root: Path, train: Any, val: Any, model: Any = None) -> Task:
        """The task of a new run, for the data that `read` returned. `model`: the network; by default a new one."""
        raise NotImplementedError

    def datasets(self, train: Any, val: Any) -> tuple[LabelledDataset, LabelledDataset]:
        """The data that `read` returned, with the transforms for training and evaluation."""
        raise NotImplementedError

    @classmethod
    def from_run(cls, info: RunInfo, state: dict[str, Tensor] | None, config: Any, model: Any = None) -> Task:
        """The task of a finished run.

        Args:
            info: description of the run, from its checkpoint.
            state: weights of the model, from its checkpoint. None to leave the model as it is built, for a task whose
                outputs a `runtime` computes.
            config: settings of `eval` or `predict`.
            model: the network, if it is built already; then `state` is not used.
        """
        raise NotImplementedError

    @classmethod
    def from_published(cls, file: Path, config: Any) -> Task:
        """The task for a weight file in a published format. Raises BadInput for any other file."""
        raise BadInput(f"{file} is not a checkpoint of this package")

    @classmethod
    def from_backbone(cls, name: str, config: Any) -> Task:
        """The task with a network's published weights. Raises UserError if a task has no published weights by name."""
        raise UserError(
            f"there are no published {cls.name} weights by name: pass a weight file as `checkpoint`",
            settings=("checkpoint",),
        )

    def eval_dataset(self, root: Path, data: EvalData) -> LabelledDataset:
        """The images that `data` selects in `root`, with the transform. Also sets `self.evaluator` for them.

        Without a split, they are the images that the training was scored on if `root` is the root of the training, else
        the validation split. Settings of reading that `data` does not have are those of the training.

        Raises BadInput if the data cannot be read or have a class that the model does not know.
        """
        stored, kind = self.config.data, self.dataset_class
        trained_on = self.info.dataset.get("root")
        same = trained_on is not None and root.resolve() == Path(trained_on).resolve()
        options = kind.options.of(data).over(kind.options.of(stored), same)
        levels, channels = self.info.preprocessing.get("levels"), Channels.to_score(self.info.preprocessing, options)
        if data.split is None and same:
            columns = read_scored(kind.kind, root, options, stored.holdout, self.config.seed)
        else:
            columns = read_split(kind.kind, root, data.split or "val", options, data.split is not None)
        warn_or_raise(left_out_files(columns))
        dataset = kind(columns, self.input_transform(), data.skip_bad, options, tuple(levels) if levels else None)
        dataset.channels = channels
        dataset.check_headers()
        dataset.check_scored()
        return self.score_on(dataset)

    def balance(self, train: ImageReader) -> None:
        """Compute the class weights and the expected draws of the images that `read` returned, if they are set.

        Raises BadInput if the setting `class_weights` does not have exactly the classes of the data.
        """
        weights = self.config.class_weights
        if weights == "none" and not self.config.data.balance:
            return
        labels = train.label_counts()
        if weights != "none":
            classes = self.info.classes
            listed = None if isinstance(weights, str) else np.array(in_order(weights, classes), np.float64)
            by_class = scaled(self.automatic_weights(labels) if listed is None else listed, labels)
            self.criterion.class_weights = torch.from_numpy(by_class).float()
            self.info.extra["class_weights"] = dict(zip(classes, by_class.tolist(), strict=True))
        if self.config.data.balance:
            self.expected_draws = self.draws_of(labels)

    def automatic_weights(self, labels: csr_array) -> np.ndarray:
        """(K,) class weights for `class_weights="auto"`, from the label counts, of any scale."""
        return effective_number_weights(labels)

    def draws_of(self, labels: csr_array) -> np.ndarray:
        """(N,) expected number of draws of each image in an epoch with `data.balance`, from the label counts."""
        return repeat_factors(labels)

    def loaders(self, train: Any, val: Any, workers: int, rank: int, world: int) -> tuple[Any, Any]:
        """The batches for training and evaluation of process `rank` of `world`."""
        config = self.config
        return (
            train_loader(train, config.batch_size, config.seed, workers, True, self.expected_draws, rank, world),
            eval_loader(val, config.batch_size, workers, rank, world),
        )

    def data_changes(self, stored: RunInfo) -> list[str]:
        """What differs between this task's data and those of a stored run, in words."""
        return data_changes(stored, self.info)

    def take_over(self, stored: RunInfo) -> None:
        """Take from a stored run, which is resumed, what this task cannot know: the origin of its initial weights."""
        self.info.provenance = stored.provenance

    def result(self, image: np.ndarray, predictions: Any) -> Any:
        """The predictions for one image, (H, W, 3) uint8 RGB, as a result object for use in Python."""
        raise NotImplementedError

    def prediction_records(self, predictions: Any, image_id: int) -> list[dict[str, Any]]:
        """The predictions for one image as plain values, for `predictions.json`."""
        raise NotImplementedError

    def picture(
        self, image: np.ndarray, predictions: Any, truth: Sample | None = None, config: Any = None
    ) -> np.ndarray:
        """Draw the predictions on one image, next to the ground truth if there is one. Returns (H, W, 3) uint8 RGB."""
        raise NotImplementedError

    def picture_indices(self, dataset: LabelledDataset, count: int) -> dict[str, int]:
        """File name -> index, for `count` validation images to draw after training. By default evenly spaced."""
        return {f"val-{index:05d}": index for index in evenly_spaced(len(dataset), count).tolist()}

    def pictures(self, dataset: LabelledDataset, count: int) -> Iterator[tuple[str, np.ndarray]]:
        """File name and picture (H, W, 3) uint8 RGB of validation images: ground truth and prediction, after training.

        The model is in evaluation mode.
        """
        for name, index in self.picture_indices(dataset, count).items():
            sample = dataset.with_transform(None)[index]
            batch = collate([dataset[index]]).to(self.device)
            with torch.inference_mode():
                predictions = self.predictions(self.normalised(batch), batch)
            yield name, self.picture(sample.image, predictions, truth=sample)

    def save(self, predictions: Any, path: Path) -> None:
        """Write further files that `predict` saves for one image. `path` has no suffix. By default none."""
