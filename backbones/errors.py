"""The errors that a user can cause. Each has one message, which names the cause and the fix, and a process exit code.

Commands print the message without a traceback and exit with `exit_code`. To library code they are ordinary exceptions.
Messages use the terms of the Python interface: "pass `pretrained=False`". A command prints `with_flags(error)`, which
turns that into "pass --pretrained false".
"""

import ast
import contextlib
import difflib
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path


class UserError(Exception):
    """Wrong usage: an unknown flag, an unknown name, or settings that contradict each other.

    Args:
        message: the cause and the fix. It mentions settings in backticks: `phi`, `phi=6` or `ignore_index=3`.
        settings: the flags of the settings that the message mentions, without dashes: "phi", "data.ignore_index".
    """

    exit_code = 2

    def __init__(self, message: str = "", *, settings: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.settings = settings


class BadInput(UserError):
    """Data, weights or a checkpoint are absent, unreadable or malformed."""

    exit_code = 3


class StoreError(UserError):
    """A store of data does not answer. Unlike `BadInput`, it is never a reason to skip an image."""

    exit_code = 3


class NoPublishedWeights(BadInput):
    """A network was asked for with its published weights, and has none."""


def with_flags(error: UserError) -> str:
    """The error's message for a command line: each of its settings in backticks becomes a flag.

    With the setting "data.ignore_index", `ignore_index` becomes --data.ignore_index and `ignore_index=3` becomes
    --data.ignore_index 3. True, False and None become true, false and null, quotes around a value are removed, and the
    items of a list become words of the shell.
    """
    message = str(error)
    for setting in error.settings:
        mention = rf"`{re.escape(setting.rpartition('.')[2])}(?:=(?P<value>[^`]*))?`"
        message = re.sub(mention, partial(_flag, setting), message)
    return message


def _flag(setting: str, mention: re.Match[str]) -> str:
    value = mention["value"]
    if value is None:
        return f"--{setting}"
    typed = {"True": "true", "False": "false", "None": "null"}.get(value, value.strip("'\""))
    if value.startswith("[") and value.endswith("]"):
        with contextlib.suppress(ValueError, SyntaxError):  # a name in brackets is not a list
            typed = shlex.join(str(item) for item in ast.literal_eval(value))
    return f"--{setting} {typed}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def reason_lines(reasons: Mapping[str, str]) -> str:
    """One indented line for each name and reason."""
    return "\n".join(f"  {name}: {reason}" for name, reason in reasons.items())


def unwritable(folder: Path, error: OSError, setting: str = "output") -> BadInput:
    """The error for a folder that cannot be written, which `setting` names. The caller raises it."""
    return BadInput(f"{folder} cannot be written ({error.strerror}): choose another `{setting}`", settings=(setting,))


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not one of `known`. Its message suggests similar names. The caller raises it."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.6)
    listed = near or (known if len(known) <= 20 else [])
    suggestion = (" Did you mean " if near else " Known: ") + ", ".join(listed) + ("?" if near else ".")
    return UserError(f"unknown {kind} '{name}'.{suggestion if listed else ''}")


def discard_output() -> None:
    """Discard what is still printed. Call it after BrokenPipeError: the reader, such as `head`, has closed the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
