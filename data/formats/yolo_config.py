"""Configurations of YOLO data sets: Ultralytics' YAML, Darknet's .data file, and lists of class names.

Where its paths lead. They are relative to `path`, if the file has one, else to the folder of the file. Many files name
folders of the machine that wrote them, or a folder too high, as Roboflow's `../train/images`. A path that does not
exist is therefore searched in the folder of the file, without its first parts. Paths stay within the folder that
contains the folder of the file, unless links may be followed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from backbones.errors import BadInput
from data.formats.image_files import files_in, parts_of
from data.formats.records import Record, read_bytes, read_text, shown, start_of

NAME_FILES = ("classes.txt", "obj.names", "names.txt", "class_names.txt", "_darknet.labels", "labels.txt")
PREFERRED = ("data.yaml", "dataset.yaml", "config.yaml", "data.yml", "dataset.yml", "config.yml")
CONFIG_SUFFIXES = (".yaml", ".yml", ".data")
SPLITS = ("train", "val", "valid", "validation", "test", "minival")
LINK_SIZE = 1024  # bytes up to which a file may be a link that git wrote as a text
MAX_LINKS = 40  # as in Linux
_KEYS = re.compile(r"^(names|nc|train|val)\s*:", re.MULTILINE)
_IS_DATA = re.compile(r"^\s*(train|valid|val|test)\s*=.*\S", re.MULTILINE)


@dataclass(frozen=True)
class Config:
    """The content of a configuration.

    Attributes:
        file: the file.
        names: number in the label files -> class name, in the order of the numbers.
        splits: name of each split -> its paths as written.
        path: the folder that they are relative to, as written.
        keypoints: whether label lines have keypoints after the box.
        roboflow: whether Roboflow wrote the file.
    """

    file: Path
    names: Mapping[int, str]
    splits: Mapping[str, Sequence[str]] = field(default_factory=dict)
    path: str = ""
    keypoints: bool = False
    roboflow: bool = False

    def files(self, split: str, follow_links: bool) -> list[Path]:
        """The existing folders and lists of a split."""
        return [self.existing(entry, follow_links) for entry in self.splits[split]]

    def exists(self, split: str) -> bool:
        """Whether there is a file or folder at one of the paths of a split, wherever links lead."""
        places = (self.resolved(path, True) for entry in self.splits[split] for path in self._candidates(entry))
        return any(place is not None for place in places)

    def existing(self, entry: str, follow_links: bool) -> Path:
        """The file or folder that a path in the configuration means. Raises BadInput if it does not exist."""
        for candidate in self._candidates(entry):
            if (found := self.resolved(candidate, follow_links)) is not None and found.exists():
                return candidate
        raise BadInput(f"{self.file}: the path {entry} does not exist, neither in {self._base()} nor in the folder of "
                       "the file")  # fmt: skip

    def resolved(self, path: Path, follow_links: bool) -> Path | None:
        """The real file or folder; None if it does not exist. Raises BadInput if it is beyond the boundary.

        Follows files that git wrote in place of links: a short text with a relative path.
        """
        boundary = self.file.parent.resolve().parent
        real = _follow(path)
        if real is not None and not follow_links and not real.is_relative_to(boundary):
            raise BadInput(
                f"{self.file}: {path} leads out of {boundary}: refused. To read it, pass `follow_links=True`",
                settings=("data.follow_links",),
            )
        return real

    def _base(self) -> Path:
        base = self.file.parent / self.path
        return base if base.is_dir() else self.file.parent

    def _candidates(self, entry: str) -> list[Path]:
        folder, entry = self.file.parent, entry.replace("\\", "/")
        written = [self._base() / entry, folder / entry]
        parts = parts_of(entry)
        inside = [folder.joinpath(*parts[i:]) for i in range(len(parts))]
        return [inside[0], *written, *inside] if self.roboflow and inside else [*written, *inside]


def find_config(root: Path) -> Path | None:
    """The configuration in a folder; None if there is none. Raises BadInput if there are several to choose from."""
    found = configs_in(root)
    if len(found) > 1:
        raise BadInput(
            f"{root} has several configurations: {', '.join(file.name for file in found)}. Name one as `root`",
            settings=("data.root",),
        )
    return found[0] if found else None


def configs_in(root: Path) -> list[Path]:
    """The configurations in a folder: the one with a usual name, else all."""
    found = [file for file in files_in(root, CONFIG_SUFFIXES) if is_config(file)]
    preferred = [file for name in (*PREFERRED, f"{root.name}.yaml") for file in found if file.name.lower() == name]
    return preferred[:1] or found


def is_config(file: Path) -> bool:
    """Whether a file is a configuration, from its first lines."""
    suffix = file.suffix.lower()
    if suffix not in CONFIG_SUFFIXES or not file.is_file():
        return False
    start = start_of(file)
    if suffix == ".data":
        return _IS_DATA.search(start) is not None
    keys = set(_KEYS.findall(start))
    usual = file.name.lower() in PREFERRED[:2]
    # The start of a file need not have all keys: the names of many classes fill it.
    return bool(keys & {"names", "nc"}) or keys >= {"train", "val"} or bool(usual and keys)


def read_config(file: Path) -> Config:
    """The content of a configuration. Raises BadInput if it is malformed."""
    return _read_data(file) if file.suffix.lower() == ".data" else _read_yaml(file)


def find_names(folders: Sequence[Path]) -> Config | None:
    """The class names in the first of these folders that has a list of them, one name per line."""
    for folder in folders:
        for name in NAME_FILES:
            if (folder / name).is_file():
                return Config(folder / name, dict(enumerate(_lines(folder / name))))
    return None


def _read_yaml(file: Path) -> Config:
    try:
        content = yaml.safe_load(read_bytes(file))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadInput(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    record = Record(file, "the configuration")
    content = record.mapping(content)
    names = _names(record, content)
    count = content.get("nc")
    if count is not None and names and record.number(count, "nc") != len(names):
        record.fail(f"has nc {shown(count)}, but {len(names)} names")
    splits = {name: _paths(record, name, content[name]) for name in SPLITS if content.get(name)}
    path = content.get("path") or ""
    if not isinstance(path, str):
        record.fail(f"has path {shown(path)}, not a path")
    return Config(file, names, splits, path.replace("\\", "/"), "kpt_shape" in content, "roboflow" in content)


def _names(record: Record, content: dict[Any, Any]) -> dict[int, str]:
    """Names by number: a list, or numbers and names. Without names, as many as `nc` says."""
    names = content.get("names")
    if names is None:
        count = record.number(content.get("nc", "nothing"), "nc")
        if not (1 <= count <= 100_000 and count.is_integer()):
            record.fail(f"has nc {shown(count)} and no names")
        return {i: f"class_{i}" for i in range(int(count))}
    if isinstance(names, str):  # a file with one name per line
        return dict(enumerate(_lines(record.file.parent / parts_of(names)[-1]))) if parts_of(names) else {}
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        record.fail(f"has names {shown(names)}, not a list of class names")
    found = {}
    for key, name in names.items():
        number = record.number(key, "a class number")
        if not (number >= 0 and number.is_integer()):
            record.fail(f"has the class number {shown(key)}, not a whole number from 0")
        found[int(number)] = record.label(name, f"names[{shown(key)}]")
    return dict(sorted(found.items()))


def _paths(record: Record, key: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    for path in values:
        if not isinstance(path, str) or not path.strip() or "\0" in path:
            record.fail(f"has {key} {shown(path)}, not a path")
    return [path.strip() for path in values]


def _read_data(file: Path) -> Config:
    """Darknet's file: lines KEY = VALUE."""
    values = {}
    for line in _lines(file):
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            values[key.strip().lower()] = value.strip()
    splits = {"val" if key == "valid" else key: [values[key]] for key in SPLITS if values.get(key)}
    written = values.get("names", "")
    config = Config(file, {}, splits)
    name_file = config.existing(written, False) if written else None
    found = Config(name_file, dict(enumerate(_lines(name_file)))) if name_file else find_names([file.parent])
    if found is None or not found.names:
        raise BadInput(f"{file} names no file with the class names: expected a line such as names = obj.names")
    return Config(file, found.names, splits)


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]


def _follow(path: Path) -> Path | None:
    """The path without links; None if it does not exist."""
    for _ in range(MAX_LINKS):
        link = next((part for part in (path, *path.parents) if part.is_file()), None)
        is_list = link == path and path.suffix.lower() == ".txt"  # of a single image
        target = None if link is None or is_list else _target(link)
        if link is None or target is None:
            return path.resolve() if path.exists() else None
        path = link.parent / target / path.relative_to(link)
    return None


def _target(file: Path) -> str | None:
    """The path in a file that git wrote in place of a link; None for any other file."""
    try:
        if file.stat().st_size > LINK_SIZE:
            return None
        text = file.read_text().strip()
    except (OSError, ValueError):
        return None
    is_path = text and "\n" not in text and "\0" not in text and not text.startswith("/")
    return text if is_path and (file.parent / text).exists() else None
