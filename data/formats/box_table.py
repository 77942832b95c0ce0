"""Collects the images and boxes of a split while a format reads them, and builds their columns."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from backbones.errors import BadInput
from data.columns import BoxColumns, digest_of
from data.formats.shapes import Box

log = logging.getLogger(__name__)


class BoxTable:
    """Images and boxes of one split, for formats without ids.

    Args:
        source: the file or folder that messages name.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.skipped: Counter[str] = Counter()  # kinds of shapes that have no box
        self._images: dict[str, int] = {}
        self._sizes: list[tuple[int, int]] = []
        self._rows: list[tuple[int, str, Box, bool, bool]] = []

    @property
    def labels(self) -> set[str]:
        """The classes of the boxes."""
        return {row[1] for row in self._rows}

    def image(self, name: str, size: tuple[int, int] = (0, 0)) -> int:
        """Its number; the image is added if it is new. `size`: height and width as annotated, 0 if they are not."""
        if name not in self._images:
            self._images[name] = len(self._images)
            self._sizes.append(size)
        number = self._images[name]
        if self._sizes[number] != size and 0 not in size:
            if 0 not in self._sizes[number]:
                (h1, w1), (h2, w2) = self._sizes[number], size
                raise BadInput(f"{self.source} says that image {name} is {w1} x {h1} and that it is {w2} x {h2} pixels")
            self._sizes[number] = size
        return number

    def box(self, image: int, label: str, box: Box, crowd: bool = False, difficult: bool = False) -> None:
        """Add an object: its image's number, its class, and its corners in pixels."""
        self._rows.append((image, label, box, crowd, difficult))

    def columns(
        self,
        folder: Path,
        classes: Sequence[str] | None = None,
        category_ids: Sequence[int] | None = None,
        left_out: Mapping[str, list[str]] | None = None,
    ) -> BoxColumns:
        """The columns, with the images sorted by name and numbered from 1.

        Args:
            folder: folder of the images.
            classes: class names in the order of the data set; by default those of the boxes, sorted. A class of a box
                that is not among them is added.
            category_ids: ids of these classes; by default they are counted from 1.
            left_out: see `Columns`.
        """
        self._report_skipped()
        if not self._images:
            raise BadInput(f"{self.source} has no images")
        names = sorted(self._images)
        position = np.empty(len(names), np.int64)
        position[[self._images[name] for name in names]] = np.arange(len(names))
        found = sorted(self.labels, key=natural)
        listed = list(classes) if classes is not None else found
        listed += [name for name in found if name not in set(listed)]
        ids = list(category_ids) if category_ids is not None else list(range(1, len(listed) + 1))
        if not listed:
            raise BadInput(f"{self.source} has no objects in {len(names)} images")
        ids += range(max(ids, default=0) + 1, max(ids, default=0) + 1 + len(listed) - len(ids))
        index: dict[str, int] = {}
        for i, name in enumerate(listed):
            index.setdefault(name, i)
        order = np.argsort(position[np.array([row[0] for row in self._rows], np.int64)], kind="stable")
        rows = [self._rows[i] for i in order]
        image = position[np.array([row[0] for row in rows], np.int64)]
        label = np.array([index[row[1]] for row in rows], np.int64)
        boxes = np.array([row[2] for row in rows], np.float64).reshape(-1, 4)
        crowd, difficult = (np.array([row[i] for row in rows], bool) for i in (3, 4))
        sizes = np.array([self._sizes[self._images[name]] for name in names], np.int64).reshape(-1, 2)
        return BoxColumns(
            source=self.source,
            folder=folder,
            names=names,
            image_ids=np.arange(1, len(names) + 1),
            classes=tuple(listed),
            label_digest=digest_of(names, sizes, listed, np.array(ids), image, label, boxes, crowd, difficult),
            left_out=dict(left_out or {}),
            sizes=sizes,
            category_ids=tuple(ids),
            image=image,
            label=label,
            boxes=boxes,
            crowd=crowd,
            difficult=difficult,
            areas=np.full(len(rows), np.nan),
        )

    def _report_skipped(self) -> None:
        if self.skipped:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.skipped.most_common())
            log.warning("%s: shapes without a box are left out: %s", self.source, kinds)


def natural(name: str) -> tuple[int, int, str]:
    """Key that sorts whole numbers by value, before other names."""
    is_number = name.isascii() and name.isdigit() and len(name) < 19
    return (0, int(name), name) if is_number else (1, 0, name)
