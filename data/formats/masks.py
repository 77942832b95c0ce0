"""Segmentation data: images, and for each a mask file, in the folders that people use. Also ADE20K.

ADE20K. Mask value 0 is "other" and ignored; 1 to 150 are the classes:
    ROOT/images/{training,validation}/*.jpg    ROOT/annotations/{training,validation}/*.png
Generic. classes.txt has one class name per line; mask values are line numbers from 0. ADE20K's folder names also work:
    ROOT/images/{train,val}/*    ROOT/annotations/{train,val}/*.png    ROOT/classes.txt
The same with other names of folders, with ROOT/{train,val}/images and masks, with ROOT/train and ROOT/train_labels,
with images and masks in one folder, or without splits. Other label maps: see `LABEL_MAPS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from backbones.errors import BadInput, UserError
from data.columns import MaskColumns, digest_of
from data.formats import ALIASES, Format, Sniffed, Split, ade20k
from data.formats.folder_cache import unless_changed
from data.formats.image_files import is_file
from data.formats.listing import entries, folders
from data.formats.mask_pairs import SEPARATORS, Pairs, is_tagged, masks_beside, pair, stem_of
from data.images import IMAGE_SUFFIXES
from data.label_maps import LabelMap, class_list, read_label_map
from data.legend import Legend, is_void, legend_of
from data.mask_diagnosis import no_names
from data.mask_files import MASK_SUFFIXES
from data.mask_reader import MaskFiles, found_in, sample_masks
from data.options import MaskOptions

# Names of folders, in lower case; the usual ones first.
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "rgb", "photos", "input", "x")
MASK_FOLDERS = (
    *("annotations", "masks", "mask", "labels", "label", "segmentationclass", "segmentationclasspng", "gt"),
    *("annotation", "groundtruth", "ground_truth", "segmentation", "segmentations", "labelids", "targets", "target"),
)
MASK_ENDINGS = ("_labels", "_label", "_masks", "_mask", "_gt", "annot", "_annot", "_annotations", "_seg")
# Files that name the classes, beside the folders; the first that exists is read.
LABEL_MAPS = (
    *("classes.txt", "class_dict.csv", "labelmap.txt", "label_colors.txt", "_classes.csv", "classes.csv"),
    *("classes.json", "classes.yaml", "classes.yml", "label_map.json", "id2label.json"),
    *("label_classes.json", "class_names.txt", "labels.txt"),
)
SPLIT_NAMES = {name for names in ALIASES for name in names}
ENOUGH = 50  # entries of a folder that are inspected to recognise the layout


@dataclass(frozen=True)
class Place:
    """The folders of the images and of the masks of a split."""

    images: Path
    masks: Path


def sniff(root: Path) -> Sniffed | None:
    """Folders of images and of masks with usual names, or images with masks beside them."""
    found = places(root)
    if not found:
        return None
    name, place = next(iter(found.items()))
    if place.images == place.masks:
        return Sniffed(0.7, f"{place.images} has images and, with the same names and a tag, masks")
    why = f"{_inner(place.images, root)} and {_inner(place.masks, root)} exist"
    return Sniffed(0.8 if name else 0.6, why)


def splits(root: Path) -> list[str]:
    """Names of the splits; `train` if the folders are not divided into splits."""
    return [name or "train" for name in places(root)]


def read(split: Split, options: MaskOptions) -> MaskColumns:
    """Images and masks, see `data.mask_pairs`."""
    place = _place(split)
    pairs = pair(place.images, place.masks, bool(options.follow_links))
    is_named = options.mask_values or options.mask_colors
    label_map = None if is_named else _own_label_map(split, place) or _ade20k(split)
    if not is_named and label_map is None:
        found = found_in([file for file in pairs.masks if file.is_file()])
        raise no_names(place.masks, found, f"write one class name per line in {_beside(split.root) / 'classes.txt'}")
    return mask_columns(pairs, label_map, options, split.root, place.masks)


FORMAT = Format(
    name="masks",
    kind="masks",
    layout="""
        ROOT/images/{train,val}/ with images, ROOT/annotations/{train,val}/ (or masks, labels) with a mask for each, and
        the class names in ROOT/classes.txt (without it: ADE20K); or ROOT/{train,val}/{images,masks}/""",
    sniff=sniff,
    splits=splits,
    read=read,
    label_folders=True,
)


def mask_columns(
    pairs: Pairs, label_map: LabelMap | None, options: MaskOptions, root: Path, source: Path
) -> MaskColumns:
    """The columns of images with mask files.

    Args:
        pairs: images and masks.
        label_map: of the data set; None if the options name the classes.
        options, root: see `data.legend.legend_of`.
        source: folder of the masks, for messages.

    Raises UserError for values to ignore that the masks cannot have.
    """
    legend = legend_of(label_map, options, root)
    _check_ignored(options.ignore_index, pairs)
    table = legend.value_table()
    known = table[:256].astype(np.uint8)  # unknown values count as ignored ones
    parts: list[bytes | str | np.ndarray | list[str]] = [list(legend.classes), known]
    beyond = {value: index for value, index in legend.values.items() if value > 255}
    if beyond or legend.colors:
        parts.append(np.array(sorted({**beyond, **_shifted(legend.colors)}.items()), np.int64))
    return MaskColumns(
        source=source,
        folder=pairs.folder,
        names=pairs.names,
        image_ids=np.arange(len(pairs.names)),
        classes=legend.classes,
        label_digest=digest_of(*parts),
        left_out=pairs.left_out,
        class_map=MaskFiles(pairs.masks, legend, pairs.content),
        mask_files=pairs.masks if pairs.content is None else (),
        ignored=legend.ignored,
        notes=notes_on(legend),
    )


def _check_ignored(ignore_index: int | list[int] | None, pairs: Pairs) -> None:
    """Raise UserError for a value above 255 if the masks have 8 bits."""
    listed = [] if ignore_index is None else [ignore_index] if isinstance(ignore_index, int) else ignore_index
    large = [value for value in listed if value > 255]
    if large and not any(mask.bits > 8 for mask in sample_masks(pairs.masks, 8, pairs.content)):
        message = f"`ignore_index={large[0]}` is not a value of an 8-bit mask, 0 to 255"
        raise UserError(message, settings=("data.ignore_index",))


def notes_on(legend: Legend) -> tuple[str, ...]:
    """What the names of the classes imply."""
    notes = [
        f"{legend.source}: {' and '.join(places[:5])} ('{name}') means no class: these pixels are ignored"
        for name, places in legend.without_class.items()
    ]
    listed = [name for i, name in enumerate(legend.classes) if is_void(name) and i not in legend.ignored]
    if listed and legend.positional:
        values = " ".join(str(value) for value, name in legend.names.items() if name in listed)
        notes.append(
            f"{legend.source} lists '{listed[0]}', which is trained and scored as a class. If its pixels have no "
            f"class, pass --data.ignore_index {values}"
        )
    return tuple(notes)


def _shifted(colors: dict[int, int]) -> dict[int, int]:
    return {color + (1 << 32): index for color, index in colors.items()}


def places(root: Path) -> dict[str, Place]:
    """The folders of each split; the name is "" if the folders are not divided into splits."""
    if not root.is_dir():
        return {}
    by_name = {path.name.lower(): path for path in folders(root)}
    images = next((by_name[name] for name in IMAGE_FOLDERS if name in by_name), None)
    masks = [by_name[name] for name in MASK_FOLDERS if name in by_name]
    if images is not None and masks:
        for folder in masks:
            both = [inner.name for inner in folders(images) if (folder / inner.name).is_dir()]
            is_split = not _has_images(images) or any(name.lower() in SPLIT_NAMES for name in both)
            if is_split and any(_has_files(folder / name, MASK_SUFFIXES) for name in both):
                return {name: Place(images / name, folder / name) for name in both}
        flat = next((folder for folder in masks if _has_files(folder, MASK_SUFFIXES)), None)
        if flat is not None and _has_files(images, IMAGE_SUFFIXES):
            return {"": Place(images, flat)}
    found: dict[str, Place] = {}
    for name, folder in sorted((path.name, path) for path in by_name.values()):
        inner = places(folder) if name.lower() in SPLIT_NAMES else {}
        beside = next((root / f"{name}{end}" for end in MASK_ENDINGS if (root / f"{name}{end}").is_dir()), None)
        if "" in inner:
            found[name] = inner[""]
        elif beside is not None and _has_files(folder, IMAGE_SUFFIXES) and _has_files(beside, MASK_SUFFIXES):
            found[name] = Place(folder, beside)
    if found:
        return found
    return {"": Place(root, root)} if _has_tagged_masks(root) else {}


def _place(split: Split) -> Place:
    if split.images is not None:
        return Place(split.images, split.root)
    found = places(split.root)
    if split.name:
        return found[split.name] if split.name in found else found[""]
    if "" not in found:
        raise BadInput(
            f"{split.root} is not the folder of one split: expected {split.root}/images and {split.root}/masks; or "
            "name the folder of the masks and that of the images, as in `train=MASKS:IMAGES`",
            settings=("data.train",),
        )
    return found[""]


def _own_label_map(split: Split, place: Place) -> LabelMap | None:
    """The label map of the data set, from a file in its folder, or in that of the masks or images.

    If the folder of a split is named, the file may be up to two folders above it.
    """
    root = split.root
    near = [root, *(folder for own in (place.masks, place.images) for folder in (own, own.parent, own.parent.parent))]
    return label_map_in(folder for folder in dict.fromkeys(near) if not split.name or folder.is_relative_to(root))


def label_map_in(folders: Iterable[Path]) -> LabelMap | None:
    """The first label map in the folders; None if there is none. Raises BadInput if it is malformed."""
    for folder in folders:
        for name in LABEL_MAPS:
            if (file := folder / name).is_file():
                return class_list(file) if name == "classes.txt" else read_label_map(file)
    return None


def _ade20k(split: Split) -> LabelMap | None:
    """ADE20K's label map if the folders are those of ADE20K."""
    is_named = split.name and split.images is None
    if not is_named or not all((split.root / kind / split.name).is_dir() for kind in ("images", "annotations")):
        return None
    return LabelMap("ADE20K", {0: "void", **dict(enumerate(ade20k.CLASSES, 1))}, {}, standard=True)


