"""`last.ckpt`: the point from which a run goes on, whatever ends it."""

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

MINUTES = 10.0  # that a kill within an epoch may cost


class KeepLast(Checkpoint):
    """Saves after each epoch, every few minutes within one, and before it leaves when asked to stop.

    Within an epoch only whole optimiser steps are saved, so that the run that goes on takes the same steps as one that
    never stopped. An evaluation is never cut in two: it is waited for.

    Args:
        file: to write.
        minutes: between checkpoints within an epoch.
    """

    def __init__(self, file: Path, minutes: float = MINUTES) -> None:
        self.file, self.minutes = file, minutes
        self._stop = False
        self._saved = time.monotonic()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While this lasts, the first SIGINT or SIGTERM asks the run to save and stop; another stops it at once."""
        if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
            yield
            return
        before = {number: signal.signal(number, self._asked) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked(self, number: int, frame: Any) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True
        print("\nstopping after this step or evaluation; once more stops at once", file=sys.stderr, flush=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = batch_idx + 1
        if done == trainer.num_training_batches or done % trainer.accumulate_grad_batches:
            return  # what follows is the epoch's end, or the gradients are not used yet
        if self._stop or time.monotonic() - self._saved > 60 * self.minutes:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, last=trainer.current_epoch + 1 == trainer.max_epochs)

    def _save(self, trainer: Trainer, last: bool = False) -> None:
        trainer.save_checkpoint(self.file)
        self._saved = time.monotonic()
        if self._stop and not last:
            raise KeyboardInterrupt
