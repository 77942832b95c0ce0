"""What a person sees of a comparison while it runs: how far it is, what trains now, and the time left."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from engine.commands import err


class Board:
    """One bar over all trainings, with the last line of the one that runs; a line each where output is no terminal.

    Args:
        total: trainings, finished ones included.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done, self.trained, self.kept = total, 0, 0.0, 0
        self.name, self.known, self.started = "", False, time.monotonic()
        texts = TextColumn("{task.fields[left]}"), TextColumn("{task.description}")
        self.bar = Progress(
            BarColumn(), MofNCompleteColumn(), *texts, console=err, transient=True, disable=not err.is_terminal
        )
        self.row = self.bar.add_task("", total=total, left="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.bar.stop()
        if self.kept:
            err.print(f"{self.kept} of {self.total} trainings were finished already")

    def start(self, name: str, known: bool) -> None:
        """A cell's turn has come; `known` ones are finished already."""
        self.name, self.known, self.started = name, known, time.monotonic()
        if not known:
            self.bar.update(self.row, description=name)

    def line(self, text: str) -> None:
        """What the training that runs has printed."""
        self.bar.update(self.row, description=f"{self.name}  {text}" if text.startswith("epoch") else self.name)

    def end(self, seconds: float, result: str) -> None:
        """The cell took so long, and ended so."""
        self.done += 1
        if self.known:
            self.kept += 1
        else:
            self.trained += seconds
        self.bar.update(self.row, completed=self.done, left=self.left())
        if not self.known:
            place = f"[{self.done}/{self.total}] {self.name}"
            err.print(f"{place}: {result}, {clock(seconds)}, {self.left()}", markup=False)

    def left(self) -> str:
        """Time left, if the rest take as long on average as those trained so far."""
        trained = self.done - self.kept
        if not trained:
            return ""
        return f"{clock((self.total - self.done) * self.trained / trained)} left"


def clock(seconds: float) -> str:
    """`59 s`, `2:05 min`, `3:07 h`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"
