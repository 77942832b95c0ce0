"""What the writers of boxes share: what a layout cannot hold leaves the columns and is counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.columns import BoxColumns
from data.convert.parts import Part, Report, distinct, stem_of
from data.scan import scan

SAME_AREA = 1e-6  # relative difference below which the area of an object is that of its box


def finite_only(columns: BoxColumns, report: Report) -> BoxColumns:
    """The columns without boxes that have a coordinate that is not a finite number."""
    finite = np.isfinite(columns.boxes).all(1)
    report.lose("boxes with coordinates that are not finite", (~finite).sum())
    return columns.of_boxes(finite)


def without_crowds(columns: BoxColumns, report: Report) -> BoxColumns:
    """The columns without crowd regions, which would otherwise become objects."""
    report.lose("crowd regions", columns.crowd.sum())
    return columns.of_boxes(~columns.crowd)


def report_coco_fields(parts: Sequence[Part[BoxColumns]], report: Report, first_category: int) -> None:
    """Count what only COCO's files state: areas, partly labelled images, and ids.

    Other layouts number images from 1 by name, and categories from `first_category`.
    """
    for part in parts:
        columns = part.columns
        incomplete = 0 if columns.complete is None else (~columns.complete).sum()
        report.lose("pairs of image and class whose objects may lack boxes", incomplete)
        order = np.argsort(np.array(columns.names))
        report.lose("ids of images", (columns.image_ids[order] != np.arange(1, len(order) + 1)).sum())
        sides = columns.boxes[:, 2:] - columns.boxes[:, :2]
        other = np.abs(columns.areas - sides.prod(1)) > SAME_AREA * columns.areas
        report.lose("areas of objects, other than those of their boxes", other.sum())
    own = np.array(parts[0].columns.category_ids)
    report.lose("ids of categories", (own != np.arange(first_category, first_category + len(own))).sum())


def report_orientation(part: Part[BoxColumns], states_sizes: bool, report: Report) -> None:
    """Count images with an EXIF orientation whose boxes a reader would take to belong to the other orientation.

    `states_sizes`: whether the layout has the size of each image, which shows the orientation where width and height
    differ and the tag exchanges them.
    """
    headers, sizes = scan(part.columns, np.arange(len(part.columns))), part.columns.sizes
    tagged = headers.orientation != 1
    shown = headers.turned & (headers.sizes[:, 0] != headers.sizes[:, 1])
    upright = tagged & (part.upright | (shown & (sizes == headers.upright_sizes).all(1)))
    needs_apply = upright & ~(shown & states_sizes)
    report.lose("orientations of images whose boxes are upright (read with --data.exif apply)", needs_apply.sum())
    if needs_apply.any():
        report.lose("orientations of images whose boxes are not upright, beside such images", (tagged & ~upright).sum())


def distinct_stems(parts: Sequence[Part[BoxColumns]], report: Report) -> list[list[str]]:
    """Names of the images of each part, whose stems differ within the part, for layouts with a label file per image."""
    return [distinct(part.columns.names, stem_of, report) for part in parts]
