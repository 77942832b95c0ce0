"""The consoles that commands print to, and the log messages that they show."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


class ConsoleHandler(logging.Handler):
    """Prints each message as one line to `err`, above a progress bar. The terminal wraps it; a file has it whole."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(self.format(record), markup=False)


def log_to_terminal(task: str) -> None:
    """Print warnings of this package, such as dropped layers and skipped images, to the terminal.

    `task` is the name of the task's package.
    """
    handler = ConsoleHandler()
    for package in ("backbones", "data", "engine", task, "experiments"):
        logger = logging.getLogger(package)
        logger.handlers, logger.level, logger.propagate = [handler], logging.WARNING, False


@contextmanager
def each_warning_once() -> Iterator[None]:
    """Print equal warnings of `data` only once within the `with` block, which reads the same data again and again."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] != "data":  # all packages share one handler
            return True
        message = record.getMessage()
        is_known = message in seen
        seen.add(message)
        return not is_known

    handlers = list(logging.getLogger("data").handlers)
    for handler in handlers:
        handler.addFilter(is_new)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_new)


def silence() -> None:
    """Print nothing but errors from now on: the first process of a distributed training prints for all."""
    out.quiet = err.quiet = True
