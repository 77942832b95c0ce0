"""YOLO: OUT/data.yaml, the images in OUT/images/{split}/ and a label file for each in OUT/labels/{split}/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from data.columns import BoxColumns
from data.convert.boxes import distinct_stems, finite_only, report_coco_fields, report_orientation, without_crowds
from data.convert.parts import Part, Report, copy_image, stem_of, write_text


def write(out: Path, parts: Sequence[Part[BoxColumns]], report: Report) -> None:
    """Write the splits. Boxes whose numbers would leave 0 to 1, which YOLO's tools refuse, are clipped to the image.

    Lost: crowd regions, difficult marks, ids and areas.
    """
    report_coco_fields(parts, report, first_category=0)
    names = dict(enumerate(parts[0].columns.classes))
    splits = {part.name: f"images/{part.name}" for part in parts}
    content = yaml.safe_dump({**splits, "names": names}, sort_keys=False, allow_unicode=True)
    write_text(out / "data.yaml", content)
    for part, file_names in zip(parts, distinct_stems(parts, report), strict=True):
        columns = without_crowds(finite_only(part.columns, report), report)
        report_orientation(part, False, report)
        report.lose("marks of difficult objects (they become ordinary objects)", columns.difficult.sum())
        fractions, columns = _fractions(columns, report)
        lines: list[list[str]] = [[] for _ in range(len(columns))]
        for image, label, values in zip(columns.image, columns.label, fractions.tolist(), strict=True):
            lines[image].append(" ".join([str(label), *map(repr, values)]))
        for index, name in enumerate(file_names):
            copy_image(columns, index, out / "images" / part.name / name)
            text = "".join(f"{line}\n" for line in lines[index])
            write_text(out / "labels" / part.name / f"{stem_of(name)}.txt", text)
        report.splits[part.name] = len(columns), len(columns.boxes)


def _fractions(columns: BoxColumns, report: Report) -> tuple[np.ndarray, BoxColumns]:
    """(N, 4) centre, width and height as fractions of the image, and the columns with these boxes."""
    limits = columns.sizes[columns.image][:, [1, 0, 1, 0]]
    values = _centres(columns.boxes / limits)
    beyond = np.any((values < 0) | (values > 1), axis=1)
    clipped = columns.boxes.clip(0, limits)
    outside = beyond & np.any(clipped[:, 2:] <= clipped[:, :2], axis=1)
    report.lose("boxes that are outside of their image or have a negative size", outside.sum())
    report.lose("parts of boxes beyond the image (they are clipped)", (beyond & ~outside).sum())
    values = np.where(beyond[:, None], _centres(clipped / limits), values)
    held = np.flatnonzero(~outside)
    return values[held], columns.of_boxes(held)


def _centres(corners: np.ndarray) -> np.ndarray:
    sizes = corners[:, 2:] - corners[:, :2]
    return np.concatenate([corners[:, :2] + sizes / 2, sizes], axis=1)
