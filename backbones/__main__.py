"""`python -m backbones [PATTERN]`: lists backbones with feature maps, parameters, published weights and licences."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from backbones.errors import UserError, discard_output, unknown_name, with_flags
from backbones.names import is_custom

if TYPE_CHECKING:
    from backbones.base import Backbone

MAX_BUILT = 40  # a longer list shows names and weights only, since building networks takes time


def main(arguments: list[str] | None = None) -> int:
    """Print a table of the backbones that match the pattern. Returns the exit code: 0, or 2 if none matches."""
    parser = argparse.ArgumentParser(prog="python -m backbones", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "pattern", nargs="?", default="*", help="a name, a shell pattern such as 'efficientnet*', or module:function"
    )
    pattern = parser.parse_args(arguments).pattern
    try:
        names = matching(pattern)
        tables = [detailed(names) if len(names) <= MAX_BUILT else brief(names)]
        if len(names) == 1 and not is_custom(names[0]):
            tables.append(weights_table(names[0]))
    except UserError as error:
        print(with_flags(error), file=sys.stderr)
        return error.exit_code
    try:
        # A pipe has no width. 200 columns are enough to show every cell completely.
        console = Console(width=None if sys.stdout.isatty() else 200)
        with console.capture() as text:  # its own print exits with code 1 where the reader has closed the pipe
            console.print(*tables, sep="\n")
        print(text.get(), end="")
        if len(names) > MAX_BUILT:
            print(f"{len(names)} networks match. Levels and parameters are shown for {MAX_BUILT} or fewer.")
        sys.stdout.flush()  # a closed pipe raises here, not while Python exits
    except BrokenPipeError:
        discard_output()
    return 0


def matching(pattern: str) -> list[str]:
    """Names of backbones that match `pattern`; the pattern itself if it is a network of the user's own.

    Raises UserError if there is none. If `pattern` is a network of timm, the message says why it cannot be a backbone.
    """
    import timm

    from backbones.adapter import build_backbone
    from backbones.factory import list_backbones

    if is_custom(pattern):
        return [pattern]
    names = list_backbones(pattern)
    if not names and timm.is_model(pattern):
        build_backbone(pattern)
    if not names:
        raise unknown_name("backbone", pattern, list_backbones())
    return names


def detailed(names: list[str]) -> Table:
    """A table of name, levels, parameters up to stride 32 in millions, tags of published weights and their licences."""
    import torch

    from backbones.adapter import build_backbone

    table = Table("name", "levels (channels@stride)", box=box.SIMPLE)
    table.add_column("params (M)", justify="right")
    table.add_column("weights (default first)", overflow="fold")
    table.add_column("licence of the weights", overflow="fold")
    for name in names:
        with torch.device("meta"):
            backbone = build_backbone(name)
        levels = " ".join(f"{level.channels}@{level.stride}" for level in backbone.levels)
        table.add_row(name, levels, f"{parameters(backbone) / 1e6:.2f}", weights_of(name), licences_of(name))
    return table


def brief(names: list[str]) -> Table:
    """A table of name, tags of published weights and their licences. Builds no network."""
    table = Table("name", "weights (default first)", "licence of the weights", box=box.SIMPLE)
    for name in names:
        table.add_row(name, weights_of(name), licences_of(name))
    return table


def weights_table(name: str) -> Table:
    """A table of a network's published weights: tag, and group, method, data and licence of the pretraining."""
    from backbones.pretraining import pretraining_of
    from backbones.provenance import licence_of, published_tags

    table = Table("weights", "pretraining", "method", "data", "licence", box=box.SIMPLE)
    for tag in published_tags(name):
        found = pretraining_of(name, tag)
        table.add_row(tag, found.group, found.method, found.data, licence_of(name, tag) or "not stated")
    return table


def parameters(backbone: Backbone) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in backbone.parameters())


def weights_of(name: str) -> str:
    """Tags of published weights, default first, and whether a dependency of this package contains them."""
    from backbones.provenance import published_tags
    from backbones.weights import PACKAGED

    tags = " ".join(published_tags(name)) or "none published"
    return f"{tags} (packaged)" if name in PACKAGED else tags


def licences_of(name: str) -> str:
    """Licences of a network's published weights: that of the default first, the others with their tags."""
    from backbones.provenance import licence_of, published_tags

    tags = published_tags(name)
    by_licence: dict[str, list[str]] = {}
    for tag in tags:
        by_licence.setdefault(licence_of(name, tag) or "not stated", []).append(tag)
    return "; ".join(
        licence if tags[0] in found else f"{licence} ({' '.join(found)})" for licence, found in by_licence.items()
    )


if __name__ == "__main__":
    sys.exit(main())
