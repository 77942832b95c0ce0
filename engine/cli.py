"""Command lines from dataclasses: one flag per field, YAML presets, one message per error, and the exit codes.

Exit codes: 0 success; 2 wrong usage; 3 missing or bad data, weights or checkpoint; 4 diverged; 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from backbones.errors import UserError, discard_output, unknown_name, with_flags
from engine.system_errors import explain

Config = TypeVar("Config")
INTERRUPTED = 130

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class Parser(ArgumentParser):
    """A parser that reports an error as one message, without the usage."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Raise UserError with the parser's message and the name of the `--help` flag."""
        raise UserError(f"{' '.join(message.split())} (see {self.prog} --help)")


def command(
    prog: str,
    config: type[Config],
    run: Callable[[Config], Any],
    description: str = "",
    presets: Path | None = None,
    default_preset: Callable[[list[str]], str | None] = lambda arguments: None,
) -> Callable[..., None]:
    """Make a `main(argv=None)` that parses flags into `config` and calls `run` with it.

    A UserError is printed as one message, and the process exits with the error's exit code.

    Args:
        prog: the module name that users type after `python -m`.
        config: a dataclass with one sentence below each field, which is the flag's help.
        run: does the work. It imports heavy modules itself, so that `--help` is fast.
        description: one line for `--help`.
        presets: folder of the NAME.yaml files for `--config NAME`.
        default_preset: arguments -> the preset to use if they have no `--config`; None for no preset.
    """

    def main(argv: Sequence[str] | None = None) -> None:
        try:
            arguments = list(sys.argv[1:] if argv is None else argv)
            run(parse(prog, config, arguments, description, presets, default_preset))
            sys.stdout.flush()  # a closed pipe raises here, not while Python exits
        except UserError as error:
            _say(with_flags(error))
            sys.exit(error.exit_code)
        except KeyboardInterrupt as stop:
            print(str(stop) or "interrupted", file=sys.stderr, flush=True)
            sys.exit(INTERRUPTED)
        except BrokenPipeError:  # the reader, such as `| head`, has closed the pipe
            discard_output()
        except (OSError, RuntimeError, MemoryError) as error:
            known = explain(error)
            if known is None:
                raise
            _say(with_flags(known))
            sys.exit(known.exit_code)

    return main


def parse(
    prog: str,
    config: type[Config],
    arguments: list[str],
    description: str = "",
    presets: Path | None = None,
    default_preset: Callable[[list[str]], str | None] = lambda arguments: None,
) -> Config:
    """Parse `arguments` into `config`; see `command` for the arguments.

    Raises UserError for wrong arguments, and SystemExit with code 0 after `--help` and `--print_config`.
    """
    parser = Parser(prog=f"python -m {prog}", description=description, allow_abbrev=False, default_env=False)
    if presets is not None:
        parser.add_argument("--config", action="config", help=_config_help(presets))
        arguments = _resolve_preset(arguments, presets, default_preset, config)
    parser.add_class_arguments(config, as_positional=True)  # fields without a default
    arguments = _join_lists(arguments, config)
    try:
        parsed = parser.instantiate(parser.parse_args(arguments))
    # Extreme values, such as an integer of 400 digits, raise more than jsonargparse handles.
    except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"the settings cannot be read: {error} (see {parser.prog} --help)") from error
    found = config(**{field.name: parsed[field.name] for field in fields(config)})  # type: ignore[arg-type]
    _refuse_null(found)
    return found


