"""The losses and scores of a run. Checkpoints contain them, so a resumed run writes complete files."""

from __future__ import annotations

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from engine import distributed
from engine.record import write_text


class History(Callback):
    """Records mean losses and scores of each epoch, and the training time.

    After each epoch it rewrites `metrics.csv`, which has one row per epoch, counted from 0.

    Args:
        folder: the run folder.
        monitor: name of the metric that selects the best epoch.
    """

    def __init__(self, folder: Path, monitor: str) -> None:
        self.folder, self.monitor = folder, monitor
        self.rows: list[dict[str, float]] = []
        self._sums: dict[str, Tensor | float] = {}
        self._batches = 0
        self._scores: dict[str, float] = {}
        self._seconds = 0.0
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """Training time so far, in seconds, including the time before interruptions."""
        return self._seconds + time.monotonic() - self._since

    @property
    def scores(self) -> dict[str, float]:
        """Scores of the last evaluation. Empty before the first evaluation."""
        return self._scores_in(self._scored()[-1]) if self._scored() else {}

    @property
    def best(self) -> dict[str, float]:
        """Scores of the best evaluation, the first one of several equal, and its `epoch`, counted from 1.

        An undefined score, NaN, is worse than any other. Empty before the first evaluation.
        """
        if not self._scored():
            return {}
        row = self._scored()[self._best_position()]
        return self._scores_in(row) | {"epoch": int(row["epoch"]) + 1}

    @property
    def evaluations_since_best(self) -> int:
        """Number of evaluations after the best one."""
        return len(self._scored()) - 1 - self._best_position() if self._scored() else 0

    @property
    def epochs(self) -> int:
        """Number of completed epochs."""
        return len(self.rows)

    def _best_position(self) -> int:
        scores = [-math.inf if math.isnan(row[self.monitor]) else row[self.monitor] for row in self._scored()]
        return scores.index(max(scores))

    def _scored(self) -> list[dict[str, float]]:
        return [row for row in self.rows if self.monitor in row]

    @staticmethod
    def _scores_in(row: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in row.items() if name not in ("epoch", "step") and not _is_loss(name)}

    # --- Lightning's hooks

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # The sums stay on the device, so that no step waits for a transfer, and in double precision.
        for name, value in pl_module.step_losses.last.items():  # type: ignore[union-attr, operator]
            self._sums[name] = self._sums.get(name, 0.0) + value.to(_double(value))
        self._batches += 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._scores = dict(pl_module.scores)  # type: ignore[arg-type]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        losses = {name: total / self._batches for name, total in self._total_sums().items()}
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, **losses, **self._scores}
        self.rows.append(row)
        self._sums, self._batches, self._scores = {}, 0, {}
        if distributed.rank() == 0:
            write_text(self.folder / "metrics.csv", self._table())

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": [dict(row) for row in self.rows],
            "sums": self._total_sums(),
            "batches": self._batches,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
        self._sums, self._batches = dict(state_dict["sums"]), state_dict["batches"]
        self._seconds = state_dict["seconds"]

    def _total_sums(self) -> dict[str, float]:
        """The sums over the batches of this epoch.

        Each of several processes has its part of the losses of each batch: their mean is the loss of the batch.
        """
        parts = distributed.from_all({name: float(total) for name, total in self._sums.items()})
        return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}

    def _table(self) -> str:
        names = ["epoch", "step"]
        names += dict.fromkeys(name for row in self.rows for name in row if _is_loss(name))
        names += dict.fromkeys(name for row in self.rows for name in row if name not in names)
        text = io.StringIO()
        table = csv.DictWriter(text, names, lineterminator="\n")
        table.writeheader()
        table.writerows({name: "" if value != value else value for name, value in row.items()} for row in self.rows)
        return text.getvalue()


def _is_loss(name: str) -> bool:
    return name == "loss" or name.startswith("loss_")


def _double(value: Tensor) -> torch.dtype:
    return torch.float32 if value.device.type == "mps" else torch.float64
