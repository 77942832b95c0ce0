"""Command lines from dataclasses: one flag a field, YAML presets, one message per error, and the exit codes.

Exit codes: 0 done; 2 wrong usage; 3 absent or bad data, weights or checkpoint; 4 training diverged; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from backbones.errors import UserError, unknown_name, with_flags
from engine.system_errors import explain

Config = TypeVar("Config")
INTERRUPTED = 130

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class Parser(ArgumentParser):
    """A parser whose errors are one message, without the usage."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Raise UserError with the parser's message and where to read more."""
        raise UserError(f"{' '.join(message.split())} (see {self.prog} --help)")


def command(
    prog: str,
    config: type[Config],
    run: Callable[[Config], Any],
    description: str = "",
    presets: Path | None = None,
    default_preset: Callable[[list[str]], str | None] = lambda arguments: None,
) -> Callable[..., None]:
    """A `main(argv=None)` that parses flags into `config`, calls `run` with it, and leaves with an exit code.

    Args:
        prog: as typed after `python -m`.
        config: dataclass with one sentence below each field.
        run: the work; imports what is heavy inside.
        description: one line for the help.
        presets: folder of NAME.yaml files that `--config NAME` finds.
        default_preset: names the preset in force where `--config` is not given, from the arguments.
    """

    def main(argv: Sequence[str] | None = None) -> None:
        try:
            arguments = list(sys.argv[1:] if argv is None else argv)
            run(parse(prog, config, arguments, description, presets, default_preset))
        except UserError as error:
            _say(with_flags(error))
            sys.exit(error.exit_code)
        except KeyboardInterrupt as stop:
            print(str(stop) or "interrupted", file=sys.stderr, flush=True)
            sys.exit(INTERRUPTED)
        except BrokenPipeError:  # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (OSError, RuntimeError, MemoryError) as error:
            known = explain(error)
            if known is None:
                raise
            _say(str(known))
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
    """The dataclass that the arguments describe. Raises UserError; `--help` and `--print_config` exit with 0."""
    parser = Parser(prog=f"python -m {prog}", description=description, allow_abbrev=False, default_env=False)
    if presets is not None:
        parser.add_argument("--config", action="config", help=_config_help(presets))
        arguments = _resolve_preset(arguments, presets, default_preset, config)
    parser.add_class_arguments(config)
    arguments = _join_lists(arguments, config)
    try:
        parsed = parser.instantiate(parser.parse_args(arguments))
    except (
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:  # of values beyond all bounds
        raise UserError(f"the settings cannot be read: {error} (see {parser.prog} --help)") from error
    found = config(**{field.name: parsed[field.name] for field in fields(config)})  # type: ignore[arg-type]
    _refuse_null(found)
    return found


def _refuse_null(config: Any, prefix: str = "--") -> None:
    """Raise UserError for a setting that a file gives as null but which has to have a value: jsonargparse takes it."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if value is None and type(None) not in get_args(hint):
            raise UserError(f"{prefix}{name} is null, but has to have a value: leave it out for the default")
        if is_dataclass(value):
            _refuse_null(value, f"{prefix}{name}.")


def _join_lists(arguments: list[str], config: type) -> list[str]:
    """`--losses ce dice` -> `--losses=[ce, dice]` for fields of several values, and `--vflip` -> `--vflip=true`."""
    hints = get_type_hints(config)
    flags = {f"--{name}" for name, hint in hints.items() if get_origin(hint) in (list, tuple)}
    switches = {f"--{name}" for name, hint in hints.items() if hint is bool}
    arguments = [
        f"{argument}=true" if argument in switches and following.startswith("--") else argument
        for argument, following in pairwise([*arguments, "--"])
    ]
    joined: list[str] = []
    values: list[str] | None = None  # of the list flag that is being read
    for argument in [*arguments, "--"]:
        if values is not None and argument.startswith("--"):
            bracketed = len(values) == 1 and values[0].startswith(("[", "("))
            joined.append(f"{joined.pop()}={values[0] if bracketed else '[' + ', '.join(values) + ']'}")
            values = None
        if values is not None:
            values.append(argument)
        else:
            joined.append(argument)
            values = [] if argument in flags else None
    return joined[:-1]


def demo_unless_root(arguments: list[str]) -> str | None:
    """The preset `demo`, sized for the drawn scenes, where no data set is named."""
    named = any(argument.split("=")[0] in ("--data.root", "--resume") for argument in arguments)
    return None if named else "demo"


def preset_names(presets: Path) -> list[str]:
    """The presets of a task."""
    return sorted(path.stem for path in presets.glob("*.yaml"))


def _config_help(presets: Path) -> str:
    return f"YAML file of settings, or a preset: {', '.join(preset_names(presets))}. Flags override it."


def _resolve_preset(
    arguments: list[str], presets: Path, default_preset: Callable[[list[str]], str | None], config: type
) -> list[str]:
    """Replace `--config NAME` by the preset's path, and put the default preset first where none is given."""
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
                raise UserError(f"--config {name}: there is no such file")
            raise unknown_name("preset", name, preset_names(presets))
        if equals:
            arguments[i] = f"--config={path}"
        elif name:
            arguments[i + 1] = str(path)
    preset = None if given else default_preset(arguments)
    settings = [str(presets / f"{preset}.yaml")] if preset else _resumed(arguments, config)
    return [*(word for file in settings for word in ("--config", file)), *arguments]


def _resumed(arguments: list[str], config: type) -> list[str]:
    """The settings of the run that `--resume` names, as YAML; flags override them, so that contradictions are seen."""
    for i, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        folder = value if equals else "".join(arguments[i + 1 : i + 2])
        if flag == "--resume" and folder and Path(folder, "config.yaml").is_file():
            return [_upgraded(Path(folder, "config.yaml"), config)]
    return []


def _upgraded(file: Path, config: Any) -> str:
    """Stored settings in this version's names, as YAML; the file's path where it holds none, for the error to come."""
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
