"""Prints where the demo data are, and draws them if they do not exist yet.

    python -m data.demo                         prints the folders and the number of images
    python -m data.demo --picture sheet.png     also writes a picture of the data with boxes, masks and names

The data are drawn scenes on disk, in the three layouts of the data readers. They are drawn once, within seconds, into
`$BACKBONE_SWAP_CACHE`, else `$XDG_CACHE_HOME/backbone-swap`, else `~/.cache/backbone-swap`. A scene depends only on its
split and its number, so that it is the same on every machine.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2

from backbones.errors import BadInput, UserError, discard_output, with_flags
from data.demo.contact_sheet import contact_sheet
from data.demo.writer import LAYOUTS, SPLITS, demo_root


def main(arguments: list[str] | None = None) -> int:
    """`python -m data.demo`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data.demo",
        description="Print the folders of the demo data. Draws the data first if they do not exist.",
        allow_abbrev=False,
    )
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write a picture of the data to FILE")
    picture = parser.parse_args(arguments).picture
    try:
        for task in LAYOUTS:
            root = demo_root(task)
            counts = {s: sum(1 for p in root.rglob("*.jpg") if s in p.relative_to(root).parts) for s in SPLITS}
            print(f"{task:15} {root}  {counts['train']} train, {counts['val']} val")
        if picture:
            code = cv2.imencode(picture.suffix or ".png", contact_sheet(root.parent)[..., ::-1])[1]
            picture.write_bytes(code.tobytes())
            print(f"{'picture':15} {picture}")
        sys.stdout.flush()  # a closed pipe raises here, not while Python exits
    except BrokenPipeError:
        discard_output()
    except (OSError, cv2.error) as error:
        print(f"cannot write {picture}: {error}. Name a .png or .jpg file in a folder that exists.", file=sys.stderr)
        return BadInput.exit_code
    except UserError as error:
        print(with_flags(error), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
