"""`python -m backbones.doctor NAME`: whether a network is wired as it claims, before a night of GPU is spent on it."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from backbones.errors import UserError

if TYPE_CHECKING:
    from backbones.checks import Finding

SIZES = (224, 224), (320, 320), (333, 500), (97, 130)  # height and width
FAILED = 3  # exit code: a network that cannot be used is bad input


def main(arguments: list[str] | None = None) -> int:
    """Examine the networks named; returns 0, or 3 where one failed a check, or 2 for an unknown name."""
    parser = argparse.ArgumentParser(prog="python -m backbones.doctor", description=__doc__, allow_abbrev=False)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a backbone's name, or module:function")
    parser.add_argument("--pretrained", default="false", help="true for published weights, or a file of them")
    parser.add_argument(
        "--image_size", nargs="+", type=_size, default=SIZES, metavar="N|HxW", help="pixels of the images to try"
    )
    asked = parser.parse_args(arguments)
    pretrained = {"true": True, "false": False}.get(asked.pretrained, asked.pretrained)
    out, worst = Console(soft_wrap=True, highlight=False), 0
    for name in asked.names:
        try:
            findings = examine(name, pretrained, asked.image_size)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        table = Table("check", "", "", box=SIMPLE_HEAD, title=name, title_justify="left", pad_edge=False)
        for finding in findings:
            table.add_row(finding.check, finding.state, finding.says.replace("[", r"\["))
        out.print(table)
        if any(finding.state == "failed" for finding in findings):
            worst = FAILED
    return worst


def examine(name: str, pretrained: bool | str = False, image_sizes: Sequence[tuple[int, int]] = SIZES) -> list[Finding]:
    """All checks of one network. Raises UserError for an unknown name, BadInput where weights are absent.

    Args:
        name: a name of `list_backbones()`, or `module:function`.
        pretrained: as `create_backbone` takes it.
        image_sizes: height and width of the images whose maps are measured, px.
    """
    import torch

    from backbones import checks, create_backbone

    backbone = create_backbone(name, pretrained).eval()
    torch.manual_seed(0)
    found = list(checks.sizes(backbone, image_sizes))
    for check in checks.OTHERS:
        found += check(backbone)
    return found


def _size(text: str) -> tuple[int, int]:
    """`N` or `HxW` -> height and width."""
    found = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"'{text}' is neither N nor HxW, in pixels")
    return int(found[1]), int(found[2] or found[1])


if __name__ == "__main__":
    sys.exit(main())
