"""Find the splits of a data set: their format, their columns, and what is held out for validation."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from backbones.errors import BadInput, UserError
from data.columns import Columns, Kind
from data.formats import Format, Split, formats, recognise, split_of
from data.hub import local_root
from data.listings import listings_remembered
from data.options import ReadOptions

HOLDOUT = 0.2  # share of the training images that `val="auto"` holds out

log = logging.getLogger(__name__)


@listings_remembered()
def read_split(kind: Kind, root: Path, wanted: str, options: ReadOptions, may_be_path: bool = False) -> Columns:
    """The columns of a split.

    Args:
        kind: kind of labels.
        root: folder of the data set.
        wanted: name of the split, or another usual name for it, such as `valid` for `val`.
        options: how to read.
        may_be_path: whether `wanted` may also be `FILE[:IMAGES]`.

    Raises BadInput if the format is not recognised, the split is missing, or a file of it is malformed.
    """
    form, split = locate(kind, root, wanted, options, may_be_path)
    return read_place(form, split, options)


@listings_remembered()
def read_train_val(
    kind: Kind, root: Path, options: ReadOptions, holdout: float
) -> tuple[Columns, Columns | None, float]:
    """The columns of the training split; those of the validation split; and the share of the images to hold out.

    If the share is above 0, there is no other validation split, and the training split is read once for both.

    Raises BadInput as `read_split` does. If there is no validation split, its message names the ways to choose one.
    """
    train = read_split(kind, root, options.train or "train", options, options.train is not None)
    if holdout:
        return train, None, holdout
    place = locate_validation(kind, root, options)
    if place is None:
        return train, None, HOLDOUT
    form, split = place
    return train, read_place(form, split, options), 0.0


def locate_validation(kind: Kind, root: Path, options: ReadOptions) -> tuple[Format, Split] | None:
    """The format and the place of the validation split; None if `val="auto"` and there is none. Logs that.

    Raises BadInput if there is none otherwise, with the ways to choose one.
    """
    if options.val not in (None, "auto"):
        return locate(kind, root, str(options.val), options, True)
    root = local_root(root)
    form, own_splits = _splits(kind, root, options)
    if form is not None and (name := split_of(own_splits, "val")) is not None:
        return form, Split(root, name)
    if options.val == "auto":
        log.warning("%s has no validation split: %d%% of its training images are held out", root, 100 * HOLDOUT)
        return None
    test = split_of(own_splits, "test")
    raise BadInput(
        f"data set {root} has no validation split. Hold out a part of the training images with `holdout={HOLDOUT}`"
        + (f", evaluate on its test split with `val={test}`" if test else "")
        + ", or name a file or folder with `val`",
        settings=("data.holdout", "data.val"),
    )


@listings_remembered()
def read_scored(kind: Kind, root: Path, options: ReadOptions, holdout: float, seed: int) -> Columns:
    """The columns of the images that a training with these settings is scored on."""
    split = str(options.val) if options.val not in (None, "auto") else "val"
    if not holdout and options.val != "auto":
        return read_split(kind, root, split, options, options.val is not None)
    train, val, holdout = read_train_val(kind, root, options, holdout)
    return held_out(train, holdout, seed) if val is None else val


def held_out(train: Columns, holdout: float, seed: int) -> Columns:
    """The part of the training split that is not trained on. Raises BadInput if it is empty."""
    part = train.subset((1 - holdout, 1.0), seed)
    if not len(part):
        raise BadInput(
            f"`holdout={holdout}` of the {len(train)} training images is none, because there are too few: add images",
            settings=("data.holdout",),
        )
    return part


def locate(
    kind: Kind, root: Path, wanted: str, options: ReadOptions, may_be_path: bool = False
) -> tuple[Format, Split]:
    """The format and the place of a split, see `read_split`."""
    root = local_root(root)
    place = place_of(wanted, root) if may_be_path else None
    try:
        form, _ = recognise(root, kind, options.format)
        splits = form.splits(root)
    except BadInput:
        if place is None:
            raise
    else:
        split = split_of(splits, wanted)
        if split is not None:
            return form, Split(root, split)
        if place is None:
            layout = " ".join(form.layout.split())
            if may_be_path:
                have = f"which has {', '.join(splits)}" if splits else "which has none"
                parts = [part for part in wanted.rpartition(":")[::2] if part]
                missing = [part for part in parts if not (Path(part).exists() or (root / part).exists())]
                absent = f": {' and '.join(missing)} does not exist" if len(parts) == 2 and len(missing) == 1 else ""
                raise UserError(
                    f"'{wanted}' is neither a split of {root}, {have}, nor an existing file or folder{absent}. Pass "
                    "the name of a split, or FILE[:IMAGES]"
                )
            present = f"it has {', '.join(sorted(splits)[:8])}" if splits else "it has none"
            raise BadInput(f"data set {root} ({form.name}) has no split '{wanted}'; {present}. Expected {layout}")
    file, images = place
    return _format_of_split(file, images, kind, options), Split(file, "", images)


def _format_of_split(file: Path, images: Path | None, kind: Kind, options: ReadOptions) -> Format:
    """The format of a split that is named by path. A folder of labels alone may show no layout."""
    try:
        return recognise(file, kind, options.format)[0]
    except BadInput:
        fitting = [form for form in formats() if form.kind == kind and form.label_folders]
        if images is None or not file.is_dir() or len(fitting) != 1:
            raise
        return fitting[0]


def place_of(text: str, root: Path) -> tuple[Path, Path | None] | None:
    """The file or folder, and the image folder, of a setting such as `FILE[:IMAGES]`; None if they do not exist.

    Paths are relative to the current folder or, if they do not exist there, to `root`.
    """

    def existing(part: str) -> Path | None:
        return next((path for path in (Path(part), root / part) if part and path.exists()), None)

    if (whole := existing(text)) is not None:
        return whole, None
    first, _, second = text.rpartition(":")
    file, images = existing(first), existing(second)
    return (file, images) if file is not None and images is not None else None


def read_place(form: Format, split: Split, options: ReadOptions) -> Columns:
    """The columns of a split whose place is known, with the name of their format."""
    return replace(form.read(split, options), format=form.name)


def _splits(kind: Kind, root: Path, options: ReadOptions) -> tuple[Format | None, list[str]]:
    """The format and splits of the folder; None if it is not recognised, as with training data named by path."""
    try:
        form, _ = recognise(root, kind, options.format)
        return form, form.splits(root)
    except BadInput:
        return None, []
