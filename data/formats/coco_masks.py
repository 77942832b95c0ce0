"""COCO's instances files as class maps: polygons and run lengths, in the folders of `data.formats.coco`.

Rules. Pixels without an object are class 0, "background", unless a category has that name. Larger objects are drawn
first, so that a smaller one in front of a larger one is visible; equal areas in the order of the file. Crowd regions
are pixels of their class. Categories of the same name are one class. Mask values, for `ignore_index`, are the category
ids, and 0 for the background (or the largest id + 1, if a category has the id 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, Struct

from backbones.errors import BadInput, UserError
from data.checks import TINY
from data.class_names import plain_name, printed_name
from data.columns import MaskColumns, digest_of
from data.formats import Format, Sniffed, Split
from data.formats import coco as boxes
from data.formats.coco_json import collector_paused, file_names, has_phantom
from data.formats.coco_json import read as read_tables
from data.formats.coco_records import Records
from data.formats.coco_shapes import Part, Shapes, area_of, parse_shape
from data.formats.masks import notes_on
from data.image_header import read_header
from data.images import MAX_PIXELS
from data.label_maps import LabelMap
from data.legend import Legend, build, with_ignored
from data.options import MaskOptions

BACKGROUND = "background"


class _Annotation(Struct):
    image_id: Any = UNSET
    category_id: Any = UNSET
    segmentation: msgspec.Raw = msgspec.Raw(b"null")


@dataclass(frozen=True)
class DrawnMaps:
    """index -> class map, drawn from shapes.

    Attributes:
        sizes: (n, 2) int64, height and width of the images.
        starts: (n + 1,) first shape of each image.
        labels: (N,) uint8, class index of each shape, in the order of drawing.
        shapes: the N shapes.
        background: class index of the other pixels.
    """

    sizes: np.ndarray
    starts: np.ndarray
    labels: np.ndarray
    shapes: Shapes
    background: int

    def __call__(self, index: int) -> np.ndarray:
        """(H, W) uint8."""
        height, width = self.sizes[index].tolist()
        class_map = np.full((height, width), self.background, np.uint8)
        for shape in range(self.starts[index], self.starts[index + 1]):
            class_map[self.shapes.draw(shape, height, width)] = self.labels[shape]
        return class_map


def sniff(root: Path) -> Sniffed | None:
    """The files of `data.formats.coco`. Whether they have segmentations, only all of a file shows."""
    found = boxes.sniff(root)
    return None if found is None else Sniffed(0.6, found.why)


@collector_paused()
def read(split: Split, options: MaskOptions) -> MaskColumns:
    """Images and class maps of one annotation file. Raises BadInput if it has no segmentations."""
    refuse_mask_files(options)
    file = boxes.annotation_files(split.root)[split.name] if split.name else split.root
    if file.is_dir():
        raise BadInput(f"{file} is a folder: name its annotation file, as in FILE:IMAGES")
    records = Records(read_tables(file, _Annotation), file)
    image_ids = records.unique("images", "id")
    names = file_names(records.values("images", "file_name"), file)
    folder = boxes.image_folder(file, names, split)
    sizes = image_sizes(records, folder, names)
    values, label_map, background = _label_map(records)
    legend = with_ignored(build(label_map), options.ignore_index)
    image = records.positions("image_id", image_ids)
    category = records.positions("category_id", records.unique("categories", "id"))
    parts, without = _parts(records, sizes, image)
    if len(without) == len(parts):
        raise BadInput(
            f"{file} has {len(parts)} annotations, and none has a segmentation: they are boxes, not masks"
            if parts
            else f"{file} has no annotations"
        )
    polygons = [numbers for own in parts for is_polygon, numbers in own if is_polygon]
    if polygons and max(np.abs(numbers).max() for numbers in polygons) <= TINY:
        raise BadInput(
            f"{file}: no polygon extends beyond {TINY:g} px: the coordinates are probably normalised, fractions of the "
            "image size. Multiply them by width and height of the image"
        )
    area = np.array([area_of(own) for own in parts])
    order = np.lexsort((-area, image))
    labels = np.array([legend.values.get(value, 0) for value in values], np.uint8)[category]
    notes = list(notes_on(legend))
    if without:
        notes.append(
            f"{file}: {len(without)} of {len(parts)} annotations have no usable segmentation, such as "
            f"annotations[{without[0]}]. Their pixels are background or another object"
        )
    shapes = Shapes.of([parts[i] for i in order])
    starts = np.searchsorted(image[order], np.arange(len(names) + 1))
    return MaskColumns(
        source=file,
        folder=folder,
        names=names,
        image_ids=image_ids,
        classes=legend.classes,
        label_digest=digest_of(
            names, image_ids, sizes, legend.classes, image[order], labels[order], *vars(shapes).values()
        ),
        class_map=DrawnMaps(sizes, starts, labels[order], shapes, legend.values[background]),
        ignored=legend.ignored,
        notes=tuple(notes),
    )


FORMAT = Format(
    name="coco-masks",
    kind="masks",
    layout="""
        ROOT/annotations/instances_train.json (or train2017) with images in ROOT/train/, or Roboflow's
        _annotations.coco.json, with polygons or run lengths""",
    sniff=sniff,
    splits=boxes.splits,
    read=read,
)


def refuse_mask_files(options: MaskOptions) -> None:
    """Raise UserError for settings that only mask files have."""
    for setting in ("mask_values", "mask_colors"):
        if getattr(options, setting):
            message = f"`{setting}` is for mask files, but these data have a JSON file that names the classes"
            raise UserError(message, settings=(f"data.{setting}",))


def image_sizes(records: Records, folder: Path, names: list[str]) -> np.ndarray:
    """(n, 2) int64, height and width as annotated, else of the files. Raises BadInput for impossible ones."""
    sizes = np.stack([records.integers("images", side, default=0) for side in ("height", "width")], axis=1)
    annotated = records.has("images", "height") & records.has("images", "width")
    for index in np.flatnonzero(~annotated):
        try:
            header = read_header(folder / names[index])
        except BadInput:
            header = None  # reported when the image is read
        sizes[index] = (header.height, header.width) if header is not None else (1, 1)
    impossible = (sizes < 1).any(1) | (sizes.astype(np.float64).prod(1) > MAX_PIXELS)
    records.refuse(impossible, "images", "an impossible width or height")
    return sizes


def _label_map(records: Records) -> tuple[list[int], LabelMap, int]:
    """The value of each category, the label map, and the value of the background."""
    ids, names = records.unique("categories", "id"), [printed_name(name) for name in records.names_of_categories()]
    usable = ids.min() >= 0 and ids.max() < 65_535
    values = ids.tolist() if usable else list(range(1, len(ids) + 1))
    by_value = dict(sorted(zip(values, names, strict=True)))
    if has_phantom(records, ids):
        del by_value[0]
    own = next((value for value, name in by_value.items() if plain_name(name) == BACKGROUND), None)
    background = own if own is not None else 0 if 0 not in by_value else max(by_value) + 1
    if own is None:
        by_value = {background: BACKGROUND, **by_value}
    return values, LabelMap(str(records.file), by_value, {}), background


def _parts(records: Records, sizes: np.ndarray, image: np.ndarray) -> tuple[list[list[Part]], list[int]]:
    """The parts of each annotation's shape, and the annotations that have none."""
    parts: list[list[Part]] = []
    without = []
    for index, value in enumerate(records.values("annotations", "segmentation")):
        height, width = sizes[image[index]].tolist()
        try:
            decoded = msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
            parts.append(parse_shape(decoded, height, width))
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{records.file}: annotations[{index}] {error}") from error
        if not area_of(parts[-1]):
            without.append(index)
    return parts, without


def legend_of_categories(file: Path, ids: list[int], names: list[str], options: MaskOptions) -> Legend:
    """The legend of categories whose ids are the values. Raises BadInput for more than 255 classes."""
    label_map = LabelMap(str(file), dict(sorted(zip(ids, names, strict=True))), {})
    return with_ignored(build(label_map), options.ignore_index)
