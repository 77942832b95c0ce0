"""Shards, see `data.shards`: the columns are those of the data set that was converted, and so is the fingerprint."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import BadInput
from data.columns import BoxColumns, ClassColumns, Columns, Kind, MaskColumns, prefetch
from data.formats import Format, Sniffed, Split
from data.mask_files import read_mask
from data.names import Names
from data.options import ReadOptions
from data.shards import FILE, Contents, check_files, description, place_of, read_index
from data.stores import Store

APPLIED = ("boxes", "label_column", "ignore_index", "mask_values", "mask_colors")  # settings of the conversion
BOX_ARRAYS = ("sizes", "image", "label", "boxes", "crowd", "difficult", "areas")

log = logging.getLogger(__name__)


def sniff(kind: Kind, root: Path) -> Sniffed | None:
    """A folder with `shards.json`."""
    if not (root / FILE).is_file() or description(root)["kind"] != kind:
        return None
    return Sniffed(1.0, f"{FILE} lists shards")


def splits(root: Path) -> list[str]:
    """The splits that `shards.json` lists."""
    return list(description(root)["splits"]) if (root / FILE).is_file() else []


def read(split: Split, options: ReadOptions) -> Columns:
    """The images and labels of a split. Raises BadInput for missing or incomplete files."""
    root = split.root
    if not (root / FILE).is_file():
        raise BadInput(f"{root} has no {FILE}, which describes shards")
    found = description(root)
    own = found["splits"].get(split.name) if split.name else next(iter(found["splits"].values()))
    if own is None or (not split.name and len(found["splits"]) > 1):
        raise BadInput(
            f"{root} is a data set with the splits {', '.join(found['splits'])}: name it with `root={root}`",
            settings=("data.root",),
        )
    if split.images is not None:
        raise BadInput(f"{root} has its images in shards: a folder of images, {split.images}, cannot be named")
    if given := [f"--data.{name}" for name in APPLIED if getattr(options, name, None) is not None]:
        log.warning("%s: the labels in shards are final, so these settings have no effect: %s. Pass them to "
                    "data.convert instead", root / FILE, ", ".join(given))  # fmt: skip
    place = place_of(root)
    check_files(place, own)
    index = read_index(root, own)
    try:
        return _columns(found["kind"], own, index, place)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise BadInput(
            f"{root / FILE} and its index do not fit together: {error!r}. Convert the data set again"
        ) from error


def _columns(kind: str, split: dict[str, Any], index: dict[str, np.ndarray], place: Store | Path) -> Columns:
    folder = Path(place.url) if isinstance(place, Store) else place
    files = [shard["file"] for shard in split["shards"]]
    shared: dict[str, Any] = {
        "source": folder / FILE,
        "folder": folder,
        "names": Names.unpack(index["names"]),
        "image_ids": index["image_ids"],
        "classes": tuple(split["classes"]),
        "label_digest": bytes.fromhex(split["label_digest"]),
        "content": Contents(place, files, index["shard"], index["start"], index["length"]),
        "bytes_of_files": index["bytes_of_files"],
        "headers": index["headers"],
    }
    if any(len(index[name]) != len(shared["names"]) for name in ("image_ids", "shard", "start", "length", "headers")):
        raise ValueError("arrays differ in length")
    if kind == "boxes":
        return BoxColumns(
            **shared,
            **{name: index[name] for name in BOX_ARRAYS},  # type: ignore[arg-type]
            complete=index.get("complete"),
            category_ids=tuple(split["category_ids"]),
            sizes_of_files=split["sizes_of_files"],
        )
    if kind == "classes":
        return ClassColumns(**shared, label=index["label"], numbered=split["numbered"])
    masks = Contents(place, files, index["mask_shard"], index["mask_start"], index["mask_length"])
    return MaskColumns(
        **shared,
        class_map=_ClassMaps(masks, folder),
        mask_digests=index.get("mask_digests"),
        ignored=frozenset(split["ignored"]),
        notes=tuple(split["notes"]),
    )


class _ClassMaps:
    """index -> (H, W) uint8 class map. Can be sent to other processes."""

    def __init__(self, masks: Contents, source: Path) -> None:
        self.masks, self.source = masks, source

    def __call__(self, index: int) -> np.ndarray:
        file = self.source / f"{index:09d}.mask.png"
        values = read_mask(file, self.masks(index)).values
        if values is None or values.dtype != np.uint8:
            raise BadInput(f"mask {file} is not an image of class indices")
        return values

    def prefetch(self, indices: list[int]) -> None:
        """See `data.columns.prefetch`."""
        prefetch(self.masks, indices)


KINDS: tuple[Kind, ...] = ("boxes", "classes", "masks")
FORMATS = [
    Format(
        name="shards",
        kind=kind,
        layout=f"ROOT/{FILE} with ROOT/*.tar, as `python -m data.convert --to shards` writes them",
        sniff=partial(sniff, kind),
        splits=splits,
        read=read,
    )
    for kind in KINDS
]
