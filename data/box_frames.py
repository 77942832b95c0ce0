"""The frame of boxes: the image size and orientation to which their coordinates refer.

Tools disagree on both. Some write the size of the stored pixels, others that of the upright image; some label the one,
others the other.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from backbones.errors import BadInput
from data.columns import BoxColumns
from data.findings import warn_or_raise
from data.image_checks import further_bands, unclear_orientations
from data.scan import Headers, sample_of, scan

SLACK = 1.0  # px by which boxes may exceed the image they fit

log = logging.getLogger(__name__)


def in_label_frame(
    columns: BoxColumns, exif: str, scale_boxes: bool, skip_bad: int = 0, is_rgb: bool = True
) -> BoxColumns:
    """The columns with the sizes of the images in the frame of the boxes, and with boxes in pixels of that frame.

    Reads headers only where the annotations do not suffice: of all images if sizes are missing, if `exif` is "apply" or
    if boxes are scaled; otherwise of a sample and of the images whose boxes fit only the turned image.

    Args:
        columns: as the format returns them.
        exif: "auto", "apply" or "ignore".
        scale_boxes: whether to scale boxes from the annotated sizes to those of the files.
        skip_bad: number of images that may be unreadable or of another size.
        is_rgb: whether images are read as 8-bit RGB, whatever bands the files have.

    Raises BadInput if sizes contradict the files.
    """
    unknown = np.any(columns.sizes < 1, axis=1)
    unsure = np.zeros(len(columns), bool)
    everything = scale_boxes or exif == "apply"
    if everything or unknown.any():
        headers = scan(columns, np.arange(len(columns)) if everything else np.flatnonzero(unknown))
        columns = _from_headers(columns, headers, exif, scale_boxes)
    elif exif == "auto":
        annotated = columns.sizes
        columns = _turned_where_boxes_fit_only_then(columns)
        changed = (columns.sizes != annotated).any(1)
        unsure = ~changed & changed.any()  # sizes that the tool writes are not those of its boxes
    _check_sample(columns, exif, unknown | columns.sizes_of_files | unsure, skip_bad, is_rgb)
    return columns


def _from_headers(columns: BoxColumns, headers: Headers, exif: str, scale_boxes: bool) -> BoxColumns:
    """Sizes from the files. Boxes are scaled from other annotated sizes if `scale_boxes`."""
    readable = headers.sizes[:, 0] > 0
    index = headers.index[readable]
    files = (headers.upright_sizes if exif == "apply" else headers.sizes)[readable]
    annotated = columns.sizes[index]
    known = (annotated > 0).all(1)
    turned = headers.turned[readable] & (annotated == files[:, ::-1]).all(1)
    if exif == "auto":  # labels of the upright image, and its size
        files = np.where(turned[:, None], files[:, ::-1], files)
    # With "apply", a tool may have written the stored size beside boxes of the upright image.
    differ = known & (annotated != files).any(1)
    if exif == "apply":
        differ &= ~turned
    sizes, boxes = columns.sizes.copy(), columns.boxes
    if scale_boxes:
        scale = np.ones((len(columns), 2))
        scale[index[differ]] = (files / annotated.clip(1))[differ][:, ::-1]
        boxes = boxes * scale[columns.image][:, [0, 1, 0, 1]]
        log.info("%d of %d images: boxes are scaled to the size of the file", differ.sum(), len(columns))
        area = scale.prod(1)[columns.image] * columns.areas
        columns = replace(columns, areas=area)
        sizes[index] = files
    else:
        sizes[index] = np.where(differ[:, None], annotated, files)
    unread = (sizes < 1).any(1)
    if unread.any():
        sizes[unread] = 1  # their boxes lie outside and are left out; reading reports the file
    return replace(columns, sizes=sizes, boxes=boxes)


def _turned_where_boxes_fit_only_then(columns: BoxColumns) -> BoxColumns:
    """Exchange width and height where the boxes fit only then, of images with an EXIF orientation that exchanges them.

    Boxes that fit only the upright image belong to it, though the tool wrote the stored size; and the other way round.
    """
    first = columns.image
    limits = columns.sizes[first][:, ::-1]
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(columns.boxes).all(1) & ~columns.crowd
        beyond = finite & (columns.boxes[:, 2:] > limits + SLACK).any(1)
        beyond_turned = finite & (columns.boxes[:, 2:] > limits[:, ::-1] + SLACK).any(1)
    candidate = np.zeros(len(columns), bool)
    candidate[first[beyond]] = True
    candidate[first[beyond_turned]] = False
    candidate &= columns.sizes[:, 0] != columns.sizes[:, 1]
    if not candidate.any():
        return columns
    headers = scan(columns, np.flatnonzero(candidate))
    of_stored = headers.turned & (headers.sizes == columns.sizes[headers.index]).all(1)
    of_upright = headers.turned & (headers.upright_sizes == columns.sizes[headers.index]).all(1)
    if of_stored.any():
        log.info("%d images: their boxes fit only the upright image, so it is turned by its EXIF tag", of_stored.sum())
    if of_upright.any():
        log.warning(
            "%s: the sizes of %d images are those of the upright image, but their boxes fit only the stored image. "
            "It is read as stored. Look at the boxes of the others",
            columns.source,
            of_upright.sum(),
        )
    turned = headers.index[of_stored | of_upright]
    sizes = columns.sizes.copy()
    sizes[turned] = sizes[turned][:, ::-1]
    return replace(columns, sizes=sizes)


def _check_sample(columns: BoxColumns, exif: str, unknown: np.ndarray, skip_bad: int, is_rgb: bool) -> None:
    """Compare sizes with a sample of the files, and report orientations that the labels do not resolve.

    `unknown`: (n,) bool, whether the labels state no image size.
    """
    headers = scan(columns, sample_of(columns))
    readable = headers.sizes[:, 0] > 0
    annotated = columns.sizes[headers.index]
    stored_fits = (annotated == headers.sizes).all(1)
    upright_fits = (annotated == headers.upright_sizes).all(1)
    fits = stored_fits if exif == "ignore" else upright_fits if exif == "apply" else stored_fits | upright_fits
    wrong = np.flatnonzero(readable & ~fits)
    if len(wrong) > skip_bad:
        _refuse(columns, headers, int(wrong[0]), len(wrong))
    if exif == "auto":
        unclear = headers.tagged & (~headers.turned | headers.is_square | unknown[headers.index])
        warn_or_raise(unclear_orientations(columns, headers, readable & unclear))
    if is_rgb:
        warn_or_raise(further_bands(columns, headers))


def _refuse(columns: BoxColumns, headers: Headers, row: int, count: int) -> None:
    index = int(headers.index[row])
    height, width = headers.sizes[row]
    labelled_height, labelled_width = columns.sizes[index]
    if (width, height) == (labelled_height, labelled_width):
        advice = (
            "Width and height are exchanged: the file was rotated after it was labelled, or lost its EXIF tag, or the "
            "labels state them in the wrong order. If the boxes lie on the objects, remove the sizes from the labels"
        )
    else:
        advice = "Boxes would be misplaced. To scale them by the files' sizes, pass `scale_boxes=True`"
    raise BadInput(
        f"the image sizes in {columns.source} contradict the files: image {columns.folder / columns.names[index]} is "
        f"{width} x {height} pixels, but its annotation says {labelled_width} x {labelled_height} ({count} of the "
        f"{len(headers.index)} checked images contradict). {advice}",
        settings=("data.scale_boxes",),
    )
