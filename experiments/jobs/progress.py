"""Shows the progress of an experiment: finished trainings, the current training, and the estimated time left."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from engine.console import err


class ProgressDisplay:
    """A progress bar over all trainings, with the last line of each current one.

    Each thread has a current training. Each training that ends is printed on a line of its own. Where the output is no
    terminal, there is no bar.

    Args:
        total: number of trainings, including those that an earlier process finished.
        slots: number of trainings at the same time.
    """

    def __init__(self, total: int, slots: int = 1) -> None:
        self.total = total
        self.done = 0  # trainings that have ended
        self.reused = 0  # those of them that were finished before this process
        self.trained_seconds = 0.0  # of the others, together
        self.slots = slots
        self._lock = threading.Lock()
        self._current = threading.local()  # name, row, and whether an earlier process finished it
        self.bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.description}"),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self.row = self.bar.add_task("", total=total, left="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.bar.stop()
        if self.reused:
            err.print(f"{self.reused} of {self.total} trainings were finished already")

    def start(self, name: str, is_finished: bool = False) -> None:
        """Show the training that starts now. `is_finished`: an earlier process finished it."""
        self._current.name, self._current.is_finished = name, is_finished
        if not hasattr(self._current, "row"):
            self._current.row = self.bar.add_task("", total=None, left="") if self.slots > 1 else self.row
        if not is_finished:
            self.bar.update(self._current.row, description=name, visible=True)

    def show_line(self, text: str) -> None:
        """Show a line that the current training printed, if it is about an epoch."""
        name = self._current.name
        self.bar.update(self._current.row, description=f"{name}  {text}" if text.startswith("epoch") else name)

    def end(self, seconds: float, result: str, done: int | None = None) -> None:
        """Print the current training's result and duration, unless it was finished before.

        `done`: number of trainings that have ended, if other processes train too.
        """
        was_finished = self._current.is_finished
        with self._lock:
            others = 0 if done is None else done - self.done - 1
            self.done += 1 + others
            self.reused += others
            if was_finished:
                self.reused += 1
            else:
                self.trained_seconds += seconds
            self.bar.update(self.row, completed=self.done, left=self.time_left())
            if self.slots > 1:
                self.bar.update(self._current.row, visible=False)
            if not was_finished:
                place = f"[{self.done}/{self.total}] {self._current.name}"
                err.print(f"{place}: {result}, {duration(seconds)}, {self.time_left()}", markup=False)

    def time_left(self) -> str:
        """The estimated time left, from the mean duration of the trainings so far; empty before the first."""
        trained = self.done - self.reused
        if not trained:
            return ""
        left = (self.total - self.done) * self.trained_seconds / trained / self.slots
        return f"{duration(left)} left"


def duration(seconds: float) -> str:
    """Format a duration: `59 s`, `2:05 min`, `3:07 h`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"
