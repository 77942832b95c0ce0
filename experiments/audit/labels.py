"""Reads and checks labels in each of the three layouts.

The readers for training stop at the first problem. The audit counts all problems, so it reads files leniently.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backbones.errors import BadInput
from data.formats.coco import annotation_files
from data.images import IMAGE_SUFFIXES
from experiments.audit.images import EXAMPLES, Finding

FEW = 10  # examples of a class below which a model learns little about it
FIRST_SPLITS = ("train", "training", "train2017", "val", "validation", "val2017")

Track = Callable[[Sequence[Path], str], Iterable[Path]]  # shows the progress of a loop over files, with a description


@dataclass
class SplitLabels:
    """The labels of one split.

    Attributes:
        images: image files that exist.
        balance: number of images, boxes or pixels by class.
        boxes: (N, 2) widths and heights of boxes as shares of their image's width and height, for detection.
        box_images: (N, 2) heights and widths in pixels of the images of these boxes.
        findings: problems of this split.
    """

    images: list[Path]
    balance: dict[str, int] = field(default_factory=dict)
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    box_images: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    findings: list[Finding] = field(default_factory=list)


def locate(root: Path, split: str) -> tuple[Path, Path]:
    """The annotation file and image folder of a split in COCO's layout."""
    folders = [root / split, root / f"{split}2017"]
    return annotation_files(root)[split], next((folder for folder in folders if folder.is_dir()), folders[0])


def read_detection(root: Path, split: str, track: Track) -> SplitLabels:
    """Read COCO annotations and all their problems. Raises BadInput for a file that is no COCO instances file."""
    file, folder = locate(root, split)
    try:
        document = json.loads(file.read_bytes())
        images = {record["id"]: record for record in document["images"]}
        names = {record["id"]: str(record["name"]) for record in document["categories"]}
        annotations: list[dict[str, Any]] = document["annotations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} is not a COCO instances file: {error!r}") from error
    labels, problems = SplitLabels([]), _Problems(split)
    ids = sorted(names)
    if ids and ids[0] == 0:
        problems.add("note", "category ids start at 0, COCO's at 1", "nothing: original ids are kept", ids[0])
    if len(set(names.values())) < len(names):
        problems.add("error", "categories have the same name", "rename or merge them", *names.values())
    for key in _repeated(record["id"] for record in document["images"]):
        problems.add("error", "image ids are used twice", "give each image its own id", key)
    for key in _repeated(record.get("id") for record in annotations):
        problems.add("error", "annotation ids are used twice", "give each annotation its own id", key)
    for record in images.values():
        path = folder / str(record["file_name"])
        if path.is_file():
            labels.images.append(path)
        else:
            problems.add("error", "images are listed but absent", "fetch them or remove them", record["file_name"])
    sizes, image_sizes, seen, with_boxes = [], [], set(), set()
    for annotation in annotations:
        image, key = images.get(annotation.get("image_id")), annotation.get("id")
        if image is None:
            problems.add("error", "annotations have an image that is not listed", "remove them", key)
            continue
        if annotation.get("category_id") not in names:
            problems.add("error", "annotations have a category that is not listed", "list it or remove them", key)
            continue
        with_boxes.add(annotation["image_id"])
        limits = float(image["width"]), float(image["height"])
        if not _check_box(annotation["bbox"], limits, key, problems):
            continue
        label = annotation["image_id"], annotation["category_id"], *annotation["bbox"]
        if label in seen:
            problems.add("warning", "boxes are duplicates of the same class", "remove one of each pair", key)
        seen.add(label)
        if not annotation.get("iscrowd"):
            width, height = (float(v) for v in annotation["bbox"][2:])
            sizes.append((width / limits[0], height / limits[1]))
            image_sizes.append((limits[1], limits[0]))
            name = names[annotation["category_id"]]
            labels.balance[name] = labels.balance.get(name, 0) + 1
    labels.balance = {names[key]: labels.balance.get(names[key], 0) for key in ids}
    empty = sorted(str(images[key]["file_name"]) for key in images.keys() - with_boxes)
    if empty:
        problems.add("note", "images have no boxes", "nothing, if they contain no object", *empty)
    labels.boxes, labels.box_images = np.array(sizes).reshape(-1, 2), np.array(image_sizes).reshape(-1, 2)
    labels.findings = list(problems)
    return labels


