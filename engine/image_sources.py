"""The images that `predict` reads, from files, folders, patterns, lists and COCO files, and their names in results."""

from __future__ import annotations

import glob
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from backbones.errors import BadInput, UserError
from data.images import IMAGE_SUFFIXES

SETTING = ("images",)
FORMS = "a file, a folder, a pattern in quotes, a .txt list of paths, or a COCO file as FILE.json[:FOLDER]"


class ImageSource(NamedTuple):
    """One image file.

    Attributes:
        path: the file.
        name: its name in the results: relative to the folder that was passed, with "/" between folders. For several
            paths, relative to the innermost folder that contains all of them.
        output: name of its result files, without suffix: `name` without its suffix, unless two images would share it.
        image_id: id in a COCO file, else None.
        size: width and height in px that a COCO file states, else None.
    """

    path: str
    name: str
    output: str
    image_id: int | None = None
    size: tuple[int, int] | None = None


def find_images(places: Sequence[str], recursive: bool = False, output: str | None = None) -> list[ImageSource]:
    """The images at `places`, each once. Files in folders and of patterns are sorted by name.

    Files in folders and of patterns are images if they have a suffix of `IMAGE_SUFFIXES`. Others, hidden ones and
    folders are left out.

    Args:
        places: files, folders, patterns, lists of paths; or one COCO file, of which the list `images` is read.
        recursive: whether to read the sub-folders of folders. Hidden ones and links to folders are left out.
        output: folder of the results, left out of the sub-folders.

    Raises UserError if `places` is empty or a COCO file is not alone, BadInput if a place is missing or has no image.
    """
    places = [os.path.expanduser(place) for place in places if place]
    if not places:
        raise UserError(f"`images` is required: {FORMS}", settings=SETTING)
    coco = [place for place in places if _split(place)[0].lower().endswith(".json") and not os.path.isdir(place)]
    if coco and len(places) > 1:
        raise UserError(
            f"`images`: {coco[0]} has image ids of its own, so it cannot be combined with other paths. Predict it in a "
            "command of its own.",
            settings=SETTING,
        )
    if coco:
        return _coco(coco[0])
    found: dict[str, str] = {}  # absolute path -> path as it was passed, in order, each once
    folders = []
    for place in places:
        folder, files = _expand(place, recursive, output)
        folders.append(os.path.abspath(folder))
        for file in files:
            found.setdefault(os.path.abspath(file), file)
    base = _common(folders)
    names = [Path(os.path.relpath(path, base) if base else path).as_posix() for path in found]
    return [
        ImageSource(path, name, output)
        for path, name, output in zip(found.values(), names, result_names(names), strict=True)
    ]


def result_names(names: Sequence[str]) -> list[str]:
    """A name without suffix for the results of each image. Images that would share one keep their suffix in it.

    `a.jpg`, `a.png`, `b.jpg` -> `a.jpg`, `a.png`, `b`. Upper and lower case count as equal, as on macOS and Windows.
    """
    chosen = [PurePosixPath(name).with_suffix("").as_posix() for name in names]
    while True:
        counts = Counter(name.casefold() for name in chosen)
        shared = [i for i, name in enumerate(names) if counts[chosen[i].casefold()] > 1 and chosen[i] != name]
        if not shared:
            return chosen
        for i in shared:
            chosen[i] = names[i]


def _expand(place: str, recursive: bool, output: str | None) -> tuple[str, list[str]]:
    """A folder that contains all images of a place, and the images."""
    if os.path.isdir(place):
        files = _sorted(_walk(place, recursive, os.path.realpath(output) if output is not None else None))
        if not files:
            hint = "" if recursive else "; `recursive=True` reads its sub-folders, too"
            raise BadInput(
                f"`images={place}` contains no images: their names must end in {', '.join(IMAGE_SUFFIXES)}{hint}",
                settings=("images", "recursive"),
            )
        return place, files
    if os.path.isfile(place):
        return _listed(place) if place.lower().endswith(".txt") else (os.path.dirname(place), [place])
    if glob.has_magic(place):
        files = _sorted(file for file in glob.iglob(place, recursive=True) if _is_image(file) and os.path.isfile(file))
        if not files:
            raise BadInput(
                f"no image matches `images={place}`: names must end in {', '.join(IMAGE_SUFFIXES)}", settings=SETTING
            )
        fixed = place[: next(i for i, letter in enumerate(place) if letter in "*?[")]
        return os.path.dirname(fixed), files
    raise BadInput(f"`images={place}` does not exist: it must be {FORMS}", settings=SETTING)


