"""Checks that the image files of a data set are in its folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import BadInput
from data.manifest import Files, Visits, listed, state_of
from data.names import Names


def file_sizes(columns: Any, names: Names, skip_bad: int, follow_links: bool) -> np.ndarray:
    """(n,) int64, bytes of each image file; -1 for missing and unreadable files. Lists each folder once.

    Args:
        columns: files and labels, see `data.columns`.
        names: of the files, relative to the folder of `columns`.
        skip_bad: number of files that may be missing.
        follow_links: read links that lead out of the folder.

    Raises BadInput for links that lead out of the folder, and for missing images.
    """
    folder = columns.folder.resolve()

    def find(visits: Visits) -> Files:
        every = list(names)
        states: dict[str, tuple[int, int]] = {}
        wanted = set(every)
        for parent in {name.rpartition("/")[0] for name in wanted}:
            path = columns.folder / parent
            if not follow_links and not Path(os.path.realpath(path)).is_relative_to(folder):
                raise _leads_out(path, columns.folder)
            if not path.is_dir():
                continue
            prefix = parent + "/" if parent else ""
            for entry in visits.entries(parent):
                if (name := prefix + entry.name) not in wanted:
                    continue
                # Path.resolve would raise an error for a link to itself.
                if not follow_links and entry.is_symlink():
                    target = Path(os.path.realpath(entry.path))
                    if not target.is_relative_to(folder):
                        raise _leads_out(columns.folder / name, columns.folder)
                states[name] = state_of(entry.stat)
        missing = [name for name in every if name not in states]
        if len(missing) > skip_bad:
            examples = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise BadInput(
                f"{len(missing)} of {len(every)} images of {columns.source} are not in {columns.folder}: {examples}"
            )
        found = np.array([states.get(name, (-1, -1)) for name in every], np.int64).reshape(-1, 2)
        return Files(names, found[:, 0].copy(), found[:, 1].copy())

    key = b"named, %d, %d, %s" % (follow_links, skip_bad, names.digest.digest())
    return listed(columns.folder, key, find).sizes


def _leads_out(path: Path, folder: Path) -> BadInput:
    return BadInput(
        f"{path} is a link that leads out of {folder}: refused. To read it, pass `follow_links=True`",
        settings=("data.follow_links",),
    )
