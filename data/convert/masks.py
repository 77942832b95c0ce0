"""Masks of class indices: OUT/images/{split}/, a PNG for each in OUT/annotations/{split}/, and OUT/classes.txt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from backbones.errors import BadInput
from data.batch import IGNORE
from data.columns import MaskColumns
from data.convert.parts import Part, Report, copy_image, distinct, stem_of, write_text


def write(out: Path, parts: Sequence[Part[MaskColumns]], report: Report) -> None:
    """Write the splits. Pixels without a class have the value 255. Images in subfolders are named by their path."""
    classes = parts[0].columns.classes
    if any("\n" in name or name != name.strip() for name in classes):
        raise BadInput(
            "a class name has a line break or spaces at its ends, which a list with a line for each cannot hold"
        )
    write_text(out / "classes.txt", "".join(f"{name}\n" for name in classes))
    for part in parts:
        columns = replace(part.columns, names=[name.replace("/", "_") for name in part.columns.names])
        (out / "annotations" / part.name).mkdir(parents=True)
        for index, name in enumerate(distinct(columns.names, stem_of, report)):
            class_map = part.columns.class_map(index)
            if (class_map == IGNORE).any():
                report.lose("masks with pixels without a class, as 255 (read with --data.ignore_index 255)", 1)
            Image.fromarray(class_map).save(out / "annotations" / part.name / f"{stem_of(name)}.png")
            copy_image(part.columns, index, out / "images" / part.name / name)
        report.splits[part.name] = len(columns), len(columns)