def _repeated(ids: Iterable[Any]) -> list[Any]:
    return [key for key, count in Counter(ids).items() if count > 1]


def _check_box(box: Sequence[float], limits: tuple[float, float], key: Any, problems: _Problems) -> bool:
    """Check a box (x, y, width, height) in an image of width and height `limits`; False if training drops it."""
    x, y, width, height = (float(v) for v in box)
    if not (np.isfinite([x, y, width, height]).all() and width > 0 and height > 0):
        problems.add("warning", "boxes have no area", "remove them; training drops them", key)
        return False
    if x >= limits[0] or y >= limits[1] or x + width <= 0 or y + height <= 0:
        problems.add("warning", "boxes are outside their image", "correct or remove them; training drops them", key)
        return False
    if x < -1 or y < -1 or x + width > limits[0] + 1 or y + height > limits[1] + 1:
        problems.add("note", "boxes extend more than a pixel beyond their image", "nothing: training clips them", key)
    return True


def read_segmentation(root: Path, split: str, track: Track) -> SplitLabels:
    """Read images and masks, and all their problems."""
    images = sorted(p for p in (root / "images" / split).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    masks = {p.stem: p for p in (root / "annotations" / split).glob("*.png")}
    class_file = root / "classes.txt"
    names = None
    if class_file.is_file():
        names = [name.strip() for name in class_file.read_text().splitlines() if name.strip()]
    labels, problems, pixels = SplitLabels(images), _Problems(split), np.zeros(256, np.int64)
    for path in track(images, f"masks of {split}"):
        mask = masks.pop(path.stem, None)
        if mask is None:
            problems.add("error", "images have no mask", f"add {root}/annotations/{split}/NAME.png", path.name)
            continue
        try:
            with Image.open(mask) as opened, Image.open(path) as image:
                if opened.size != image.size:
                    problems.add("error", "masks have another size than their image",
                                 "scale them with nearest-neighbour interpolation", path.name)  # fmt: skip
                if opened.mode not in ("L", "P"):
                    problems.add("error", f"masks have mode {opened.mode}", "use 8-bit gray or palette", mask.name)
                    continue
                pixels += np.bincount(np.asarray(opened).ravel(), minlength=256)
        except (OSError, SyntaxError) as error:
            problems.add("error", "masks cannot be read", "write them again", f"{mask.name}: {error}")
    for stem in sorted(masks):
        problems.add("note", "masks have no image", "nothing: they are not used", f"{stem}.png")
    if names is None:  # ADE20K's own layout: 0 is no class, and 1 to 150 are classes
        labels.balance = {str(value): int(count) for value, count in enumerate(pixels) if value and count}
    else:
        labels.balance = {name: int(pixels[i]) for i, name in enumerate(names)}
        _check_values(pixels, len(names), problems)
    labels.findings = list(problems)
    return labels


def _check_values(pixels: np.ndarray, num_classes: int, problems: _Problems) -> None:
    """Check the values of masks. `pixels`: (256,) number of pixels with each value."""
    values = np.flatnonzero(pixels[num_classes:]) + num_classes
    share = 100 * pixels[num_classes:].sum() / max(1, pixels.sum())
    if len(values):
        listed = ", ".join(map(str, values[:8]))
        what = f"values {listed} ({share:.1f}% of the pixels) are not the index of a class"
        fix = "pass --data.ignore_index for a value that means 'no class'; correct the others"
        problems.add("warning" if len(values) == 1 else "error", what, fix, counted=False)
    if not pixels[0] and num_classes in values:
        what = f"value 0 does not occur but {num_classes} does: the masks seem to number classes from 1"
        problems.add("error", what, "subtract 1, and replace 0 by 255", counted=False)


def read_classification(root: Path, split: str, track: Track) -> SplitLabels:
    """Read class folders."""
    labels = SplitLabels([])
    for folder in sorted(path for path in (root / split).iterdir() if path.is_dir()):
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        labels.images += files
        labels.balance[folder.name] = len(files)
    return labels


@dataclass(frozen=True)
class Layout:
    """A way to store a data set on disk.

    Attributes:
        name: as `audit.json` stores it.
        unit: what its labels count by class.
        matches: whether a folder has this layout.
        split_names: names of the splits in a folder.
        read: folder, split and progress of a loop -> the labels of the split.
    """

    name: str
    unit: str
    matches: Callable[[Path], bool]
    split_names: Callable[[Path], list[str]]
    read: Callable[[Path, str, Track], SplitLabels]


def _folders(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.is_dir()]


def _instance_files(root: Path) -> list[str]:
    return [path.stem.removeprefix("instances_") for path in (root / "annotations").glob("instances_*.json")]


LAYOUTS = (  # the first one that matches
    Layout("detection", "boxes", lambda root: bool(_instance_files(root)), _instance_files, read_detection),
    Layout(
        "segmentation",
        "pixels",
        lambda root: (root / "images").is_dir() and (root / "annotations").is_dir(),
        lambda root: _folders(root / "images"),
        read_segmentation,
    ),
    Layout(
        "classification",
        "images",
        lambda root: any(_folders(root / split) for split in _folders(root)),
        _folders,
        read_classification,
    ),
)


def layout_of(root: Path) -> Layout:
    """Return the layout of a folder. Raises BadInput if it has none of the three."""
    if not root.is_dir():
        raise BadInput(f"no data set at {root}: there is no such folder")
    for layout in LAYOUTS:
        if layout.matches(root):
            return layout
    raise BadInput(
        f"{root} has none of the three layouts: annotations/instances_train.json; images/ and annotations/ with one "
        "folder per split; or one folder per split with one folder per class"
    )


def splits_of(root: Path, layout: Layout) -> list[str]:
    """Return the names of the splits, train and val first."""
    names = layout.split_names(root)
    order = {name: place for place, name in enumerate(FIRST_SPLITS)}
    return sorted(names, key=lambda name: (order.get(name, len(order)), name))


def balance_findings(splits: dict[str, SplitLabels], unit: str) -> Iterator[Finding]:
    """Yield findings on classes that are absent from a split or rare. `unit`: of the labels' balance."""
    known = list(dict.fromkeys(name for labels in splits.values() for name in labels.balance))
    for split, labels in splits.items():
        absent = [name for name in known if not labels.balance.get(name)]
        if absent:
            severity = "error" if split.startswith("train") else "warning"
            what = f"{split}: {len(absent)} of {len(known)} classes have no {unit}"
            yield Finding(severity, what, "they can be neither learned nor scored there", tuple(absent[:EXAMPLES]))  # type: ignore[arg-type]
        rare = [name for name in known if 0 < labels.balance.get(name, 0) < FEW]
        if rare and unit != "pixels":
            what = f"{split}: {len(rare)} classes have fewer than {FEW} {unit}"
            yield Finding("warning", what, "expect wide intervals for their scores", tuple(rare[:EXAMPLES]))


class _Problems:
    """Problems of one split, counted by kind."""

    def __init__(self, split: str) -> None:
        self.split = split
        self.kinds: dict[tuple[str, str, str, bool], list[str]] = {}

    def add(self, severity: str, what: str, fix: str, *examples: Any, counted: bool = True) -> None:
        self.kinds.setdefault((severity, what, fix, counted), []).extend(str(example) for example in examples)

    def __iter__(self) -> Iterator[Finding]:
        for (severity, what, fix, counted), examples in self.kinds.items():
            text = f"{self.split}: {f'{len(examples)} ' if counted else ''}{what}"
            yield Finding(severity, text, fix, tuple(examples[:EXAMPLES]))  # type: ignore[arg-type]
