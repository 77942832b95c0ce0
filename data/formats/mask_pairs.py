"""Find images and their masks in folders, by the names that tools give them.

A mask has the name of its image, or that name with a tag such as `_mask`; or both have a tag, such as `_sat` and
`_mask`. Image and mask may be in different folders, with the same subfolders, or in one folder.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backbones.errors import BadInput
from data.formats.image_files import is_folder
from data.formats.listing import check_link, entries
from data.images import IMAGE_SUFFIXES
from data.mask_files import MASK_SUFFIXES

# Words at the end or start of a mask's name, in lower case without separators, the preferred ones first where an image
# has several masks.
MASK_WORDS = (
    *("labeltrainids", "labelids", "mask", "masks", "gt", "label", "labels", "l", "seg", "segmentation", "annotation"),
    *("groundtruth", "semantic", "class", "gtfine", "gtcoarse", "manual1", "segmap", "anno", "target"),
)
IMAGE_WORDS = ("image", "images", "img", "sat", "rgb", "leftimg8bit", "photo", "input", "original", "orig", "training")
# Files beside masks that are not masks of class values.
OTHER_WORDS = ("color", "colour", "instanceids", "polygons", "viz", "visualization", "overlay", "blend")
SEPARATORS = "_. -"  # the hyphen last, since the text is part of a character class
NO_IMAGE = "they have no image"  # reason in `left_out`


@dataclass(frozen=True)
class Pairs:
    """Images and masks of a split.

    Attributes:
        folder: of the images.
        names: n image files relative to it, sorted.
        masks: n mask files. A file that does not exist stands for a missing mask.
        left_out: see `data.columns.Columns`.
        content: index -> the content of a mask, if `masks` only name it.
    """

    folder: Path
    names: list[str]
    masks: list[Path]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    content: Callable[[int], bytes] | None = None

    def with_masks(self) -> Pairs:
        """The images that have a mask, for data whose image folders are shared. The others are left out.

        Raises BadInput if none has a mask.
        """
        has_mask = [file.is_file() for file in self.masks]
        if all(has_mask):
            return self
        if not any(has_mask):
            raise BadInput(f"none of the {len(self.names)} images in {self.folder} has a mask such as {self.masks[0]}")
        missing = [name for name, found in zip(self.names, has_mask, strict=True) if not found]
        names = [name for name, found in zip(self.names, has_mask, strict=True) if found]
        masks = [file for file, found in zip(self.masks, has_mask, strict=True) if found]
        return Pairs(self.folder, names, masks, {**self.left_out, "they have no mask": missing})


def pair(images: Path, masks: Path, follow_links: bool) -> Pairs:
    """The images in one folder and their masks in the same or another folder, with subfolders.

    Raises BadInput if a folder cannot be listed, without an image, for images that would share a mask, for several
    masks of an image, and for links that lead out of the folder unless `follow_links`.
    """
    left_out: dict[str, list[str]] = {}
    found = list_files(images, follow_links)
    names = [name for name in found if name.lower().endswith(IMAGE_SUFFIXES)]
    _leave_out(left_out, "they are not images", set(found) - set(names) - set(_documents(found)))
    if images.resolve() == masks.resolve():
        mask_names = masks_beside(names)
        names = [name for name in names if name not in mask_names and not _is_other(name)]
    else:
        listed = list_files(masks, follow_links)
        mask_names = {name for name in listed if name.lower().endswith(MASK_SUFFIXES)}
        if not mask_names and listed:
            others = sorted({os.path.splitext(name)[1] or "no suffix" for name in listed})
            raise BadInput(
                f"{masks} has no masks: expected {', '.join(MASK_SUFFIXES)} files, found {', '.join(others)}"
            )
    if not names:
        raise BadInput(f"{images} has no images: expected {', '.join(IMAGE_SUFFIXES)} files")
    _refuse_equal_names(images, names)
    mask_of, tag = _match(names, sorted(mask_names), masks)
    files = [masks / mask_of.get(name, f"{stem_of(name)}{tag}.png") for name in names]
    unused, stems = mask_names - set(mask_of.values()), {stem_of(name) for name in names}
    second = {mask for mask in unused if _image_of(stem_of(mask), stems) is not None}
    _leave_out(left_out, NO_IMAGE, unused - second)
    _leave_out(left_out, "their image has another mask", second)
    return Pairs(images, names, files, left_out)


def list_files(folder: Path, follow_links: bool) -> list[str]:
    """Sorted names, relative to the folder, of its files and of those in its subfolders, without hidden ones.

    Raises BadInput for a folder that cannot be listed, for a link to a folder that contains it and, unless
    `follow_links`, for a link that leads out of the folder.
    """
    boundary, names = folder.resolve(), []
    pending = [""]
    while pending:
        inner = pending.pop()
        for entry in entries(folder / inner):
            if entry.is_symlink():
                check_link(Path(entry.path), boundary, follow_links)
            if is_folder(entry):
                pending.append(os.path.join(inner, entry.name))
            else:
                names.append(os.path.join(inner, entry.name))
    return sorted(names)


def stem_of(name: str) -> str:
    """The name without its suffix, with its folder."""
    return os.path.splitext(name)[0]


def is_tagged(stem: str, words: Iterable[str] = MASK_WORDS) -> bool:
    """Whether the last word of a name is one of these, as in `scene_mask`."""
    parts = re.split(rf"[{SEPARATORS}]", os.path.basename(stem))
    return len(parts) > 1 and parts[-1].lower() in words


def _documents(names: Iterable[str]) -> list[str]:
    """Files that describe a data set and are no labels or images."""
    return [name for name in names if name.lower().endswith((".txt", ".csv", ".json", ".yaml", ".yml", ".md", ".ini"))]


def _is_other(name: str) -> bool:
    return is_tagged(stem_of(name), OTHER_WORDS)


def masks_beside(names: Sequence[str]) -> set[str]:
    """The files, among images and masks in one folder, that are masks: those tagged as masks of another file."""
    bases = {_base(stem_of(name), IMAGE_WORDS) for name in names if not is_tagged(stem_of(name))}
    bases |= {stem_of(name) for name in names if not is_tagged(stem_of(name))}
    return {
        name
        for name in names
        if is_tagged(stem_of(name))
        and name.lower().endswith(MASK_SUFFIXES)
        and _base(stem_of(name), MASK_WORDS) in bases
    }


def _base(stem: str, words: Sequence[str]) -> str:
    """The name without the words at its start and end."""
    folder, name = os.path.split(stem)
    parts = re.split(rf"([{SEPARATORS}])", name)
    while len(parts) > 2 and parts[-1].lower() in words:
        parts = parts[:-2]
    while len(parts) > 2 and parts[0].lower() in words:
        parts = parts[2:]
    return os.path.join(folder, "".join(parts))


def _refuse_equal_names(folder: Path, names: Sequence[str]) -> None:
    stem, count = Counter(stem_of(name) for name in names).most_common(1)[0]
    if count > 1:
        raise BadInput(f"{folder} has several images called {stem}: they would share one mask")


def _match(names: Sequence[str], mask_names: Sequence[str], folder: Path) -> tuple[dict[str, str], str]:
    """Image name -> mask name, and the tag of most masks. Raises BadInput for several masks of an image."""
    by_stem: dict[str, list[str]] = defaultdict(list)
    for mask in mask_names:
        by_stem[stem_of(mask)].append(mask)
    found = {name: by_stem[stem_of(name)] for name in names if stem_of(name) in by_stem}
    tag = ""
    if len(found) < len(names):
        tagged = _tagged(names, mask_names, set(found))
        tags = Counter(tag for candidates in tagged.values() for tag, _ in candidates)
        if tags:
            tag = min(tags, key=lambda tag: (_rank(tag), -tags[tag], tag))
            is_usual = _rank(tag) < len(MASK_WORDS)
            for name, own in tagged.items():
                preferred = [mask for other, mask in own if other == tag]
                found[name] = preferred if preferred and is_usual else [mask for _, mask in own]
    if len(found) < len(names):
        found |= _by_base(names, mask_names, found)
    for name, candidates in found.items():
        if len(candidates) > 1:
            listed = ", ".join(candidates[:4])
            raise BadInput(
                f"{folder} has several masks for the image {name}: {listed}. Leave one of them in the folder"
            )
    return {name: candidates[0] for name, candidates in found.items()}, tag


def _tagged(names: Sequence[str], mask_names: Sequence[str], done: set[str]) -> dict[str, list[tuple[str, str]]]:
    """Image name -> (tag, mask name) of the masks whose name is the image's with a tag."""
    by_stem = {stem_of(name): name for name in names}
    tagged: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for mask in mask_names:
        stem = stem_of(mask)
        image = _image_of(stem, by_stem)
        if image is not None and by_stem[image] not in done and not is_tagged(stem, OTHER_WORDS):
            tagged[by_stem[image]].append((stem[len(image) :], mask))
    return tagged


