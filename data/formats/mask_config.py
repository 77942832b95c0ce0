"""Segmentation data described by a YAML file with folders of images and masks and the names of the mask values.

As published for LightlyTrain:
    train: {images: images/train, masks: masks/train}    val: {...}    classes: {0: unlabeled, 1: person, ...}
and for Ultralytics' semantic segmentation, where 255 has no class:
    path: ROOT    train: images/train    val: images/val    masks_dir: masks    names: {0: background, 1: person, ...}

Paths are relative to the file's folder, or to `path`. They may lead anywhere inside the parent of that folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backbones.errors import BadInput
from data.columns import MaskColumns
from data.formats import ALIASES, Format, Sniffed, Split
from data.formats.mask_pairs import pair
from data.formats.masks import Place, mask_columns
from data.label_maps import LabelMap, label_map_of, parse_yaml
from data.mask_diagnosis import BORDER
from data.options import MaskOptions

SUFFIXES = (".yaml", ".yml", ".json")
MOST_FILES = 20  # files of a folder that are inspected
HEAD = 1 << 16  # largest size in bytes of a file that is taken for a configuration
SPLIT_NAMES = {name for names in ALIASES for name in names}
_MASK_KEYS, _IMAGE_KEYS = ("masks", "mask", "annotations"), ("images", "image")


def sniff(root: Path) -> Sniffed | None:
    """A YAML file whose splits have folders of images and masks, or that has `masks_dir`."""
    file = _file(root)
    return Sniffed(0.95, f"{file.name} names folders of images and masks") if file is not None else None


def splits(root: Path) -> list[str]:
    """The splits that the file lists."""
    file = _file(root)
    return [] if file is None else _splits_in(parse_yaml(file))


def read(split: Split, options: MaskOptions) -> MaskColumns:
    """The images and masks of the folders that the file names."""
    file = _file(split.root)
    assert file is not None
    content = parse_yaml(file)
    names = _splits_in(content)
    if not split.name and len(names) != 1:
        raise BadInput(f"{file} has the splits {', '.join(names)}: pass it as the root, and name a split")
    place = _place(content, split.name or names[0], file)
    pairs = pair(place.images, place.masks, bool(options.follow_links)).with_masks()
    return mask_columns(pairs, _label_map(content, file), options, split.root, place.masks)


FORMAT = Format(
    name="mask-config",
    kind="masks",
    layout="""
        config.yaml with `train: {images: FOLDER, masks: FOLDER}`, the same for `val`, and `classes: {0: NAME, ...}`""",
    sniff=sniff,
    splits=splits,
    read=read,
)


def _file(root: Path) -> Path | None:
    """The configuration file: `root` itself, or the first one in the folder."""
    if root.is_file():
        return root if root.suffix.lower() in SUFFIXES and _is_config(root) else None
    if not root.is_dir():
        return None
    files = sorted(path for path in root.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    return next((path for path in files[:MOST_FILES] if _is_config(path)), None)


def _is_config(file: Path) -> bool:
    try:
        if file.stat().st_size > HEAD:
            return False
        content = parse_yaml(file)
    except (BadInput, OSError):
        return False
    return bool(_splits_in(content))


def _splits_in(content: Any) -> list[str]:
    """Names of the splits, in the order of the file; none if it is not such a file."""
    if not isinstance(content, Mapping):
        return []
    if "masks_dir" in content:
        return [str(key) for key in content if key in SPLIT_NAMES and isinstance(content[key], str)]
    return [str(key) for key, part in content.items() if _key(part, _MASK_KEYS) and _key(part, _IMAGE_KEYS)]


def _key(part: Any, keys: tuple[str, ...]) -> str | None:
    return next((key for key in keys if isinstance(part, Mapping) and isinstance(part.get(key), str)), None)


def _place(content: Any, name: str, file: Path) -> Place:
    """The folders of a split. Raises BadInput if they are absent or lead too far."""
    base = file.parent
    if isinstance(content.get("path"), str):
        base = _folder(content["path"], file.parent, file, "path")
    part = content[name]
    if isinstance(part, str):
        images = _folder(part, base, file, name)
        words, masks_dir = list(Path(part).parts), str(content["masks_dir"])
        if "images" not in words:
            raise BadInput(f"{file}: {name} is {part!r}, without a folder `images` that masks_dir could replace")
        words[len(words) - 1 - words[::-1].index("images")] = masks_dir
        return Place(images, _folder(str(Path(*words)), base, file, name))
    image_key, mask_key = _key(part, _IMAGE_KEYS), _key(part, _MASK_KEYS)
    assert image_key is not None
    assert mask_key is not None
    return Place(
        _folder(part[image_key], base, file, f"{name}.{image_key}"),
        _folder(part[mask_key], base, file, f"{name}.{mask_key}"),
    )


def _folder(text: str, base: Path, file: Path, field: str) -> Path:
    """An existing folder inside the parent of the file's folder."""
    try:
        path = Path(os.path.normpath(base / text))
        inside = path.resolve().is_relative_to(file.parent.resolve().parent)
        exists = path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:
        raise BadInput(f"{file}: {field} is {text[:100]!r}, not a folder: {error}") from error
    if not inside:
        raise BadInput(
            f"{file}: {field} is {text!r}, which leads out of {file.parent.resolve().parent}, the parent of the file's "
            "folder: refused. Correct the path, or name the folders as in `train=MASKS:IMAGES`",
            settings=("data.train",),
        )
    if not exists:
        raise BadInput(f"{file}: {field} is {text!r}, but there is no folder {path}")
    return path


def _label_map(content: Mapping[str, Any], file: Path) -> LabelMap:
    """The label map, without the classes that the file ignores."""
    listed = next((content[key] for key in ("classes", "names") if key in content), None)
    if listed is None:
        raise BadInput(f"{file} has no `classes`: expected `classes: {{0: NAME, 1: NAME, ...}}`")
    found = label_map_of(listed, file)
    ignored = content.get("ignore_classes") or []
    values, names = dict(found.values), set(found.values.values())
    for value in ignored if isinstance(ignored, list) else [ignored]:
        number = int(value) if str(value).isdecimal() and str(value).isascii() else -1
        if number not in values:
            raise BadInput(f"{file}: ignore_classes has {value!r}, which is not a value of a class")
        values[number] = "ignored"
    if "masks_dir" in content:
        values.setdefault(BORDER, "ignored")
    if values and not set(values.values()) & names:
        raise BadInput(f"{file}: ignore_classes leaves no class")
    return LabelMap(found.source, values, found.colors, found.positional and values == found.values)
