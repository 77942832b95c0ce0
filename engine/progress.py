"""The progress bar of a training: epoch, loss, score and remaining time."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

UPDATE_SECONDS = 0.2  # between two updates of the bar: to show a loss, a GPU has to finish computing it


class TrainingProgress(Callback):
    """One bar over all steps of the run. If the output is not a terminal, one line per epoch.

    Args:
        monitor: name of the metric to show, a fraction in 0..1 shown in percent.
        may_stop: whether the run may end before its last epoch, so that the remaining time is an upper bound.
    """

    def __init__(self, monitor: str, may_stop: bool = False) -> None:
        self.monitor, self.may_stop = monitor, may_stop
        self.console = Console(file=sys.stderr)
        self.loss: Any = math.nan  # a number or a tensor on the device of the training
        self.started = self.next_update = 0.0
        self.bar: Progress | None = None

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.started = time.monotonic()
        self.first_step = trainer.global_step
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"), TimeElapsedColumn(),
                console=self.console,
            )  # fmt: skip
            self.bar.start()
            self.row = self.bar.add_task("", total=module.total_steps, left="")

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = module.step_losses.last["loss"]
        # An exponential average over about 20 steps, because the loss of a single batch is noisy.
        self.loss = self.loss + (loss - self.loss) / 20 if isinstance(self.loss, Tensor) else loss
        if self.bar is not None and time.monotonic() >= self.next_update:
            self._update(trainer, module)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        if self.bar is None:
            text = f"{self._text(trainer, module)}  {self._left(trainer, module)}"
            self.console.print(text, highlight=False, soft_wrap=True)
        else:
            self._update(trainer, module)

    def _update(self, trainer: Any, module: Any) -> None:
        """Redraw the bar."""
        assert self.bar is not None
        text, left = self._text(trainer, module), self._left(trainer, module)
        self.bar.update(self.row, completed=trainer.global_step, description=text, left=left)
        self.next_update = time.monotonic() + UPDATE_SECONDS

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self._stop()

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _text(self, trainer: Any, module: Any) -> str:
        score = getattr(module, "scores", {}).get(self.monitor, math.nan)  # no scores before the first evaluation
        shown = "--" if math.isnan(score) else f"{100 * score:.1f}"
        epoch = min(trainer.current_epoch + 1, trainer.max_epochs)
        return f"epoch {epoch}/{trainer.max_epochs}  loss {float(self.loss):.3f}  {self.monitor} {shown}"

    def _left(self, trainer: Any, module: Any) -> str:
        done = trainer.global_step - self.first_step
        if not done:
            return ""
        seconds = (time.monotonic() - self.started) / done * (module.total_steps - trainer.global_step)
        minutes, seconds = divmod(round(seconds), 60)
        return f"{'at most ' if self.may_stop else ''}{minutes}:{seconds:02d} left"
