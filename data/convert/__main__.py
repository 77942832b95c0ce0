"""Writes a data set in another layout.

    python -m data.convert ROOT --to yolo OUT                       boxes of any layout
    python -m data.convert boxes.json:photos --to voc OUT           an annotation file and its images
    python -m data.convert ROOT --to coco OUT --data.scale_boxes true
    python -m data.convert ROOT --to shards OUT                     labels of any kind, in a few large files

All splits are read and written; images are copied. What the layout cannot hold is listed.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from backbones.errors import UserError, discard_output, with_flags
from data.convert.runner import OPTIONS, WRITERS, convert, kind_to_write
from data.options import ReadOptions


def main(arguments: list[str] | None = None) -> int:
    """`python -m data.convert`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data.convert",
        description="Read a data set of any layout and write it in another. Images are copied.",
        epilog="Reading has the settings of training: --data.scale_boxes true, --data.exif apply, and so on. "
        "docs/data.md describes them.",
        allow_abbrev=False,
    )
    parser.add_argument("root", metavar="ROOT", help="folder of the data set, or FILE[:IMAGES]")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to create")
    parser.add_argument("--to", required=True, choices=sorted(WRITERS), help="layout to write")
    known = {field.name: str(field.type) for options in OPTIONS.values() for field in fields(options)}
    for name, kind_of_value in known.items():
        several: dict[str, Any] = {"nargs": "+"} if "list" in kind_of_value else {}
        optional: dict[str, Any] = {"nargs": "?", "const": True} if kind_of_value.startswith("bool") else {}
        parser.add_argument(f"--data.{name}", f"--{name}", dest=name, type=yaml.safe_load, metavar="VALUE",
                            help=argparse.SUPPRESS, **several, **optional)  # fmt: skip
    settings = parser.parse_args(arguments)
    values = {name: value for name in known if (value := getattr(settings, name)) is not None}
    try:
        named = ReadOptions(**{field.name: values[field.name] for field in fields(ReadOptions) if field.name in values})
        kind = kind_to_write(settings.root, settings.to, named)
        options = OPTIONS[kind]
        if unknown := sorted(set(values) - {field.name for field in fields(options)}):
            parser.error(f"--data.{unknown[0]} does not apply to {settings.to}")
        report = convert(settings.root, settings.to, settings.out, options(**values))
        for name, (images, labels) in report.splits.items():
            print(f"{name:10} {images} images, {labels} {'boxes' if kind == 'boxes' else 'labels'}")
        for what, count in report.lost.items():
            print(f"not held by {settings.to}: {count} {what}")
        print(f"written to {settings.out}", flush=True)
    except BrokenPipeError:
        discard_output()
    except UserError as error:
        message = with_flags(error).replace("--data.root", "ROOT")
        print(f"error: {message}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
