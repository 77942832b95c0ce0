"""Warnings on the terminal."""

import io
import logging

import pytest
from rich.console import Console

from engine import console


@pytest.fixture
def written(monkeypatch):
    """What is printed to the terminal, with the loggers of a command."""
    text = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=text, soft_wrap=True, highlight=False, width=80))
    loggers = [logging.getLogger(name) for name in ("backbones", "data", "engine", "detection", "experiments")]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    console.log_to_terminal("detection")
    yield text
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.level, logger.propagate = handlers, level, propagate


def test_a_long_warning_is_one_line(written):
    logging.getLogger("data.checks").warning("%s [bold]has[/bold] %d boxes", "/long/path" * 20, 3)
    logging.getLogger("data.checks").info("not shown")
    assert written.getvalue() == f"{'/long/path' * 20} [bold]has[/bold] 3 boxes\n"


def test_equal_warnings_are_printed_once_where_asked_for(written):
    log = logging.getLogger("data.checks")
    with console.each_warning_once():
        for number in (1, 1, 2):
            log.warning("%d boxes", number)
        for _ in range(2):
            logging.getLogger("backbones.weights").warning("a layer")
    log.warning("%d boxes", 1)
    assert written.getvalue() == "1 boxes\n2 boxes\na layer\na layer\n1 boxes\n"
