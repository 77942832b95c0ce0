"""A contact sheet of the drawn scenes, which `python -m data.demo --picture` writes."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from backbones.errors import BadInput
from data.demo.scenes import STUFF, THINGS


def contact_sheet(root: Path) -> np.ndarray:
    """The demo data in `root` as one (H, W, 3) uint8 RGB picture: scenes with boxes, their masks, images of each class.

    Raises BadInput if an image cannot be read.
    """
    names, rows = STUFF + THINGS, []
    hues = np.stack([np.arange(len(names)) * 77 % 180, np.full(len(names), 200), np.full(len(names), 235)], 1)
    palette = cv2.cvtColor(hues[None].astype(np.uint8), cv2.COLOR_HSV2BGR)[0]
    detection, segmentation = root / "detection", root / "segmentation"
    truth = json.loads((detection / "annotations" / "instances_val.json").read_text())
    category_ids = [category["id"] for category in truth["categories"]]
    for start in range(0, min(10, len(truth["images"])), 5):
        boxed, masked = [], []
        for record in truth["images"][start : start + 5]:
            photo = _read(detection / "val" / record["file_name"])
            mask = _read(segmentation / "annotations/val" / record["file_name"].replace("jpg", "png"))[..., 0]
            tinted = (0.35 * photo + 0.65 * palette[mask]).astype(np.uint8)
            for stuff in (int(index) for index in np.unique(mask) if index < len(STUFF)):
                pixels = np.argwhere(mask == stuff)
                y, x = pixels[np.abs(pixels - pixels.mean(0)).sum(1).argmin()]
                _caption(tinted, STUFF[stuff], x - 15, y, (90, 90, 90))
            for item in (a for a in truth["annotations"] if a["image_id"] == record["id"]):
                thing = category_ids.index(item["category_id"])
                (x, y, w, h), colour = item["bbox"], (palette[len(STUFF) + thing] * 0.75).tolist()
                cv2.rectangle(photo, (x, y), (x + w - 1, y + h - 1), colour, 1)
                _caption(photo, THINGS[thing] + " crowd" * item["iscrowd"], x, y - 2, colour)
            boxed.append(photo)
            masked.append(tinted)
        rows += [_row(boxed, 256), _row(masked, 256)]
    files = [sorted((root / "classification/val" / name).iterdir())[:3] for name in THINGS]
    for paths in zip(*files, strict=True):
        portraits = [cv2.resize(_read(path), (144, 144)) for path in paths]
        for name, portrait in zip(THINGS, portraits, strict=True):
            _caption(portrait, name, 2, 12, (90, 90, 90))
        rows.append(_row(portraits, 144))
    width = max(row.shape[1] for row in rows)
    return np.vstack([np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0))) for row in rows])[..., ::-1]


def _read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    if image is None:
        raise BadInput(f"cannot read {path}. Delete the folder {path.parents[2]}; the next command draws it again.")
    return image


def _row(images: list[np.ndarray], height: int) -> np.ndarray:
    return np.hstack([cv2.resize(i, (round(i.shape[1] * height / i.shape[0]), height)) for i in images])


def _caption(image: np.ndarray, text: str, x: int, y: int, colour: Sequence[float]) -> None:
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.33, 1)
    left = max(0, min(int(x), image.shape[1] - width))
    base = max(int(y), height + 1)
    cv2.rectangle(image, (left, base - height - 1), (left + width, base + 1), colour, cv2.FILLED)
    cv2.putText(image, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, 0.33, (255, 255, 255), 1, cv2.LINE_AA)
