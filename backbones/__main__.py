"""`python -m backbones [PATTERN]`: the networks that can serve as backbones, their maps, size and weights."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from backbones.errors import UserError, unknown_name

if TYPE_CHECKING:
    from backbones.base import Backbone

BUILT_AT_MOST = 40


def main(arguments: list[str] | None = None) -> int:
    """Print the table for the command line's pattern; returns the exit code: 0, or 2 where nothing matches."""
    parser = argparse.ArgumentParser(prog="python -m backbones", description=__doc__, allow_abbrev=False)
    parser.add_argument("pattern", nargs="?", default="*", help="a name or shell pattern, such as 'efficientnet*'")
    pattern = parser.parse_args(arguments).pattern
    try:
        names = matching(pattern)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    table = detailed(names) if len(names) <= BUILT_AT_MOST else brief(names)
    # A pipe has no width; wide enough, then, that no cell is cut.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    if len(names) > BUILT_AT_MOST:
        print(f"{len(names)} networks match. Levels and parameters are shown for {BUILT_AT_MOST} or fewer.")
    return 0


def matching(pattern: str) -> list[str]:
    """Names that match `pattern`. Raises UserError where none does, saying why a known network cannot serve."""
    import timm

    from backbones import list_backbones
    from backbones.adapter import build_backbone

    names = list_backbones(pattern)
    if not names and timm.is_model(pattern):
        build_backbone(pattern)
    if not names:
        raise unknown_name("backbone", pattern, list_backbones())
    return names


def detailed(names: list[str]) -> Table:
    """Name, maps as channels@stride, parameters up to stride 32 in millions, and weights, the default first."""
    import torch

    from backbones.adapter import build_backbone

    table = Table("name", "levels (channels@stride)", box=box.SIMPLE)
    table.add_column("params (M)", justify="right")
    table.add_column("weights (default first)", overflow="fold")
    for name in names:
        with torch.device("meta"):
            backbone = build_backbone(name)
        levels = " ".join(f"{level.channels}@{level.stride}" for level in backbone.levels)
        table.add_row(name, levels, f"{parameters(backbone) / 1e6:.2f}", weights_of(name))
    return table


def brief(names: list[str]) -> Table:
    """Name and weights; nothing is built."""
    table = Table("name", "weights (default first)", box=box.SIMPLE)
    for name in names:
        table.add_row(name, weights_of(name))
    return table


def parameters(backbone: Backbone) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in backbone.parameters())


def weights_of(name: str) -> str:
    """Published tags, and whether the weights come with the installation."""
    from backbones.provenance import published_tags
    from backbones.weights import PACKAGED

    tags = " ".join(published_tags(name)) or "none published"
    return f"{tags} (packaged)" if name in PACKAGED else tags


if __name__ == "__main__":
    sys.exit(main())
