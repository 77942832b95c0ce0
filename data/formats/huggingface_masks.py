"""Masks of Hugging Face data sets: a second column of images, whose pixels are mask values or colours."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from backbones.errors import BadInput
from data.columns import MaskColumns, digest_of
from data.formats import Split
from data.formats.huggingface_rows import Images
from data.formats.huggingface_split import open_split
from data.formats.mask_pairs import Pairs
from data.formats.masks import label_map_in, mask_columns
from data.label_maps import LabelMap
from data.mask_diagnosis import BORDER, no_names
from data.mask_reader import found_in
from data.options import MaskOptions

log = logging.getLogger(__name__)


def read_masks(split: Split, options: MaskOptions) -> MaskColumns:
    """Images with the masks in a column such as `annotation`.

    Classes are named by the options, by a label map in the folder of the data set, such as `id2label.json`, or else by
    the mask values that occur.
    """
    opened = open_split(split)
    column = opened.features.mask()
    if column is None:
        raise BadInput(f"{opened.source} has no column of masks: its columns are {opened.features.described()}")
    masks = Images(opened.rows, column, split.images or opened.folder)
    pairs = Pairs(opened.folder, opened.names, [opened.folder / name for name in opened.names], content=masks)
    is_named = options.mask_values or options.mask_colors
    places = dict.fromkeys([opened.folder, *(file.parent for file in opened.rows.files), *_repository(opened.folder)])
    label_map = None if is_named else label_map_in(places) or _values(pairs, opened.source)
    columns = mask_columns(pairs, label_map, options, opened.folder, opened.source)
    contents = hashlib.sha256()
    in_order = Images(opened.rows, column, split.images or opened.folder)  # counts what is decoded for itself
    for index in range(len(opened.names)):
        contents.update(_digest(in_order, index))
    return replace(
        columns,
        image_ids=np.arange(1, len(opened.names) + 1),
        label_digest=digest_of(columns.label_digest, contents.digest(), *opened.identity),
        content=opened.content,
    )


def _repository(folder: Path) -> list[Path]:
    """The folder above that of a configuration, if it is that of the repository."""
    return [folder.parent] if (folder.parent / "README.md").is_file() else []


def _values(pairs: Pairs, source: Path) -> LabelMap:
    """A label map in which each value that occurs is its own name. Reads all masks.

    Raises BadInput for masks of colours.
    """
    found = found_in(pairs.masks, content=pairs.content)
    if found.colors or not found.counts:
        raise no_names(source, found, f"write them as JSON, VALUE: NAME, in {pairs.folder / 'id2label.json'}")
    found = found_in(pairs.masks, len(pairs.masks), pairs.content)
    values = sorted(found.counts)
    names = {value: str(value) for value in values if value != BORDER or len(values) < 3}
    log.warning(
        "%s: no file names the classes, so the %d mask values that occur are their names%s. To name them, write "
        "VALUE: NAME as JSON to %s, or pass --data.mask_values",
        source,
        len(names),
        "" if len(names) == len(values) else f"; {BORDER} means no class",
        pairs.folder / "id2label.json",
    )
    void = {} if len(names) == len(values) else {BORDER: "void"}
    return LabelMap(str(source), names | void, {})


def _digest(masks: Images, index: int) -> bytes:
    try:
        return hashlib.sha256(masks(index)).digest()
    except BadInput:
        return b""  # reported when it is read