def _walk(folder: str, recursive: bool, output: str | None) -> Iterable[str]:
    """Image files in a folder. Links to files that do not exist are among them, since they are reported later."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if recursive and not entry.is_symlink() and os.path.realpath(entry.path) != output:
                        yield from _walk(entry.path, recursive, output)
                elif _is_image(entry.name) and (entry.is_symlink() or entry.is_file()):
                    yield entry.path
    except OSError as error:
        raise BadInput(f"cannot read the folder {folder}: {error.strerror}") from error


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _sorted(files: Iterable[str]) -> list[str]:
    return sorted(files, key=lambda file: Path(file).parts)


def _listed(file: str) -> tuple[str, list[str]]:
    """The paths in a text file, one per line, relative to the file's folder or else to the current folder."""
    own = os.path.dirname(file)
    lines = [line.strip() for line in _text(file).splitlines()]
    paths = []
    for line in filter(None, lines):
        beside = os.path.join(own, os.path.expanduser(line))
        paths.append(beside if os.path.lexists(beside) or not os.path.lexists(line) else line)
    if not paths:
        raise BadInput(f"`images={file}` lists no image: it must have one path per line", settings=SETTING)
    return _common([os.path.dirname(os.path.abspath(path)) for path in paths]), paths


def _common(folders: Sequence[str]) -> str:
    """The innermost folder that contains all of them; empty if they are on different drives."""
    try:
        return os.path.commonpath(folders)
    except ValueError:
        return ""


def _text(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise BadInput(f"{file} is not a text file in UTF-8: {error}") from error


def _split(place: str) -> tuple[str, str]:
    """FILE.json or FILE.json:FOLDER -> file and image folder, which is by default the file's folder."""
    end = place.lower().rfind(".json:")
    file, folder = (place[: end + 5], place[end + 6 :]) if end >= 0 else (place, "")
    return file, folder or os.path.dirname(file)


def _coco(place: str) -> list[ImageSource]:
    """The images that a COCO file lists, with its ids. Its annotations are not read."""
    file, folder = _split(place)
    try:
        # Annotations are dropped while parsing: those of COCO's training images would need 2 GB.
        document = json.loads(
            _text(file), object_hook=lambda item: item if item.keys() & {"file_name", "images"} else 0
        )
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file} is not valid JSON: {error}") from error
    records = document.get("images") if isinstance(document, dict) else None
    if not isinstance(records, list) or not records:
        raise BadInput(f"{file} has no list `images` with at least one image: it must be a COCO file")
    names = [_name(record, number, file) for number, record in enumerate(records)]
    ids = [_id(record, number, file) for number, record in enumerate(records)]
    if len(set(ids)) < len(ids):
        repeated = next(number for number, count in Counter(ids).items() if count > 1)
        raise BadInput(f"{file}: the image id {repeated} occurs more than once")
    if not any(os.path.exists(os.path.join(folder, name)) for name in names):
        raise BadInput(
            f"{folder or 'the current folder'} has none of the images that {file} lists, such as {names[0]}: name "
            f"their folder, `images={file}:FOLDER`",
            settings=SETTING,
        )
    return [
        ImageSource(os.path.join(folder, name), name, output, number, _size(record))
        for name, output, number, record in zip(names, result_names(names), ids, records, strict=True)
    ]


def _name(record: Any, number: int, file: str) -> str:
    """The checked file name of an image: a path that does not leave the image folder."""
    name = record.get("file_name") if isinstance(record, dict) else None
    if not isinstance(name, str) or not name or "\0" in name:
        raise BadInput(f"{file}: images[{number}] has no `file_name`")
    path = os.path.normpath(name.replace("\\", "/"))
    if os.path.isabs(path) or path.split(os.sep)[0] == "..":
        raise BadInput(f"{file}: file_name {name!r} is not a relative path inside the image folder: refused, not read")
    return Path(path).as_posix()


def _id(record: dict[str, Any], number: int, file: str) -> int:
    value = record.get("id")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not float(value).is_integer():
        raise BadInput(f"{file}: images[{number}] has the id {value!r}, which is not an integer")
    return int(value)


def _size(record: dict[str, Any]) -> tuple[int, int] | None:
    width, height = record.get("width"), record.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None
