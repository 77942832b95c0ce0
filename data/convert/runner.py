"""Read a data set of any layout and write it in another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from backbones.errors import BadInput, UserError, unknown_name
from data.box_dataset import BoxDataset
from data.checks import left_out_files
from data.class_dataset import ClassDataset
from data.columns import Columns, Kind
from data.convert import coco, folders, masks, shards, voc, yolo
from data.convert.parts import Part, Report, with_common_classes
from data.findings import warn_or_raise
from data.formats import ALIASES, Split, formats, recognise
from data.hub import local_root
from data.mask_dataset import MaskDataset
from data.open import place_of, read_split
from data.options import BoxOptions, ClassOptions, MaskOptions, ReadOptions

Writer = Callable[[Path, Sequence[Part[Any]], Report], None]
WRITERS: dict[str, tuple[Kind | None, Writer]] = {  # None: any kind
    "coco": ("boxes", coco.write),
    "folders": ("classes", folders.write),
    "masks": ("masks", masks.write),
    "shards": (None, shards.write),
    "voc": ("boxes", voc.write),
    "yolo": ("boxes", yolo.write),
}
OWN_CLASSES = ("shards",)  # layouts in which each split has classes of its own
OPTIONS: dict[Kind, type[ReadOptions]] = {"boxes": BoxOptions, "classes": ClassOptions, "masks": MaskOptions}


def convert(root: str, to: str, out: Path, options: ReadOptions | None = None) -> Report:
    """Write all splits of a data set in another layout. The folder appears complete or not at all.

    Args:
        root: folder of the data set; or `FILE[:IMAGES]`, which becomes the split `train`.
        to: layout to write, one of `WRITERS`.
        out: folder to create.
        options: how to read. With `train` or `val`, the parts that they name are the splits.

    Raises UserError if `out` exists, and BadInput for data that cannot be read or that the layout cannot name.
    """
    if to not in WRITERS:
        raise unknown_name("layout to write", to, WRITERS)
    kind, write = kind_to_write(root, to, options), WRITERS[to][1]
    if out.exists():
        raise UserError(f"{out} exists already: name a folder that does not exist")
    read = OPTIONS[kind].of(options or ReadOptions())
    parts = [_part(name, columns, kind, read) for name, columns in _read(root, kind, read).items()]
    if to not in OWN_CLASSES:
        parts = with_common_classes(parts)
    report = Report()
    temporary = out.absolute().with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        write(temporary, parts, report)
        temporary.rename(out.absolute())
    except OSError as error:
        raise BadInput(f"cannot write {error.filename or out}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return report


def kind_to_write(root: str, to: str, options: ReadOptions | None = None) -> Kind:
    """The kind of labels that is written: that of the layout or, if it holds any kind, that of the data set.

    Raises UserError for an unknown layout, and BadInput if the data set is not recognised, or has labels of several
    kinds that are as likely.
    """
    if to not in WRITERS:
        raise unknown_name("layout to write", to, WRITERS)
    if (kind := WRITERS[to][0]) is not None:
        return kind
    named = options.train if options is not None else None
    place, _ = place_of(named or root, Path(root)) or (local_root(Path(root)), None)
    name = options.format if options is not None else None
    if name not in (None, "auto"):
        known = [form for form in formats() if form.name == name]
        likely = [(found.score, form.kind) for form in known if (found := form.sniff(place)) is not None]
        if known:
            return max(likely)[1] if likely else known[0].kind
    return recognise(place, None, name)[0].kind


def _read(root: str, kind: Kind, options: ReadOptions) -> dict[str, Columns]:
    """The columns of each split, by its usual name."""
    if options.train or options.val:
        named = {"train": options.train, "val": options.val}
        return {name: read_split(kind, Path(root), text, options, True) for name, text in named.items() if text}
    place, images = place_of(root, Path()) or (local_root(Path(root)), None)
    form, _ = recognise(place, kind, options.format)
    splits = [] if images else form.splits(place)
    if not splits:
        return {"train": form.read(Split(place, "", images), options)}
    return {_usual(name): form.read(Split(place, name), options) for name in splits}


def _usual(name: str) -> str:
    return next((names[0] for names in ALIASES if name.lower() in names), name)


def _part(name: str, columns: Any, kind: Kind, options: ReadOptions) -> Part[Any]:
    """A split whose files exist, with boxes in the frame of the labels."""
    warn_or_raise(left_out_files(columns))
    if kind == "boxes":
        columns = BoxDataset(columns, options=options).annotated
    elif kind == "masks":
        columns = MaskDataset(columns, options=options).columns
    else:
        columns = ClassDataset(columns, options=options).columns
    return Part(name, columns, options.exif == "apply")
