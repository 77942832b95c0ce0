"""What an audit looks for in labels, in each of the three layouts.

The readers stop at the first fault; here all of them are counted, so files are read leniently.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backbones.errors import BadInput
from data.formats.coco_json import locate
from data.formats.folders import SUFFIXES
from data.formats.masks import ALIASES
from data.formats.masks import SUFFIXES as MASKED
from experiments.audit.images import EXAMPLES, Finding

FEW = 10  # examples of a class below which little is learned of it


@dataclass
class Labels:
    """One split as it lies on disk.

    Attributes:
        images: files that exist.
        balance: examples by class: images, boxes, or pixels.
        boxes: (N, 2) widths and heights as shares of their image's, for detection.
        box_images: (N, 2) height and width in px of the image of each.
        findings: faults of this split.
    """

    images: list[Path]
    balance: dict[str, int] = field(default_factory=dict)
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    box_images: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    findings: list[Finding] = field(default_factory=list)


def layout_of(root: Path) -> str:
    """Which task's layout `root` has. Raises BadInput where it is none."""
    if not root.is_dir():
        raise BadInput(f"no data set at {root}: there is no such folder")
    if list((root / "annotations").glob("instances_*.json")):
        return "detection"
    if (root / "images").is_dir() and (root / "annotations").is_dir():
        return "segmentation"
    if any(folder.is_dir() for split in root.iterdir() if split.is_dir() for folder in split.iterdir()):
        return "classification"
    raise BadInput(
        f"{root} has none of the three layouts: annotations/instances_train.json; images/ and annotations/ with one "
        "folder a split; or a folder for each split with one for each class"
    )


def splits_of(root: Path, layout: str) -> list[str]:
    """The splits that are there, train and val first."""
    if layout == "detection":
        names = [path.stem.removeprefix("instances_") for path in (root / "annotations").glob("instances_*.json")]
    else:
        places = root / "images" if layout == "segmentation" else root
        names = [path.name for path in places.iterdir() if path.is_dir()]
    first = ("train", "training", "train2017", "val", "validation", "val2017")
    return sorted(names, key=lambda name: (first.index(name) if name in first else len(first), name))


def read_detection(root: Path, split: str) -> Labels:
    """COCO annotations, with all their faults."""
    file, folder = locate(root, split)
    try:
        document = json.loads(file.read_bytes())
        images = {record["id"]: record for record in document["images"]}
        names = {record["id"]: str(record["name"]) for record in document["categories"]}
        records: list[dict[str, Any]] = document["annotations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} is not a COCO instances file: {error!r}") from error
    found, faults = Labels([]), _Faults(split)
    ids = sorted(names)
    if ids and ids[0] == 0:
        faults.add("note", "category ids begin at 0, where COCO's begin at 1", "nothing: original ids are kept", ids[0])
    if len(set(names.values())) < len(names):
        faults.add("error", "categories share a name", "give each its own, or join them", *names.values())
    for key in (key for key, n in Counter(record["id"] for record in document["images"]).items() if n > 1):
        faults.add("error", "image ids are used twice", "give each image its own", key)
    for key in (key for key, n in Counter(record.get("id") for record in records).items() if n > 1):
        faults.add("error", "annotation ids are used twice", "give each annotation its own", key)
    for record in images.values():
        path = folder / str(record["file_name"])
        if path.is_file():
            found.images.append(path)
        else:
            faults.add("error", "images are named but absent", "fetch them, or leave them out", record["file_name"])
    sizes, inputs, seen, with_boxes = [], [], set(), set()
    for record in records:
        image, key = images.get(record.get("image_id")), record.get("id")
        if image is None:
            faults.add("error", "annotations are of an image that is not listed", "remove them", key)
            continue
        if record.get("category_id") not in names:
            faults.add("error", "annotations have a category that is not listed", "list it, or remove them", key)
            continue
        x, y, width, height = (float(v) for v in record["bbox"])
        limits = float(image["width"]), float(image["height"])
        with_boxes.add(record["image_id"])
        if not (np.isfinite([x, y, width, height]).all() and width > 0 and height > 0):
            faults.add("warning", "boxes have no area", "remove them; training drops them", key)
            continue
        if x >= limits[0] or y >= limits[1] or x + width <= 0 or y + height <= 0:
            faults.add("warning", "boxes lie outside their image", "mend or remove them; training drops them", key)
            continue
        if x < -1 or y < -1 or x + width > limits[0] + 1 or y + height > limits[1] + 1:
            faults.add("note", "boxes reach more than a pixel beyond their image", "training clips them", key)
        label = record["image_id"], record["category_id"], *record["bbox"]
        if label in seen:
            faults.add("warning", "boxes are there twice, with the same class", "remove one of each", key)
        seen.add(label)
        if not record.get("iscrowd"):
            sizes.append((width / limits[0], height / limits[1]))
            inputs.append((limits[1], limits[0]))
            name = names[record["category_id"]]
            found.balance[name] = found.balance.get(name, 0) + 1
    found.balance = {names[key]: found.balance.get(names[key], 0) for key in ids}
    empty = [images[key]["file_name"] for key in images.keys() - with_boxes]
    if empty:
        faults.add("note", "images are without boxes", "nothing, if there is nothing in them", *map(str, sorted(empty)))
    found.boxes, found.box_images = np.array(sizes).reshape(-1, 2), np.array(inputs).reshape(-1, 2)
    found.findings = list(faults)
    return found


