"""Where the Arrow and Parquet files of each split of a Hugging Face data set are. Nothing is executed.

ROOT/dataset_dict.json with ROOT/{train,validation}/state.json and *.arrow: what `save_to_disk` writes
ROOT/[data/]train-00000-of-00002.parquet, ROOT/train.parquet, ROOT/train/0000.parquet: files of a repository on the Hub
ROOT/NAME-train.arrow: the library's cache
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from backbones.errors import BadInput
from data.formats import ALIASES
from data.formats.listing import entries, folders

SUFFIXES = (".parquet", ".arrow")
DEPTH = 3  # levels of folders below ROOT in which files are searched: CONFIGURATION/SPLIT/0000.parquet
MOST_FOLDERS = 100  # folders in a folder of configurations or splits; more are class folders
_SPLIT_NAMES = {name for names in ALIASES for name in names}
_SHARD = re.compile(r"^(?:(?P<split>.+?)[-_])?(?P<number>\d{5})-of-(?P<total>\d{5})")
_SCRIPT = re.compile(rb"class\s+\w+\(.*(GeneratorBasedBuilder|ArrowBasedBuilder|DatasetBuilder)")
_SCRIPT_BYTES = 1_000_000  # that are searched in a Python file


def is_table(path: Path) -> bool:
    """Whether it is an Arrow or Parquet file, by its suffix."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def files_of_splits(root: Path) -> dict[str, list[Path]]:
    """The files of each split, in order; empty if there are none.

    Raises BadInput for a missing part of a split, for several configurations, and for a set with a loading script.
    """
    if root.is_file():
        return {_split_of(root) or "train": [root]} if is_table(root) else {}
    if (root / "dataset_dict.json").is_file():
        names = _read(root / "dataset_dict.json").get("splits")
        if not isinstance(names, list) or not all(isinstance(n, str) and n and Path(n).name == n for n in names):
            raise BadInput(f"{root / 'dataset_dict.json'} has no list of splits")
        return {name: _saved(root / name) for name in names}
    if (root / "state.json").is_file():
        name = _read(root / "state.json").get("_split")
        return {name if isinstance(name, str) and name else "train": _saved(root)}
    found = tables_in(root)
    if not found and (script := loading_script(root)) is not None:
        raise BadInput(
            f"{root} has a loading script, {script.name}, which is not run. Use the copy that the Hub converts, "
            "`root=hf://OWNER/NAME@refs/convert/parquet`, or save the data set with its method `save_to_disk`",
            settings=("data.root",),
        )
    return _grouped(root, found)


def loading_script(root: Path) -> Path | None:
    """A Python file that defines a builder of the library `datasets`; None if there is none."""
    for entry in entries(root):
        if entry.name.endswith(".py") and entry.is_file():
            with open(entry.path, "rb") as content:
                if _SCRIPT.search(content.read(_SCRIPT_BYTES)):
                    return Path(entry.path)
    return None


def _saved(folder: Path) -> list[Path]:
    """The files that the `state.json` of a saved split lists."""
    file = folder / "state.json"
    state = _read(file)
    if any(state.get(key) for key in ("_indices_files", "_indices_data_files")):
        raise BadInput(f"{file}: the rows are selected by another file. Call `flatten_indices` before `save_to_disk`")
    listed = state.get("_data_files")
    names = [record.get("filename") if isinstance(record, dict) else None for record in listed or []]
    if not isinstance(listed, list) or not names:
        raise BadInput(f"{file} lists no files")
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise BadInput(f"{file} lists a file {name!r} that is not in {folder}")
    return [folder / str(name) for name in names]


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadInput(f"{file} is not a JSON object")
    return content


def tables_in(folder: Path, depth: int = DEPTH) -> list[Path]:
    """Arrow and Parquet files in a folder and the folders below it. Results of `map` in a cache are left out."""
    found = [Path(entry.path) for entry in entries(folder) if entry.name.lower().endswith(SUFFIXES)]
    found = [path for path in found if not path.name.startswith("cache-") and path.is_file()]
    children = folders(folder) if depth else []
    if len(children) <= MOST_FOLDERS:
        found += [path for child in children for path in tables_in(child, depth - 1)]
    return sorted(found)


def _grouped(root: Path, files: list[Path]) -> dict[str, list[Path]]:
    """The files of the only configuration by split."""
    found: dict[Path, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        folder, split = file.parent, _split_of(file)
        if split is None and folder != root and _alias(folder.name):
            folder, split = folder.parent, folder.name
        found[folder][split or "train"].append(file)
    if len(found) > 1:
        names = ", ".join(folder.relative_to(root).as_posix() for folder in found)
        first = next(folder for folder in found if folder != root)
        raise BadInput(f"{root} has several configurations: {names}. Name one, as in `root={first}`",
                       settings=("data.root",))  # fmt: skip
    splits = next(iter(found.values()), {})
    for split, own in splits.items():
        _check_complete(split, own)
    return dict(splits)


def _split_of(file: Path) -> str | None:
    """The split that the file's name states; None if it states none."""
    shard = _SHARD.match(file.stem)
    stem = shard["split"] if shard else file.stem
    if not stem:
        return None
    words = [word for word in re.split(r"[-_.]+", stem) if _alias(word)]
    return words[-1] if words else stem if shard and file.suffix.lower() == ".parquet" else None


def _alias(word: str) -> bool:
    return word.lower() in _SPLIT_NAMES


def _check_complete(split: str, files: list[Path]) -> None:
    """Raise BadInput if a part of a split is missing, such as 00001-of-00002."""
    parts = [match for file in files if (match := _SHARD.match(file.stem))]
    totals = {int(match["total"]) for match in parts}
    numbers = {int(match["number"]) for match in parts}
    if len(totals) == 1 and len(parts) == len(files) and len(numbers) != (total := totals.pop()):
        missing = min(set(range(total)) - numbers, default=total)
        raise BadInput(
            f"{files[0].parent} has {len(files)} of {total} files of the split {split}: file {missing} is missing"
        )
