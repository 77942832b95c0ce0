"""Writes small COCO data sets of coloured boxes, for tests of what annotation files really contain."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # EXIF tag


def write_coco(
    root: Path,
    names: tuple[Any, ...] = ("red", "blue"),
    size: tuple[int, int] = (96, 64),
    change: Callable[[dict[str, Any], str], Any] | None = None,
    orientation: int = 1,
) -> Path:
    """Two splits of two images, each with one 20 x 10 box of each class.

    Args:
        root: folder to create.
        names: of the classes; their ids are 1, 2, ...
        size: width and height of the upright image.
        change: edits the document of a split.
        orientation: EXIF tag of the files: 1, or 6 for pixels that are stored turned.
    """
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / split).mkdir()
        document: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
        }
        for image_id in (7, 9):
            pixels = np.full((size[1], size[0], 3), 100, np.uint8)
            for category in range(1, len(names) + 1):
                x, y = 4 + 8 * category + image_id, 5 * category
                pixels[y : y + 10, x : x + 20] = 255 if category == 1 else 0
                document["annotations"].append(
                    {
                        "id": len(document["annotations"]) + 1,
                        "image_id": image_id,
                        "category_id": category,
                        "bbox": [x, y, 20, 10],
                        "area": 200,
                        "iscrowd": 0,
                    }
                )
            exif = Image.Exif()
            exif[ORIENTATION] = orientation
            stored = np.rot90(pixels) if orientation == 6 else pixels
            Image.fromarray(stored).save(root / split / f"{image_id}.png", exif=exif)
            document["images"].append(
                {"id": image_id, "file_name": f"{image_id}.png", "width": size[0], "height": size[1]}
            )
        if change is not None:
            change(document, split)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return root