def _refuse_null(config: Any, prefix: str = "--") -> None:
    """Raise UserError for a null in a setting that needs a value. jsonargparse accepts such a null from a YAML file."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if value is None and type(None) not in get_args(hint):
            raise UserError(f"{prefix}{name} must have a value, but is null. Omit it to use the default.")
        if is_dataclass(value):
            _refuse_null(value, f"{prefix}{name}.")


def _join_lists(arguments: list[str], config: type) -> list[str]:
    """Rewrite `--losses ce dice` as `--losses=["ce", "dice"]` for list fields, and `--vflip` as `--vflip=true`."""
    hints = {flag: _alternatives(hint) for flag, hint in _flags(config)}
    lists = {flag: [kind for kind in kinds if get_origin(kind) in (list, tuple)] for flag, kinds in hints.items()}
    flags = {flag: get_args(kinds[0]) for flag, kinds in lists.items() if kinds}

    def is_alone(flag: str, values: list[str]) -> bool:
        """Whether the value is not a list: a number where that is allowed, or null."""
        null = values == ["null"] and type(None) in hints[flag]
        return len(values) == 1 and (null or int in hints[flag])

    switches = {flag for flag, kinds in hints.items() if kinds == (bool,)}
    has_positional = any(field.default is MISSING and field.default_factory is MISSING for field in fields(config))

    def is_switch(argument: str, following: str) -> bool:
        is_value = following.lower() in ("true", "false", "yes", "no")
        return argument in switches and (following.startswith("--") or (has_positional and not is_value))

    arguments = [
        f"{argument}=true" if is_switch(argument, following) else argument
        for argument, following in pairwise([*arguments, "--"])
    ]
    joined: list[str] = []
    values: list[str] | None = None  # of the current list flag
    for argument in [*arguments, "--"]:
        if values is not None and argument.startswith("--"):
            flag = joined.pop()
            value = values[0] if is_alone(flag, values) else _as_list(values, flags[flag])
            joined.append(f"{flag}={value}")
            values = None
        flag, equals, value = argument.partition("=")
        if values is not None:
            values.append(argument)
        elif equals and flag in flags and not is_alone(flag, [value]):
            joined.append(f"{flag}={_as_list([value], flags[flag])}")
        else:
            joined.append(argument)
            values = [] if argument in flags else None
    return joined[:-1]


def _flags(config: type, prefix: str = "--") -> Iterator[tuple[str, Any]]:
    """Flags of the fields and of those of nested dataclasses, with their types."""
    for name, hint in get_type_hints(config).items():
        yield f"{prefix}{name}", hint
        if is_dataclass(hint):
            yield from _flags(hint, f"{prefix}{name}.")  # type: ignore[arg-type]


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union; a tuple of the type itself if it is none."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _as_list(values: list[str], types: tuple[Any, ...]) -> str:
    """The values of a list field as one YAML list. Texts are quoted, since a path may have any character."""
    if len(values) == 1 and values[0].startswith(("[", "(")):
        return values[0]
    if types[0] is str:
        values = [json.dumps(value, ensure_ascii=False) for value in values]
    return f"[{', '.join(values)}]"


def demo_unless_root(arguments: list[str]) -> str | None:
    """The preset "demo", which is made for the demo scenes, if the arguments name no data set and no run."""
    named = any(argument.split("=")[0] in ("--data.root", "--data.train") for argument in arguments)
    return None if named or _resumed_folder(arguments) is not None else "demo"


def _resumed_folder(arguments: list[str]) -> str | None:
    """The value of `--resume`; None without it, and for "auto", which may start a new run."""
    for i, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        folder = value if equals else "".join(arguments[i + 1 : i + 2])
        if flag == "--resume" and folder != "auto":
            return folder
    return None


def preset_names(presets: Path) -> list[str]:
    """Names of a task's presets, sorted."""
    return sorted(path.stem for path in presets.glob("*.yaml"))


def _config_help(presets: Path) -> str:
    return f"YAML file of settings, or a preset: {', '.join(preset_names(presets))}. Flags override its settings."


def _resolve_preset(
    arguments: list[str], presets: Path, default_preset: Callable[[list[str]], str | None], config: type
) -> list[str]:
    """Replace `--config NAME` by the preset's path. Without `--config`, insert the default preset first."""
    arguments = list(arguments)
    given = False
    for i, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag != "--config":
            continue
        given = True
        name = value if equals else arguments[i + 1] if i + 1 < len(arguments) else ""
        path = name if Path(name).is_file() else presets / f"{name}.yaml"
        if name and not Path(path).is_file():
            if name.endswith((".yaml", ".yml")) or os.sep in name:
                raise UserError(f"--config {name}: this file does not exist")
            raise unknown_name("preset", name, preset_names(presets))
        settings = _upgraded(Path(path), config) if name and _is_stored(Path(path)) else str(path)
        if equals:
            arguments[i] = f"--config={settings}"
        elif name:
            arguments[i + 1] = settings
    preset = None if given else default_preset(arguments)
    first = [str(presets / f"{preset}.yaml")] if preset else _resumed(arguments, config)
    return [*(word for file in first for word in ("--config", file)), *arguments]


def _resumed(arguments: list[str], config: type) -> list[str]:
    """The settings of the run that `--resume` names, as YAML.

    Flags override them, so that `train` can detect a flag that contradicts the run.
    """
    folder = _resumed_folder(arguments)
    if folder and Path(folder, "config.yaml").is_file():
        return [_upgraded(Path(folder, "config.yaml"), config)]
    return []


def _is_stored(file: Path) -> bool:
    """Whether a file holds all settings of a run, as its config.yaml does. Files by hand have no `resume`."""
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return False  # the parser reports what is wrong with it
    return isinstance(content, dict) and "resume" in content


def _upgraded(file: Path, config: Any) -> str:
    """Stored settings with this version's names, as YAML. For a bad file its path: the parser reports the error."""
    try:
        return yaml.safe_dump(config.upgrade(yaml.safe_load(file.read_text())), sort_keys=False)
    except (TypeError, AttributeError, KeyError, ValueError, yaml.YAMLError):
        return str(file)


def _say(message: str) -> None:
    width = 120 if not sys.stderr.isatty() else min(120, os.get_terminal_size(sys.stderr.fileno()).columns or 120)
    lines = [
        textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for line in message.splitlines()
    ]
    print("error: " + "\n".join(lines), file=sys.stderr, flush=True)
