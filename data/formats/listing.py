"""List the images in folders, without hidden files and without links that lead out of the folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from backbones.errors import BadInput
from data.formats.folder_cache import unless_changed
from data.formats.image_files import is_file, is_folder
from data.images import IMAGE_SUFFIXES
from data.listings import remembered
from data.manifest import Files, Visits, listed, state_of
from data.names import Names

NO_IMAGE = "their suffix is not that of an image"
ENOUGH = 50  # entries of a folder that are inspected to recognise the layout
_FEW = 8  # folders that are inspected to recognise the layout
_ARCHIVE_RESIDUE = ("__MACOSX",)  # folder that macOS adds to ZIP files
_DESKTOP = ("thumbs.db", "desktop.ini")  # files that Windows adds to folders; those of macOS are hidden


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Files and folders in a folder, without hidden ones and those that operating systems add.

    Raises BadInput if the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not _is_hidden(entry.name)]
    except OSError as error:
        raise BadInput(f"cannot list {folder}: {error.strerror}") from error


@unless_changed
def folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name."""
    return remembered(
        ("folders", folder),
        lambda: sorted(Path(entry.path) for entry in entries(folder) if is_folder(entry)),
    )


def is_image_name(name: str) -> bool:
    """Whether the suffix is that of an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


@unless_changed
def has_images(folder: Path) -> bool:
    """Whether there are images directly in the folder. Inspects some of its files."""
    return any(is_image_name(entry.name) and is_file(entry) for entry in _first(entries(folder)))


def has_class_folders(folder: Path) -> bool:
    """Whether some of the folders in this folder contain images directly."""
    return any(has_images(child) for child in folders(folder)[:_FEW])


def list_images(folder: Path, subfolders: Sequence[str], follow: bool) -> Files:
    """The images in some subfolders and the folders below them, sorted by name within each subfolder.

    The list of a large folder is stored, see `data.manifest`.

    Args:
        folder: the names are relative to it. Links may not lead out of it.
        subfolders: all folders in it; or only "", for the whole folder.
        follow: whether links may lead out of `folder` nevertheless.

    Returns:
        The images. Its `further` has `counts`, (len(subfolders),) images in each subfolder, and `left_out`, the packed
        names of files whose suffix is not that of an image.

    Raises BadInput for a link that forms a cycle or, unless `follow`, leads out of `folder`.
    """
    boundary = folder.resolve()

    def find(visits: Visits) -> Files:
        visits.entries("")  # a new subfolder changes it
        found: list[tuple[str, int, int]] = []
        left_out: list[str] = []
        counts = []
        for name in subfolders:
            if name and os.path.islink(folder / name):
                check_link(folder / name, boundary, follow)
            own = sorted(_images_below(visits, name, follow, boundary, left_out))
            counts.append(len(own))
            found += own
        names, sizes, times = zip(*found, strict=True) if found else ((), (), ())
        further = {"counts": np.array(counts, np.int64), "left_out": Names.of(left_out).packed}
        return Files(Names.of(names), np.array(sizes, np.int64), np.array(times, np.int64), further)

    return listed(folder, f"images, {'whole' if list(subfolders) == [''] else 'by subfolder'}, {follow}", find)


def _images_below(
    visits: Visits, subfolder: str, follow: bool, boundary: Path, left_out: list[str]
) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of each image in a subfolder and the folders below it. Adds other files to `left_out`."""
    try:
        found = visits.entries(subfolder)
    except OSError as error:
        raise BadInput(f"cannot list {visits.top / subfolder}: {error.strerror}") from error
    prefix = subfolder + os.sep if subfolder else ""
    for entry in found:
        if _is_hidden(entry.name):
            continue
        name = prefix + entry.name
        if is_folder(entry):
            if entry.is_symlink():
                check_link(Path(entry.path), boundary, follow)
            yield from _images_below(visits, name, follow, boundary, left_out)
        elif is_image_name(entry.name):
            if entry.is_symlink():
                check_link(Path(entry.path), boundary, follow)
            yield (name, *state_of(entry.stat))
        else:
            left_out.append(name)


def check_link(path: Path, boundary: Path, follow: bool) -> None:
    """Raise BadInput for a link that forms a cycle or, unless `follow`, leads out of `boundary`, a resolved path."""
    target = Path(os.path.realpath(path))
    if not follow and not target.is_relative_to(boundary):
        raise BadInput(
            f"{path} is a link that leads out of {boundary}: refused. To read it, pass `follow_links=True`",
            settings=("data.follow_links",),
        )
    if Path(os.path.realpath(path.parent)).is_relative_to(target):
        raise BadInput(f"{path} is a link to a folder that contains it: refused, since listing it would never end")


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _ARCHIVE_RESIDUE or name.lower() in _DESKTOP


def _first(found: Iterable[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
    return [entry for _, entry in zip(range(ENOUGH), found, strict=False)]
