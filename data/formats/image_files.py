"""The image files of a folder, and which of them a label file means by a name."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from backbones.errors import BadInput
from data.formats import ALIASES
from data.formats.folder_cache import unless_changed
from data.images import IMAGE_SUFFIXES
from data.listings import remembered

SPLIT_NAMES = {name for names in ALIASES for name in names}
NO_IMAGE = "their suffix is not that of an image"
NO_LABELS = "they have no label file"
# Suffixes of files that belong to a data set without being images, in lower case.
OTHER_SUFFIXES = (".txt", ".xml", ".json", ".csv", ".tsv", ".yaml", ".yml", ".md", ".cache", ".names", ".data", ".npy",
                  ".html", ".pdf", ".zip", ".labels", ".pbtxt", ".record", ".py", ".ipynb", ".db", ".ini")  # fmt: skip
MAX_DEPTH = 12  # folders below a folder in which images are searched
PEEK = 20  # files or folders in a folder that are inspected to recognise a layout


class ImageFiles:
    """The images in a folder and the folders below it.

    Attributes:
        folder: the folder.
        names: sorted names relative to it, with slashes.
        others: files whose suffix is neither that of an image nor that of a label file.
    """

    def __init__(self, folder: Path, follow_links: bool = False) -> None:
        self.folder = folder
        names, self.others = [], []
        for name in sorted(_walk(folder, follow_links)):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in IMAGE_SUFFIXES:
                names.append(name)
            elif suffix not in OTHER_SUFFIXES:
                self.others.append(name)
        self.names = names
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in names:
            last = name.rpartition("/")[2]
            self._by_name[last.casefold()].append(name)
            self._by_stem[os.path.splitext(last)[0].casefold()].append(name)

    def find(self, name: str) -> str | None:
        """The file that a label file calls `name`; None if there is none.

        The name may be the path on another machine: its last parts must be those of the file. A name without a folder
        matches a file in any folder. A name without the suffix of an image matches each suffix. Only files of the
        folder are found, so that no name leads out of it.

        Raises BadInput if several files match.
        """
        parts = parts_of(name)
        if not parts:
            return None
        if os.path.splitext(parts[-1])[1].lower() in IMAGE_SUFFIXES:
            return self._best(name, parts, self._by_name[parts[-1].casefold()])
        return self.of_stem(name)

    def of_stem(self, stem: str) -> str | None:
        """The image with this name without its suffix; folders in front of it count as in `find`."""
        parts = parts_of(stem)
        return self._best(stem, parts, self._by_stem[parts[-1].casefold()]) if parts else None

    def _best(self, name: str, parts: list[str], candidates: list[str]) -> str | None:
        """The candidate with the most folders in common. Upper and lower case count only where they decide."""
        ranked = []
        for candidate in candidates:
            folders = candidate.split("/")[:-1]
            same_case = candidate.rpartition("/")[2].startswith(parts[-1])
            common = _common_end(parts[:-1], folders)
            if len(parts) == 1:
                ranked.append(((int(not folders), same_case), candidate))
            elif common == len(folders):
                ranked.append(((common, same_case), candidate))
        best = [candidate for rank, candidate in ranked if rank == max(rank for rank, _ in ranked)]
        if len(best) > 1:
            raise BadInput(f"'{name}' may be any of {len(best)} images in {self.folder}: {', '.join(best[:3])}")
        return best[0] if best else None


def parts_of(name: str) -> list[str]:
    """The parts of a path that any tool wrote: with slashes or backslashes, a drive, or as the address of a server."""
    text = name.strip()
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) or text.startswith("/data/"):
        text = unquote(text.rpartition("?d=")[2] if "?d=" in text else text.partition("?")[0])
        text = text.partition("://")[2] or text
    return [part for part in re.split(r"[\\/]+", text) if part not in ("", ".", "..") and not part.endswith(":")]


@unless_changed
def files_in(folder: Path, suffixes: tuple[str, ...], most: int | None = None) -> list[Path]:
    """The files in a folder with one of the suffixes, without hidden ones: all of them, sorted, or the first ones.

    A folder that cannot be listed has none.
    """

    def find() -> list[str]:
        return [name for name in _names(folder, "files") if name.lower().endswith(suffixes)]

    return [folder / name for name in remembered((folder, suffixes), find)[:most]]


@unless_changed
def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones; none if it cannot be listed."""
    return [folder / name for name in _names(folder, "folders")]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one. A link to itself is neither a folder nor a file."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or a link to one."""
    try:
        return entry.is_file()
    except OSError:
        return False


def has_images(folder: Path, depth: int = 1) -> bool:
    """Whether there are images in a folder, or in some folders up to `depth` levels below it."""
    if files_in(folder, IMAGE_SUFFIXES, 1):
        return True
    return depth > 0 and any(has_images(inner, depth - 1) for inner in folders_in(folder)[:PEEK])


def _names(folder: Path, kind: Literal["files", "folders"]) -> list[str]:
    """The names of the files or folders in a folder, sorted, without hidden ones; none if it cannot be listed."""
    is_kind = is_file if kind == "files" else is_folder

    def find() -> list[str]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entry.name for entry in entries if is_kind(entry) and not entry.name.startswith("."))
        except OSError:
            return []

    return remembered((folder, kind), find)


def _walk(folder: Path, follow_links: bool) -> Iterator[str]:
    """Names of all files below a folder. Links to folders are followed within `folder`, or anywhere if allowed."""
    boundary, pending, seen = folder.resolve(), [("", folder, 0)], set()
    while pending:
        prefix, current, depth = pending.pop()
        real = os.path.realpath(current)
        if real in seen or depth > MAX_DEPTH:
            continue
        seen.add(real)
        try:
            with os.scandir(current) as entries:
                listed = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            raise BadInput(f"cannot list {current}: {error.strerror}") from error
        for entry in listed:
            if not is_folder(entry):
                yield prefix + entry.name
            elif follow_links or not entry.is_symlink() or Path(os.path.realpath(entry.path)).is_relative_to(boundary):
                pending.append((f"{prefix}{entry.name}/", Path(entry.path), depth + 1))
            else:
                raise BadInput(
                    f"{entry.path} is a link that leads out of {folder}: refused. To read it, pass `follow_links=True`",
                    settings=("data.follow_links",),
                )


def _common_end(first: list[str], second: list[str]) -> int:
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one.casefold() != other.casefold():
            break
        count += 1
    return count