def _image_of(stem: str, images: Container[str]) -> str | None:
    """The longest of the image names of which a mask's name is an extension, after a separator; or the same name."""
    if stem in images:
        return stem
    ends = (end for end in range(len(stem) - 1, 0, -1) if stem[end] in SEPARATORS)
    return next((stem[:end] for end in ends if stem[:end] in images), None)


def _rank(tag: str) -> int:
    word = re.split(rf"[{SEPARATORS}]", tag)[-1].lower()
    return MASK_WORDS.index(word) if word in MASK_WORDS else len(MASK_WORDS)


def _by_base(names: Sequence[str], mask_names: Sequence[str], found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Image name -> masks of the same name, apart from upper and lower case and from words such as `sat` and `mask`."""
    used = {mask for masks in found.values() for mask in masks}
    by_base: dict[str, list[str]] = defaultdict(list)
    for mask in mask_names:
        if mask not in used and not _is_other(mask):
            by_base[_base(stem_of(mask), MASK_WORDS).casefold()].append(mask)
    bases = {name: _base(stem_of(name), IMAGE_WORDS).casefold() for name in names if name not in found}
    unique = Counter(bases.values())
    return {name: by_base[base] for name, base in bases.items() if base in by_base and unique[base] == 1}


def _leave_out(left_out: dict[str, list[str]], reason: str, names: Iterable[str]) -> None:
    if files := sorted(names):
        left_out.setdefault(reason, []).extend(files)
