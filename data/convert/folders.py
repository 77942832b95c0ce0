"""Class folders: the images in OUT/{split}/{class}/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

from backbones.errors import BadInput
from data.columns import ClassColumns
from data.convert.parts import Part, Report, copy_image, distinct


def write(out: Path, parts: Sequence[Part[ClassColumns]], report: Report) -> None:
    """Write the splits. Raises BadInput for class names that cannot be names of folders."""
    classes = parts[0].columns.classes
    for name in classes:
        if not name or name.startswith(".") or any(character in name for character in "/\\\0\n"):
            raise BadInput(f"the class name {name!r} cannot be the name of a folder")
    for part in parts:
        columns = part.columns
        for name in classes:
            (out / part.name / name).mkdir(parents=True)
        targets = [
            f"{classes[label]}/{PurePath(name).name}" for label, name in zip(columns.label, columns.names, strict=True)
        ]
        for index, target in enumerate(distinct(targets, str.casefold, report)):
            copy_image(columns, index, out / part.name / target)
        report.splits[part.name] = len(columns), len(columns)
