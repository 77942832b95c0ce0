"""List the images in folders, without hidden files and without links that lead out of the folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from backbones.errors import BadInput
from data.formats.folder_cache import unless_changed
from data.formats.image_files import is_file, is_folder
from data.images import IMAGE_SUFFIXES
from data.listings import remembered

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


def images_in(
    folder: Path, subfolder: str, follow: bool, left_out: dict[str, list[str]], boundary: Path | None = None
) -> list[str]:
    """Sorted names, relative to `folder`, of the images in `subfolder` and the folders below it.

    Args:
        folder: folder of the images.
        subfolder: name of a folder in it, or "" for all of it.
        follow: whether links may lead out of `boundary`.
        left_out: names of other files are added to it, under the reason.
        boundary: resolved path of the folder that links may not leave; `folder` by default.

    Raises BadInput for a link that forms a cycle or, unless `follow`, leads out of `boundary`.
    """
    boundary = boundary or folder.resolve()
    if subfolder and os.path.islink(folder / subfolder):
        check_link(folder / subfolder, boundary, follow)
    names = []
    for entry in entries(folder / subfolder):
        name = os.path.join(subfolder, entry.name)
        if is_folder(entry):
            names += images_in(folder, name, follow, left_out, boundary)
        elif is_image_name(entry.name):
            if entry.is_symlink():
                check_link(Path(entry.path), boundary, follow)
            names.append(name)
        else:
            left_out.setdefault(NO_IMAGE, []).append(name)
    return sorted(names)


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
