"""Open a split of a Hugging Face data set, and read its columns of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backbones.errors import BadInput
from data.formats import Split
from data.formats.coco_json import is_safe
from data.formats.huggingface_features import Features, features_of
from data.formats.huggingface_files import files_of_splits
from data.formats.huggingface_rows import Images, Rows, reading
from data.formats.listing import is_image_name
from data.images import read_header

SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif", "PNG": ".png", "PPM": ".ppm"}  # of formats by Pillow's names
NO_CLASS = ("", "-1")  # texts of rows without a class; benchmarks write -1 in test splits


class Opened(NamedTuple):
    """A split whose files are open.

    Attributes:
        source: file or folder that messages name.
        folder: folder of the data set.
        names: of the n images: the file, and the stored name of the image or its row.
        content: index -> encoded image.
        rows, features: the columns and their meaning.
        identity: of the files, for the fingerprint.
    """

    source: Path
    folder: Path
    names: list[str]
    content: Images
    rows: Rows
    features: Features
    identity: tuple[bytes | list[str], ...]


def open_split(split: Split) -> Opened:
    """Open the files of a split. Raises BadInput if they are damaged, or have no column of images."""
    root = split.root
    by_split = files_of_splits(root)
    if not split.name and len(by_split) > 1:
        raise BadInput(
            f"{root} is a data set with the splits {', '.join(by_split)}: name it with `root={root}`",
            settings=("data.root",),
        )
    files = by_split[split.name] if split.name else next(iter(by_split.values()), [])
    if not files:
        raise BadInput(f"{root} has no Arrow or Parquet files")
    rows = Rows(files)
    features = features_of(rows, root)
    source = files[0] if len(files) == 1 else files[0].parent
    if not len(rows):
        raise BadInput(f"{source} has no rows")
    if not features.images:
        raise BadInput(f"{source} has no column of images: its columns are {features.described()}")
    folder = root if root.is_dir() else root.parent
    images = Images(rows, features.image, split.images or folder)
    names = _image_names(rows, features, folder, images)
    identity: tuple[bytes | list[str], ...] = ([file.relative_to(folder).as_posix() for file in files],)
    identity += tuple(rows.identity(features.images))
    return Opened(source, folder, names, images, rows, features, identity)


def class_indices(values: Any, classes: int, column: str, source: Path) -> np.ndarray:
    """(n,) int64 class indices; -1 for a value that is missing. Raises BadInput for other values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_integer(values.type):
        raise BadInput(f"{source}: its column {column} has {values.type}, not class indices")
    with reading(source):
        label = np.asarray(pc.fill_null(values, -1), np.int64)
    wrong = (label < -1) | (label >= classes)
    if wrong.any():
        raise BadInput(
            f"{source}: its column {column} has the class index {label[wrong][0]} in row {int(wrong.argmax())}, but it "
            f"has {classes} classes"
        )
    return label


def class_texts(values: Any, column: str, source: Path) -> list[str]:
    """Numbers or names of classes as texts; "" for a value that is missing. Raises BadInput for lists."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_nested(values.type):
        raise BadInput(f"{source}: its column {column} has several classes for each image, but one is needed")
    with reading(source):
        texts = pc.fill_null(pc.cast(values, pa.string()), "")
        return [text.strip() for text in texts.to_pylist()]


def _image_names(rows: Rows, features: Features, folder: Path, images: Images) -> list[str]:
    """The file, and the stored name of the image in it; its row in the file if the stored names are not unique.

    A row has the suffix of the first image of its file, so that other tools recognise a copy as an image.
    """
    import pyarrow as pa

    kind = rows.schema.field(features.image).type
    has_paths = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
    stored = rows.column(f"{features.image}.path").to_pylist() if has_paths else []
    names = []
    for number, file in enumerate(rows.files):
        first, last = rows.starts[number], rows.starts[number + 1]
        own = [Path(path.replace("\\", "/")).name if path else "" for path in stored[first:last]]
        if len(set(own)) < last - first or not all(is_safe(name) and is_image_name(name) for name in own):
            suffix = _suffix(images, first) if last > first else ""
            own = [f"{row}{suffix}" for row in range(last - first)]
        prefix = file.relative_to(folder).as_posix()
        names += [f"{prefix}/{name}" for name in own]
    return names


def _suffix(images: Images, row: int) -> str:
    """The usual suffix of an image's format; PNG's for one that cannot be read, which is reported later."""
    try:
        kind = read_header(images(row)).kind
    except BadInput:
        return SUFFIXES["PNG"]
    return SUFFIXES.get(kind, f".{kind.lower()}")
