"""Warnings on the terminal."""

import io
import logging

from rich.console import Console

from engine import console


def test_a_long_warning_is_one_line(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=written, soft_wrap=True, highlight=False, width=80))
    names = ("backbones", "data", "engine", "detection", "experiments")
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    try:
        console.log_to_terminal("detection")
        logging.getLogger("data.checks").warning("%s [bold]has[/bold] %d boxes", "/long/path" * 20, 3)
        logging.getLogger("data.checks").info("not shown")
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.level, logger.propagate = handlers, level, propagate
    assert written.getvalue() == f"{'/long/path' * 20} [bold]has[/bold] 3 boxes\n"
