"""Commands of the documentation, parsed by the package's own parsers without being run."""

import argparse
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from typing import get_type_hints
from unittest import mock

from engine import cli
from experiments.jobs.arguments import split_by_task
from experiments.tasks import TASKS

# Experiments of one task, which pass plain --data.* flags on to its trainings.
STUDIES = ("experiments.scaling", "experiments.search", "experiments.shortlist")


class ParsedError(Exception):
    """Leaves a command once its arguments are parsed, in place of its work; `options` are the flags that it knows."""

    def __init__(self, options):
        self.options = options


@contextmanager
def _only_parsing():
    """Commands raise ParsedError in place of their work. Settings are checked as far as the command checks them."""
    parse, parse_args = cli.parse, argparse.ArgumentParser.parse_args

    def then_stop(prog, config, *rest, **options):
        known = {f"--{name}" for name in _names(config)} | {"--config", "--print_config", "--help"}
        parsed = parse(prog, config, *rest, **options)
        if hasattr(parsed, "check"):
            parsed.check()
        raise ParsedError(known)

    def then_stop_too(self, *rest, **options):
        parse_args(self, *rest, **options)
        if not isinstance(self, cli.ArgumentParser):
            raise ParsedError({name for action in self._actions for name in action.option_strings})

    with (
        mock.patch.object(cli, "parse", then_stop),
        mock.patch.object(argparse.ArgumentParser, "parse_args", then_stop_too),
    ):
        yield


def _names(config, prefix=""):
    """The flags of a dataclass, those of nested ones included, without dashes."""
    hints = get_type_hints(config)
    for field in fields(config):
        if is_dataclass(hints[field.name]):
            yield from _names(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def main_of(module):
    """The `main` that `python -m MODULE` calls."""
    found = import_module(module)
    return (import_module(f"{module}.__main__") if hasattr(found, "__path__") else found).main


def check_module(module, arguments):
    """Parse the arguments of `python -m MODULE`; returns the flags that it knows. Fails if it refuses the arguments."""
    options = _parse(module, arguments)
    if not module.startswith("experiments."):
        return options
    own, of_tasks = split_by_task(arguments)
    if module in STUDIES:
        task = own[own.index("--task") + 1] if "--task" in own else "classification"
        of_tasks.setdefault(task, []).extend(_data_flags(own))
    for task, of_task in of_tasks.items():
        _parse(f"{task}.train", of_task)
    return options


def _data_flags(arguments):
    """`--data.*` flags and their values."""
    taken, taking = [], False
    for argument in arguments:
        taking = argument.startswith("--data.") if argument.startswith("--") else taking
        if taking:
            taken.append(argument)
    return taken


def _parse(module, arguments):
    with _only_parsing():
        try:
            main_of(module)(list(arguments))
        except ParsedError as parsed:
            return parsed.options
        except SystemExit as stop:  # --help and --print_config leave with 0
            if stop.code == 0 and {"--help", "--print_config"} & set(arguments):
                return set()
            raise AssertionError(f"python -m {module} {' '.join(arguments)} leaves with code {stop.code}") from stop
    raise AssertionError(f"python -m {module} did its work in place of parsing alone")


@cache
def known_flags():
    """All flags of all commands."""
    modules = [f"{task}.{command}" for task in TASKS for command in ("train", "eval", "predict", "export")]
    modules += [f"experiments.{name}" for name in ("compare", "profile", "scaling", "search", "claims", "shortlist")]
    modules += [f"experiments.joint.{name}" for name in ("train", "eval", "predict", "export", "compare")]
    flags = set().union(*(_parse(module, []) for module in modules))
    others = {
        "experiments.audit": ["ROOT"],
        "experiments.corpus": ["fill", "--data", "FOLDER"],
        "experiments.report": ["FOLDER"],
        "experiments.serve": ["--runs", "RUN"],
        "experiments.compare_results": ["--task", "detection", "--truth", "TRUTH", "--results", "a=A", "b=B"],
        "backbones.doctor": ["NAME"],
        "data.demo": [],
        "data.convert": ["ROOT", "OUT", "--to", "coco"],
    }
    for module, arguments in others.items():
        flags |= _parse(module, arguments)
    return flags
