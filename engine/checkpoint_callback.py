"""Save `last.ckpt`, from which an interrupted run resumes, and `best.ckpt`."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from engine import distributed
from engine.compat import stop_without_lightning
from engine.history import History

MINUTES = 10.0  # the most training time that a killed process can lose within an epoch


class LastCheckpoint(Checkpoint):
    """Saves a checkpoint after each epoch, every few minutes within an epoch, and before a requested stop.

    Within an epoch it saves only after a complete optimiser step, so that a resumed run computes the same steps as an
    uninterrupted run. It never interrupts an evaluation: a requested stop waits for its end.

    Args:
        file: the checkpoint file to write.
        minutes: time between checkpoints within an epoch.
    """

    def __init__(self, file: Path, minutes: float = MINUTES) -> None:
        self.file, self.minutes = file, minutes
        self._stop_requested = False
        self._saved = time.monotonic()

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """In this context SIGINT or SIGTERM saves and stops the run. A SIGINT after that stops it immediately.

        A second SIGTERM changes nothing: schedulers send it to all processes of a job, some of which pass it on.
        """
        if threading.current_thread() is not threading.main_thread():  # only the main thread can set signal handlers
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._stop_requested:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self._stop_requested = True
        message = "\nstopping after the current step or evaluation; press Ctrl-C again to stop immediately"
        print(message, file=sys.stderr, flush=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        batches = batch_idx + 1
        if batches == trainer.num_training_batches or batches % trainer.accumulate_grad_batches:
            return  # the epoch ends here, which saves anyway, or the optimiser step is not complete
        late = time.monotonic() - self._saved > 60 * self.minutes
        self._stop_requested, late = distributed.any_of(self._stop_requested, late)  # all processes decide together
        if self._stop_requested or late:
            self._save(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stop_without_lightning(trainer, self._on_signal)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (self._stop_requested,) = distributed.any_of(self._stop_requested)
        self._save(trainer, last_epoch=trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs)

    def _save(self, trainer: Trainer, last_epoch: bool = False) -> None:
        trainer.save_checkpoint(self.file)
        self._saved = time.monotonic()
        if self._stop_requested and not last_epoch:
            raise KeyboardInterrupt


class BestCheckpoint(Checkpoint):
    """Saves a checkpoint after each evaluation that is the best so far.

    An undefined score is worse than any other. If no score is defined, the first evaluation counts as the best.

    Args:
        file: the checkpoint file to write.
        history: history of the run, whose `best` decides. This callback must run after it.
    """

    def __init__(self, file: Path, history: History) -> None:
        self.file, self.history = file, history

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.history.best.get("epoch") == trainer.current_epoch + 1:
            trainer.save_checkpoint(self.file)
