"""The class maps that predicted masks are scored against: a data set, or a folder of masks alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbones.errors import BadInput
from data.batch import IGNORE
from data.columns import MaskColumns
from data.formats import recognise
from data.formats.masks import LABEL_MAPS
from data.label_maps import LabelMap, class_list, read_label_map
from data.legend import Legend, build, legend_of, with_ignored
from data.mask_files import MASK_SUFFIXES, MaskContent, read_mask
from data.mask_reader import MaskFiles
from data.open import read_place
from experiments.compare_results.config import TruthData
from experiments.compare_results.truth import locate_truth

THREADS = 8
_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp")


@dataclass(frozen=True)
class MaskTruth:
    """n class maps.

    Attributes:
        source: for messages.
        names: n names of images, with which predicted masks are found.
        mask_names: n names of the masks, with which they are found, too; empty if the truth has no mask files.
        classes: K names.
        class_map: index -> (H, W) uint8 class indices, `IGNORE` for no class.
        legend: the classes of mask values; None if the truth has no mask files.
        notes: what a person should know about the classes, one sentence each.
        ignored: indices of the classes that no class map contains, because settings ignore their value.
    """

    source: Path
    names: Sequence[str]
    mask_names: Sequence[str]
    classes: tuple[str, ...]
    class_map: Callable[[int], np.ndarray]
    legend: Legend | None
    notes: tuple[str, ...] = ()
    ignored: frozenset[int] = frozenset()


def read_mask_truth(root: Path, data: TruthData) -> MaskTruth:
    """The truth in a folder. Raises BadInput if it is neither a data set nor a folder of masks."""
    if not root.exists():
        raise BadInput(f"there is no truth at {root}: pass an existing file or folder as `truth`", settings=("truth",))
    if data.split is None and data.format in (None, "auto") and root.is_dir():
        try:
            recognise(root, "masks")
        except BadInput:
            if files := mask_files(root):
                return _of_folder(root, files, data)
            raise
    form, split = locate_truth("masks", root, data)
    columns = read_place(form, split, data)
    assert isinstance(columns, MaskColumns)
    missing = [str(file) for file in columns.mask_files if not file.is_file()]
    if missing:
        raise BadInput(f"{len(missing)} of the {len(columns)} images of {root} have no mask: {', '.join(missing[:3])}")
    return MaskTruth(
        source=columns.source,
        names=columns.names,
        mask_names=[_relative(file, columns.source) for file in columns.mask_files],
        classes=columns.classes,
        class_map=columns.class_map,
        legend=columns.class_map.legend if isinstance(columns.class_map, MaskFiles) else None,
        notes=columns.notes,
        ignored=columns.ignored,
    )


def mask_files(folder: Path) -> list[Path]:
    """The mask files in a folder and its subfolders, sorted, without hidden ones and those with lossy formats."""
    suffixes = tuple(suffix for suffix in MASK_SUFFIXES if suffix not in _LOSSY)
    found = [
        Path(parent) / name
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(suffixes) and not name.startswith(".")
    ]
    return sorted(found)


def _relative(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name


def _of_folder(root: Path, files: Sequence[Path], data: TruthData) -> MaskTruth:
    """The truth in a folder of masks alone. Without names of classes, the values are the names."""
    names = next((file for name in LABEL_MAPS if (file := root / name).is_file()), None)
    notes: tuple[str, ...] = ()
    if names is not None or data.mask_values or data.mask_colors:
        named = None if names is None else class_list(names) if names.name == "classes.txt" else read_label_map(names)
        legend = legend_of(named, data, root)
    else:
        legend = build(_values_of(files, root))
        ignored = data.ignore_index
        if ignored is None and IGNORE in legend.values and len(legend.classes) > 1:
            ignored = IGNORE
            notes = (
                f"Pixels of value {IGNORE} in the truth have no class and are not scored. To score them, name all "
                "values with --data.mask_values.",
            )
        legend = with_ignored(legend, ignored)
    found = [_relative(file, root) for file in files]
    return MaskTruth(root, found, found, legend.classes, MaskFiles(files, legend), legend, notes, legend.ignored)


def _values_of(files: Sequence[Path], root: Path) -> LabelMap:
    """The values in masks, named by their numbers. Raises BadInput for masks of colours."""
    with ThreadPoolExecutor(THREADS) as pool:
        contents = list(pool.map(lambda file: MaskContent.of(read_mask(file)), files))
    for file, content in zip(files, contents, strict=True):
        if content.colors:
            raise BadInput(
                f"{file} has colours: name a file with the class of each colour as `mask_colors`",
                settings=("data.mask_colors",),
            )
    values = sorted({value for content in contents for value in content.values})
    return LabelMap(str(root), {value: str(value) for value in values}, {})
