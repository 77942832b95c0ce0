"""Columns of boxes for tests, without files."""

from pathlib import Path

import numpy as np

from data.columns import BoxColumns


def box_columns(images, classes, image, label, boxes, crowd=None, difficult=None, size=200):
    """Images of `size` px with these boxes, xyxy px. Image ids count from 1."""
    none = np.zeros(len(boxes), bool)
    return BoxColumns(
        source=Path("boxes.json"),
        folder=Path("images"),
        names=[f"{i}.jpg" for i in range(1, images + 1)],
        image_ids=np.arange(1, images + 1),
        classes=tuple(f"class {i}" for i in range(classes)),
        label_digest=b"",
        sizes=np.full((images, 2), size),
        category_ids=tuple(range(1, classes + 1)),
        image=np.asarray(image),
        label=np.asarray(label),
        boxes=np.asarray(boxes, np.float64),
        crowd=none if crowd is None else crowd,
        difficult=none if difficult is None else difficult,
        areas=np.full(len(boxes), np.nan),
    )
