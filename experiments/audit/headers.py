"""Findings from the headers of image files: sizes, orientations and bit depths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from backbones.errors import BadInput
from data.findings import EXAMPLES, Finding
from data.levels import FULL
from data.scan import Headers
from experiments.audit.splits import AuditedSplit, Opened

TINY, LONG = 32, 4.0  # limits of usual images: shorter side in pixels, and longer side divided by shorter


def header_findings(opened: Opened, headers: dict[str, Headers]) -> list[Finding]:
    """Findings from the headers of some or all images of each split."""
    return [
        finding
        for split in opened.splits
        if split.name in headers
        for finding in (*_sizes(split, headers[split.name]), *_orientations(split, headers[split.name]),
                        *_depths(split, headers[split.name], opened))
    ]  # fmt: skip


def _sizes(split: AuditedSplit, headers: Headers) -> Iterator[Finding]:
    shorter, longer = headers.sizes.min(1), headers.sizes.max(1)
    tiny = (shorter > 0) & (shorter < TINY)
    if tiny.any():
        yield _of(split, headers, tiny, "warning", f"{{}} have a side below {TINY} px",
                  "Leave them out if they are thumbnails or icons")  # fmt: skip
    long = longer > LONG * shorter.clip(1)
    if long.any():
        yield _of(split, headers, long, "note", f"{{}} are more than {LONG:g} times as long as wide",
                  "Cut them into tiles")  # fmt: skip


def _orientations(split: AuditedSplit, headers: Headers) -> Iterator[Finding]:
    """Images with an EXIF orientation, and how many of them are read upright.

    Where the labels do not show how an image was labelled, training warns. Nothing is repeated that it says.
    """
    tagged = headers.tagged
    if not tagged.any() or split.dataset is None:
        return
    rows = np.flatnonzero(tagged).tolist()
    mode = split.dataset.exif
    if mode == "auto":
        upright = sum(_reads_upright(split, headers, row) for row in rows)
    else:
        upright = len(rows) if mode == "apply" else 0
    what = f"{{}} have an EXIF orientation: {upright} of them are read upright, {len(rows) - upright} as stored"
    if upright or mode != "auto" or hasattr(split.dataset, "sizes"):
        yield _of(split, headers, tagged, "note", what, "See --data.exif")


def _reads_upright(split: AuditedSplit, headers: Headers, row: int) -> bool:
    """Whether an image is turned because its labels fit only the upright image, see `ImageReader.pixels`."""
    index = int(headers.index[row])
    size: tuple[int, ...] = ()
    if hasattr(split.dataset, "sizes"):
        size = tuple(split.dataset.sizes[index].tolist())
    elif hasattr(split.dataset.columns, "class_map"):
        try:
            size = split.dataset.columns.class_map(index).shape
        except BadInput:  # reported where all images are checked
            return False
    return size != tuple(headers.sizes[row].tolist()) and size == tuple(headers.upright_sizes[row].tolist())


def _depths(split: AuditedSplit, headers: Headers, opened: Opened) -> Iterator[Finding]:
    """Images with 16 bits. If their values do not fill 16 bits, training warns instead."""
    deep = headers.bits > 8
    levels = opened.levels or (0, FULL)
    if deep.any() and levels[1] - levels[0] >= FULL / 2:
        yield _of(
            split, headers, deep, "note", f"{{}} have more than 8 bits per channel. The values {levels[0]} to "
            f"{levels[1]} are scaled to the input of the network",
            "Nothing, if this is the range of the camera",
        )  # fmt: skip


def _of(split: AuditedSplit, headers: Headers, rows: np.ndarray, severity: str, what: str, fix: str) -> Finding:
    """A finding with the images of some rows of the headers as examples. `what` has a place for their number."""
    number = f"{split.name}: {int(rows.sum())} of {len(headers.index)} images"
    files: list[Path] = [split.files[i] for i in headers.index[rows][:EXAMPLES].tolist()]
    return Finding.of_files(severity, what.format(number), fix, files)  # type: ignore[arg-type]
