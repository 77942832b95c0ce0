"""Mask files and a legend -> class maps.

How a file is read:

- Gray values are values. Colour files whose channels are equal have their gray levels as values.
- A palette file has its indices as values. If all of its palette is gray and the used grays differ from their indices,
  the grays are the values if they are known in all of up to 64 such masks of the split, else the indices. If only the
  used colours are gray, the indices are the values if they are known, else the grays.
- With a colour table, a file's colours, palette colours or grays are looked up in it. If the one-channel masks of the
  split have other colours than those of the table, they have values: row numbers from 0 if the table has no values.
- The white of 1-bit files is 1, or 255 if 1 is unknown and 255 is known.
- Lossy files are read only if the settings name the values and these differ by 64 or more: each pixel is the nearest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import parent_process
from pathlib import Path

import numpy as np

from backbones.errors import BadInput
from data.legend import NO_COLOR, UNKNOWN, Legend
from data.mask_diagnosis import Found, lossy, unknown_colors, unknown_values
from data.mask_files import MaskContent, StoredMask, color_codes, read_mask
from data.scan import evenly_spaced

SAMPLE = 64  # masks of a split that decide how values are read and what unknown ones mean
FAR = 64  # smallest difference of values that lossy compression does not confuse


Content = Callable[[int], bytes]

log = logging.getLogger(__name__)


class MaskFiles:
    """index -> class map of the mask file: (H, W) uint8 class indices, 255 for no class.

    Raises BadInput with the file if it cannot be read or has an unknown value or colour, with an explanation from a
    sample of the files. Can be sent to other processes.

    Args:
        files: the masks of a split.
        legend: the classes of values and colours.
        content: index -> the content of a mask, if `files` only name it.
    """

    def __init__(self, files: Sequence[Path], legend: Legend, content: Content | None = None) -> None:
        self.__setstate__({"files": files, "legend": legend, "content": content})

    def __getstate__(self) -> dict[str, object]:
        return {"files": self.files, "legend": self.legend, "content": self.content}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.files: Sequence[Path]
        self.legend: Legend
        self.content: Content | None
        self.__dict__.update(state)
        self._value_table = self.legend.value_table()
        self._color_table: np.ndarray | None = None  # made when the first colour is looked up
        # Decisions for the whole split, made when they are needed:
        self._sample: list[MaskContent] | None = None
        self._grays_are_values: bool | None = None
        self._one_channel_by_color: bool | None = None

    def __call__(self, index: int) -> np.ndarray:
        path = self.files[index]
        stored = read_mask(path, self.content(index) if self.content is not None else None)
        if stored.lossy:
            return self._rounded(stored, path)
        if stored.colors is not None:
            if self._color_table is None:
                self._color_table = self.legend.color_table()
            classes = self._color_table[color_codes(stored.colors)]
        else:
            classes = self._one_channel(stored)
        if classes.max(initial=0) == UNKNOWN:
            raise self._diagnosis(stored, path)
        return classes.astype(np.uint8)

    def _one_channel(self, stored: StoredMask) -> np.ndarray:
        """(H, W) entries of a lookup table for a mask of values or palette indices."""
        assert stored.values is not None
        if stored.palette is None and stored.bits > 1 and not self.legend.colors:
            return self._value_table[stored.values]
        content = MaskContent.of(stored)
        if self._by_color(content):
            colors = _colors_of_values(stored.palette).tolist()
            return np.array([self.legend.colors.get(color, UNKNOWN) for color in colors], np.uint16)[stored.values]
        mapping = self._mapping(content)
        return self._value_table[stored.values if mapping is None else mapping[stored.values]]

    # --- decisions, from what masks contain

    def _by_color(self, content: MaskContent) -> bool:
        """Whether a mask is read by colour."""
        if content.colors:
            return True
        if not self.legend.colors:
            return False
        if self._one_channel_by_color is None:
            masks = [mask for mask in self.sample() if mask.values and not mask.lossy] or [content]
            self._one_channel_by_color = all(self._in_table(mask) for mask in masks)
        return self._one_channel_by_color and max(content.values, default=0) <= 255

    def _in_table(self, content: MaskContent) -> bool:
        colors = _colors_of_values(content.palette)
        return max(content.values) < len(colors) and self.legend.colors.keys() >= {
            int(colors[value]) for value in content.values
        }

    def _mapping(self, content: MaskContent) -> np.ndarray | None:
        """(256,) value of each stored value; None if they are equal."""
        if content.palette is None:
            is_white = content.bits == 1 and not self._known([1]) and self._known([255])
            return np.arange(256, dtype=np.uint8) * np.uint8(255) if is_white else None
        grays = _grays(content)
        return grays if grays is not None and self._by_grays(content, grays) else None

    def _by_grays(self, content: MaskContent, grays: np.ndarray) -> bool:
        """Whether a palette file whose used colours are gray is read by them."""
        if not _all_gray(content):
            return not self._known(content.values) and self._known(grays[list(content.values)])
        if self._grays_are_values is None:
            masks = [(mask, own) for mask in self.sample() if _all_gray(mask) and (own := _grays(mask)) is not None]
            masks = masks or [(content, grays)]
            by_grays = all(self._known(own[list(mask.values)]) for mask, own in masks)
            by_index = all(self._known(mask.values) for mask, _ in masks)
            self._grays_are_values = by_grays or not by_index
            if by_grays and by_index and parent_process() is None:
                found = sorted({int(own[value]) for mask, own in masks for value in mask.values})
                log.warning(
                    "%s: palettes of grays, such as %s. Both the grays and the indices of the masks are known values. "
                    "The grays are read. To read the indices, name only these with --data.mask_values",
                    self.files[0].parent,
                    ", ".join(str(gray) for gray in found[:5]),
                )
        return self._grays_are_values

    def _known(self, values: Iterable[int]) -> bool:
        return all(int(value) in self.legend.values for value in values)

    # --- lossy files and unknown values

    def _rounded(self, stored: StoredMask, path: Path) -> np.ndarray:
        """The class map of a lossy file: each pixel has the class of the nearest value."""
        known = np.array(sorted(self.legend.values))
        far = self.legend.exact and not self.legend.positional and bool((np.diff(known) >= FAR).all())
        if stored.values is None or not far:
            content = MaskContent.of(stored)
            raise lossy(path, str(stored.lossy), content.values or content.colors, self.legend)
        nearest = known[np.abs(np.arange(256)[:, None] - known).argmin(1)]
        return self._value_table[nearest].astype(np.uint8)[stored.values]

    def _diagnosis(self, stored: StoredMask, path: Path) -> BadInput:
        found, content = self.found(), MaskContent.of(stored)
        values, colors = self._as_read(content)
        found.add(values, colors)
        if colors:
            return unknown_colors(path, colors, self.legend, found)
        return unknown_values(path, values, self.legend, found)

    def _as_read(self, content: MaskContent) -> tuple[dict[int, int], dict[int, int]]:
        """Number of pixels of each value, and of each colour, as the mask is read."""
        if content.colors:
            return {}, content.colors
        mapping = _colors_of_values(content.palette) if self._by_color(content) else self._mapping(content)
        merged: dict[int, int] = {}
        for value, count in content.values.items():
            read = value if mapping is None else int(mapping[value])
            merged[read] = merged.get(read, 0) + count
        return ({}, merged) if self._by_color(content) else (merged, {})

    def found(self) -> Found:
        """The values and colours in the sample, as they are read."""
        found = Found()
        for content in self.sample():
            if not content.lossy:
                found.add(*self._as_read(content))
        return found

    def sample(self) -> list[MaskContent]:
        """The content of up to 64 of the masks. Read once."""
        if self._sample is None:
            self._sample = sample_masks(self.files, content=self.content)
        return self._sample


def sample_masks(files: Sequence[Path], most: int = SAMPLE, content: Content | None = None) -> list[MaskContent]:
    """The content of up to `most` masks, evenly spaced, without unreadable ones. `content`: see `MaskFiles`."""
    contents = []
    for index in evenly_spaced(len(files), most).tolist():
        try:
            data = content(index) if content is not None else None
            contents.append(MaskContent.of(read_mask(files[index], data)))
        except BadInput:
            continue  # reported when it is read
    return contents


def found_in(files: Sequence[Path], most: int = SAMPLE, content: Content | None = None) -> Found:
    """The values and colours in a sample of masks, as they are stored. See `sample_masks`."""
    found = Found()
    for mask in sample_masks(files, most, content):
        found.add(mask.values, mask.colors)
    return found


def _colors_of_values(palette: np.ndarray | None) -> np.ndarray:
    """(256,) colour 0xRRGGBB of each value of a palette or gray file; `NO_COLOR` for indices beyond the palette."""
    colors = np.arange(256, dtype=np.uint32) * 0x010101
    if palette is not None:
        colors[:] = NO_COLOR
        colors[: len(palette)] = color_codes(palette)
    return colors


def _grays(content: MaskContent) -> np.ndarray | None:
    """(256,) gray of each index, if all used palette colours are gray and differ from their indices; else None."""
    if content.palette is None or max(content.values, default=0) >= len(content.palette):
        return None
    used = np.array(list(content.values), np.int64)
    rgb = content.palette[used]
    if (rgb != rgb[:, :1]).any() or (rgb[:, 0] == used).all():
        return None
    grays = np.zeros(256, np.uint8)
    grays[: len(content.palette)] = content.palette[:, 0]
    return grays


def _all_gray(content: MaskContent) -> bool:
    palette = content.palette
    return palette is not None and bool((palette == palette[:, :1]).all())
