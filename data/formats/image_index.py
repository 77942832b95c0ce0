"""Find the image that a table means: by its path, its name, or its name without suffix."""

from __future__ import annotations

import os
from collections import defaultdict
from functools import cached_property
from pathlib import Path, PurePosixPath

from backbones.errors import BadInput
from data.formats import ALIASES
from data.formats.coco_json import is_safe
from data.formats.listing import entries, images_in, is_image_name


class ImageIndex:
    """The images in a folder and the folders below it. They are listed when a path does not exist as it is written.

    Args:
        folder: no name leads out of it.
        follow: whether links may.
        split: if several images have the name, the one in a folder with this name or another usual name of the split.
    """

    def __init__(self, folder: Path, follow: bool = False, split: str = "") -> None:
        self.folder, self._follow = folder, follow
        self._split = next((names for names in ALIASES if split.lower() in names), (split.lower(),))
        self._known: dict[str, str | None] = {}

    def find(self, text: str) -> str | None:
        """Name of the image, relative to `folder`; None if there is none. Raises BadInput if several images fit."""
        if text not in self._known:
            self._known[text] = self._find(text)
        return self._known[text]

    def unnamed(self, named: set[str]) -> list[str]:
        """Images that are not named, but are in the same folder as one that is."""
        found = []
        for parent in {os.path.dirname(name) for name in named}:
            if (self.folder / parent).is_dir():
                images = (entry.name for entry in entries(self.folder / parent) if is_image_name(entry.name))
                found += [name for image in images if (name := os.path.join(parent, image)) not in named]
        return sorted(found)

    def _find(self, text: str) -> str | None:
        path = PurePosixPath(text.replace("\\", "/"))
        if path.is_absolute() and path.is_relative_to(self.folder.absolute().as_posix()):
            path = path.relative_to(self.folder.absolute().as_posix())
        name = os.path.normpath(path)
        if is_safe(name) and is_image_name(name) and (self.folder / name).is_file():
            return name
        key = (path.name if is_image_name(path.name) else f"{path.name}.").lower()
        parts = tuple(part.lower() for part in path.parent.parts)
        candidates = self._by_name.get(key, []) if path.name else []
        best = max((_common_end(parts, other) for other in candidates), default=0)
        candidates = [other for other in candidates if _common_end(parts, other) == best]
        if len(candidates) > 1:
            own = [other for other in candidates if {part.lower() for part in Path(other).parts} & {*self._split}]
            candidates = own or candidates
        if len(candidates) > 1:
            raise BadInput(
                f"{self.folder} has several images that '{text}' may mean: {', '.join(candidates[:3])}. Name the image "
                "folder, as in `train=FILE:IMAGES`",
                settings=("data.train",),
            )
        return candidates[0] if candidates else None

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Images by their name in lower case, and by their name up to the dot of the suffix."""
        found = defaultdict(list)
        for name in images_in(self.folder, "", self._follow, {}):
            base = os.path.basename(name).lower()
            found[base].append(name)
            found[f"{os.path.splitext(base)[0]}."].append(name)
        return dict(found)


def _common_end(parts: tuple[str, ...], name: str) -> int:
    """Number of folders at the end that a path has in common with an image."""
    others = [part.lower() for part in Path(name).parent.parts]
    count = 0
    while count < min(len(parts), len(others)) and parts[-1 - count] == others[-1 - count]:
        count += 1
    return count