def read_segmentation(root: Path, split: str, seen: Callable[[], None]) -> Labels:
    """Images and masks; `seen` is called for each mask."""
    images = sorted(p for p in (root / "images" / split).iterdir() if p.suffix.lower() in MASKED)
    masks = {p.stem: p for p in (root / "annotations" / split).glob("*.png")}
    listed = root / "classes.txt"
    names = [name.strip() for name in listed.read_text().splitlines() if name.strip()] if listed.is_file() else None
    found, faults, pixels = Labels(images), _Faults(split), np.zeros(256, np.int64)
    for path in images:
        mask = masks.pop(path.stem, None)
        if mask is None:
            faults.add("error", "images have no mask", f"expected {root}/annotations/{split}/NAME.png", path.name)
            continue
        try:
            with Image.open(mask) as opened, Image.open(path) as image:
                if opened.size != image.size:
                    faults.add("error", "masks are not of their image's size", "scale by nearest neighbours", path.name)
                if opened.mode not in ("L", "P"):
                    faults.add("error", f"masks are of mode {opened.mode}", "8-bit gray or palette is due", mask.name)
                    continue
                counts = np.bincount(np.asarray(opened).ravel(), minlength=256)
        except (OSError, SyntaxError) as error:
            faults.add("error", "masks cannot be read", "write them again", f"{mask.name}: {error}")
            continue
        pixels += counts
        seen()
    for stem in sorted(masks):
        faults.add("note", "masks have no image", "nothing: they are left alone", f"{stem}.png")
    if names is None:  # ADE20K's own layout: 0 is no class, 1 to 150 are
        found.balance = {str(value): int(count) for value, count in enumerate(pixels) if value and count}
    else:
        found.balance = {name: int(pixels[i]) for i, name in enumerate(names)}
        beyond = np.flatnonzero(pixels[len(names) :]) + len(names)
        share = 100 * pixels[len(names) :].sum() / max(1, pixels.sum())
        if len(beyond):
            told = f"values {', '.join(map(str, beyond[:8]))} ({share:.1f}% of the pixels) are no index of a class"
            fix = "name one that means 'no class' with --data.ignore_index; mend the others"
            faults.add("warning" if len(beyond) == 1 else "error", told, fix, counted=False)
        if not pixels[0] and len(names) in beyond:
            told = f"value 0 never occurs, and {len(names)} does: the masks seem to count classes from 1"
            faults.add("error", told, "subtract 1, with what is 0 now becoming 255", counted=False)
    found.findings = list(faults)
    return found


def read_classification(root: Path, split: str) -> Labels:
    """Class folders."""
    found, faults = Labels([]), _Faults(split)
    for folder in sorted(path for path in (root / split).iterdir() if path.is_dir()):
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        found.images += files
        found.balance[folder.name] = len(files)
    found.findings = list(faults)
    return found


def balance_findings(splits: dict[str, Labels], unit: str) -> Iterator[Finding]:
    """Classes that are absent from a split, or rare in training."""
    known = list(dict.fromkeys(name for labels in splits.values() for name in labels.balance))
    for split, labels in splits.items():
        absent = [name for name in known if not labels.balance.get(name)]
        if absent:
            severity = "error" if ALIASES.get(split, split).startswith("train") else "warning"
            what = f"{split}: {len(absent)} of {len(known)} classes have no {unit}"
            yield Finding(severity, what, "they can neither be learned nor scored there", tuple(absent[:EXAMPLES]))  # type: ignore[arg-type]
        rare = [name for name in known if 0 < labels.balance.get(name, 0) < FEW]
        if rare and unit != "pixels":
            what = f"{split}: {len(rare)} classes have fewer than {FEW} {unit}"
            yield Finding("warning", what, "expect large intervals for them", tuple(rare[:EXAMPLES]))


class _Faults:
    """Faults of one split, counted by kind."""

    def __init__(self, split: str) -> None:
        self.split = split
        self.kinds: dict[tuple[str, str, str, bool], list[str]] = {}

    def add(self, severity: str, what: str, fix: str, *examples: Any, counted: bool = True) -> None:
        self.kinds.setdefault((severity, what, fix, counted), []).extend(str(example) for example in examples)

    def __iter__(self) -> Iterator[Finding]:
        for (severity, what, fix, counted), examples in self.kinds.items():
            text = f"{self.split}: {f'{len(examples)} ' if counted else ''}{what}"
            yield Finding(severity, text, fix, tuple(examples[:EXAMPLES]))  # type: ignore[arg-type]