def _inner(folder: Path, root: Path) -> Path:
    return folder.relative_to(root) if folder.is_relative_to(root) else folder


def _beside(root: Path) -> Path:
    return root if root.is_dir() else root.parent


@unless_changed
def _first_files(folder: Path) -> list[str]:
    files = (entry.name for entry in entries(folder) if is_file(entry))
    return list(islice(files, ENOUGH))


def _has_files(folder: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether the folder, or a folder in it, has a file with one of the suffixes."""
    own = any(name.lower().endswith(suffixes) for name in _first_files(folder))
    return own or any(name.lower().endswith(suffixes) for inner in folders(folder)[:8] for name in _first_files(inner))


def _has_images(folder: Path) -> bool:
    return any(name.lower().endswith(IMAGE_SUFFIXES) for name in _first_files(folder))


def _has_tagged_masks(folder: Path) -> bool:
    """Whether the folder has an image and a mask beside it, such as `scene.jpg` and `scene_mask.png`."""
    names = [name for name in _first_files(folder) if name.lower().endswith(IMAGE_SUFFIXES)]
    if masks_beside(names):
        return True
    tagged = [stem_of(name) for name in names if is_tagged(stem_of(name))]
    untagged = [stem[: max(stem.rfind(mark) for mark in SEPARATORS)] for stem in tagged[:8]]
    return any((folder / f"{stem}{suffix}").is_file() for stem in untagged for suffix in IMAGE_SUFFIXES)
