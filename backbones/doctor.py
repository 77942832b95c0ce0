"""`python -m backbones.doctor NAME`: checks a network for mistakes before a long training uses it."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from backbones.errors import UserError, with_flags

if TYPE_CHECKING:
    from backbones.checks import Finding

SIZES = (224, 224), (320, 320), (333, 500), (97, 130)  # height and width, px
FAILED = 3  # exit code if a check fails: a network that cannot be used is bad input


def main(arguments: list[str] | None = None) -> int:
    """Check the networks named on the command line and print the results.

    Returns the exit code: 0, or 3 if a check failed or weights are absent, or 2 for an unknown name.
    """
    parser = argparse.ArgumentParser(prog="python -m backbones.doctor", description=__doc__, allow_abbrev=False)
    parser.add_argument("names", nargs="+", metavar="NAME", help="name of a backbone, or module:function")
    parser.add_argument(
        "--pretrained", default="false", help="true for published weights, false for random weights, or a weight file"
    )
    parser.add_argument(
        "--image_size", nargs="+", type=_size, default=SIZES, metavar="N|HxW", help="sizes of the test images, px"
    )
    parser.add_argument("--channels", type=int, default=3, metavar="N", help="number of channels of the images")
    options = parser.parse_args(arguments)
    pretrained = {"true": True, "false": False}.get(options.pretrained, options.pretrained)
    console, exit_code = Console(soft_wrap=True, highlight=False), 0
    for name in options.names:
        try:
            findings = examine(name, pretrained, options.image_size, options.channels)
        except UserError as error:
            print(f"error: {with_flags(error)}", file=sys.stderr)
            return error.exit_code
        table = Table("check", "", "", box=SIMPLE_HEAD, title=name, title_justify="left", pad_edge=False)
        for finding in findings:
            table.add_row(finding.check, finding.state, finding.message.replace("[", r"\["))
        console.print(table)
        if any(finding.state == "failed" for finding in findings):
            exit_code = FAILED
    return exit_code


def examine(
    name: str, pretrained: bool | str = False, image_sizes: Sequence[tuple[int, int]] = SIZES, channels: int = 3
) -> list[Finding]:
    """Create a network and run all checks on it.

    Args:
        name: a name of `list_backbones()`, or `module:function`.
        pretrained: see `create_backbone`.
        image_sizes: heights and widths of the test images for the check of map sizes, px.
        channels: number of channels of the test images.

    Raises UserError for an unknown name, BadInput if weights are absent.
    """
    import torch

    from backbones import checks
    from backbones.factory import create_backbone

    torch.manual_seed(0)  # the same random weights in every call
    backbone = create_backbone(name, pretrained, channels=channels).eval()
    torch.manual_seed(0)  # the same images for every network
    findings = list(checks.map_sizes(backbone, image_sizes))
    for check in checks.CHECKS:
        findings += check(backbone)
    return findings


def _size(text: str) -> tuple[int, int]:
    """`N` or `HxW` -> height and width."""
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is neither N nor HxW (pixels)")
    return int(match[1]), int(match[2] or match[1])


if __name__ == "__main__":
    sys.exit(main())
