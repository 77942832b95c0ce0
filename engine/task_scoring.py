"""How a task is scored: batches to the evaluator, the scores of all processes, and result files."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from backbones.errors import BadInput
from data.batch import Batch
from engine import distributed
from engine.execution import execution_for
from engine.memory import release_freed_memory
from engine.record import write_class_table, write_json
from engine.system_errors import out_of_memory
from engine.task_base import TaskBase

log = logging.getLogger(__name__)


class TaskScoring(TaskBase):
    """The evaluation of a task."""

    def score(self, batch: Batch) -> None:
        """Predict a batch and pass the predictions to the evaluator.

        If memory is too small, halve the number of images that are predicted at once, until they fit.
        """
        assert self.evaluator is not None
        while len(batch):
            part = batch[: self._max_images] if self._max_images else batch
            try:
                predictions = self.predictions_to_score(self.normalised(part), part)
            except (RuntimeError, MemoryError) as error:
                if len(part) == 1 or not out_of_memory(error):
                    raise
                predictions = None
            # Outside the except clause, where the traceback would keep the failed attempt's tensors alive.
            if predictions is None:
                self._max_images = len(part) // 2
                log.warning("out of memory with %d images at a time: continuing with %d", len(part), self._max_images)
                release_freed_memory()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            self.evaluator.update(predictions, part)
            batch = batch[len(part) :]

    @torch.inference_mode()
    def evaluate(self, loader: Iterable[Batch], precision: str = "fp32") -> dict[str, float]:
        """Score all batches of `loader` in `precision`: "fp32", "bf16" or "fp16". Returns the scores by metric."""
        self.eval()
        self.begin_scoring(with_errors=True)
        with execution_for(self.device.type, precision, "eval").arithmetic(self.device.type):
            for batch in loader:
                self.score(batch.to(self.device))
        self._compute_scores()
        return self.scores

    def on_validation_epoch_start(self) -> None:
        self.begin_scoring(self.current_epoch + 1 == self.config.epochs or self.config.patience > 0)

    def begin_scoring(self, with_errors: bool) -> None:
        """Discard all predictions. `with_errors`: whether this evaluation can be the last, whose errors are stored."""
        assert self.evaluator is not None
        self.with_errors = with_errors
        self.evaluator.reset()

    def on_validation_epoch_end(self) -> None:
        self._compute_scores()

    def _compute_scores(self) -> None:
        """Set `scores`. The first of several processes collects the predictions of all of them."""
        assert self.evaluator is not None
        if distributed.world() == 1:
            self.scores = self.evaluator.compute()
            return
        states = distributed.in_first(self.evaluator.state())
        error = None
        if states:
            self.evaluator.merge(states)
            try:
                self.scores = self.evaluator.compute()
            except BadInput as found:  # the others must not wait for scores
                error = found
        self.scores, error = distributed.from_first((getattr(self, "scores", {}), error))
        if error is not None:
            raise error

    def per_class(self) -> dict[str, float]:
        """The headline metric of each class in the last evaluation, in 0..1."""
        return self.evaluator.per_class

    def class_table(self) -> dict[str, dict[str, float]]:
        """Scores of each class in the last evaluation, in 0..1, and its number of labels, an integer."""
        return self.evaluator.class_table()

    def write_results(self, folder: Path) -> None:
        """Write the results of the last evaluation for each class and each image.

        `per_class.json` has the headline metric of each class, `per_class.csv` the table of `class_table`.
        """
        write_json(folder / "per_class.json", self.per_class())
        write_class_table(folder / "per_class.csv", self.class_table())

    def write_record(self, folder: Path, record: dict[str, Any]) -> None:
        """Write `record.json`, when everything else of a run is written."""
        write_json(folder / "record.json", record)

    def what_went_wrong(self) -> dict[str, dict[str, Any]]:
        """The content of the result files on the errors of the last evaluation, by file name.

        `calibration.json` is `Reliability.document`. `errors.json` differs by task.
        """
        return {}
