"""Early stopping: end a training whose score no longer improves."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from engine.history import History


class EarlyStopping(Callback):
    """Stops a training after `patience` evaluations without a new best score.

    The decision depends only on the history, which checkpoints contain. A resumed run therefore stops in the same epoch
    as an uninterrupted run, and a stopped run that is resumed trains no further. It must run after the history.

    Args:
        history: history of the run.
        patience: number of evaluations; 0 never stops.
    """

    def __init__(self, history: History, patience: int) -> None:
        self.history, self.patience = history, patience

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_stale(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_stale(trainer)

    def _stop_if_stale(self, trainer: Trainer) -> None:
        if self.patience and self.history.evaluations_since_best >= self.patience:
            trainer.should_stop = True
