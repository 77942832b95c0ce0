"""What an audit looks for in image files: damage, odd pixels, and the same picture twice."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from backbones.errors import BadInput
from data.images import FORMATS, read_image

Severity = Literal["error", "warning", "note"]
EXAMPLES = 12  # files named for each finding
TINY, LONG = 32, 4.0  # shorter side in px, and longer side over shorter, of odd images
SUFFIXES = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "WEBP": (".webp",), "BMP": (".bmp",), "GIF": (".gif",),
            "TIFF": (".tif", ".tiff"), "PPM": (".ppm", ".pgm", ".pbm")}  # fmt: skip
PLAIN_MODES = ("RGB", "L", "P", "RGBA", "1")
ORIENTATION = 0x0112  # EXIF tag
NEAR_BITS = 2  # of 64 that may differ between two hashes of one picture
NEAR_AT_MOST = 20_000  # images that are compared with each other; beyond, only equal hashes are found


@dataclass(frozen=True)
class Finding:
    """Something to know, or to mend, about a data set.

    Attributes:
        severity: "error" spoils training or scores, "warning" may, "note" is good to know.
        what: in words, with its numbers.
        fix: what to do.
        examples: files, classes or ids, a few of them.
        files: images that show it, if any.
    """

    severity: Severity
    what: str
    fix: str
    examples: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    @classmethod
    def of_files(cls, severity: Severity, what: str, fix: str, files: Sequence[Path]) -> Finding:
        """A finding shown by its files."""
        return cls(severity, what, fix, tuple(str(file) for file in files[:EXAMPLES]), tuple(files[:EXAMPLES]))


@dataclass(frozen=True)
class Look:
    """What one file shows: `problem` where it cannot be read; else size, digest, hash, and oddities by name."""

    file: Path
    problem: str | None = None
    size: tuple[int, int] = (0, 0)  # height, width
    digest: str = ""
    hash: int = 0
    odd: tuple[str, ...] = ()


def look(file: Path) -> Look:
    """Read a file, and describe it."""
    try:
        pixels = read_image(file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        with Image.open(file, formats=FORMATS) as image:
            kind, mode, turned = image.format, image.mode, image.getexif().get(ORIENTATION, 1) != 1
    except (BadInput, OSError) as error:
        return Look(file, problem=str(error))
    height, width = pixels.shape[:2]
    odd = []
    if min(height, width) < TINY:
        odd.append("tiny")
    if max(height, width) > LONG * min(height, width):
        odd.append("long")
    if turned:
        odd.append("turned")
    if mode not in PLAIN_MODES:
        odd.append("mode")
    if file.suffix.lower() not in SUFFIXES.get(kind or "", ()):
        odd.append("suffix")
    return Look(file, None, (height, width), digest, difference_hash(pixels), tuple(odd))


def difference_hash(pixels: np.ndarray) -> int:
    """64 bits: whether each of 8 x 8 cells is brighter than its right neighbour (Krawetz, 2013)."""
    small = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
    bits = (small[:, :-1] > small[:, 1:]).ravel()
    return int(np.packbits(bits).view(">u8")[0])


def look_at_all(files: Sequence[Path], workers: int, seen: Callable[[], None]) -> list[Look]:
    """All looks, in order; `seen` is called for each."""
    with ThreadPoolExecutor(workers) as pool:
        looks = []
        for found in pool.map(look, files):
            looks.append(found)
            seen()
    return looks


ODDITIES: dict[str, tuple[Severity, str, str]] = {
    "tiny": ("warning", f"images have a side below {TINY} px", "leave them out, if they are thumbnails or icons"),
    "long": ("note", f"images are more than {LONG:g} times as long as wide", "letterboxing leaves little: tile them"),
    "turned": ("warning", "images are to be turned by their EXIF orientation, which the readers ignore, as COCO does",
               "make sure that the labels were drawn on the unturned pixels, or turn the files"),
    "mode": ("note", "images are CMYK, 16-bit or of another rare kind, and are converted", "nothing, if all is well"),
    "suffix": ("note", "files are of another format than their names say", "rename them; they are read all the same"),
}  # fmt: skip


def findings(looks: dict[str, list[Look]]) -> Iterator[Finding]:
    """What the looks at each split's images show."""
    everything = [found for of_split in looks.values() for found in of_split]
    broken = [found for found in everything if found.problem]
    if broken:
        told = tuple(f"{found.problem}" for found in broken[:EXAMPLES])
        yield Finding(
            "error", f"{len(broken)} images cannot be read", "fetch them again, or allow --data.skip_bad", told
        )
    for name, (severity, what, fix) in ODDITIES.items():
        files = [found.file for found in everything if name in found.odd]
        if files:
            yield Finding.of_files(severity, f"{len(files)} {what}", fix, files)
    yield from duplicates({split: [v for v in of_split if not v.problem] for split, of_split in looks.items()})


def duplicates(looks: dict[str, list[Look]]) -> Iterator[Finding]:
    """The same file, or nearly the same picture, twice: within a split, or worse, in two."""
    split_of = [split for split, of_split in looks.items() for _ in of_split]
    everything = [found for of_split in looks.values() for found in of_split]
    by_digest = defaultdict(list)
    for index, found in enumerate(everything):
        by_digest[found.digest].append(index)
    same = [pair for group in by_digest.values() for pair in pairwise(group)]
    near = [
        (a, b) for a, b in near_pairs([found.hash for found in everything])
        if everything[a].digest != everything[b].digest
    ]  # fmt: skip
    for pairs, what, severities in (
        (same, "the same file", ("error", "warning")),
        (near, "nearly the same picture", ("warning", "note")),
    ):
        across = [pair for pair in pairs if split_of[pair[0]] != split_of[pair[1]]]
        within = [pair for pair in pairs if split_of[pair[0]] == split_of[pair[1]]]
        for found_pairs, where, severity, fix in (
            (across, "in two splits", severities[0], "remove one: scores on images that were trained on say little"),
            (within, "twice in a split", severities[1], "remove one, if they are not meant to count twice"),
        ):
            if found_pairs:
                files = [everything[i].file for pair in found_pairs[: EXAMPLES // 2] for i in pair]
                told = tuple(f"{everything[a].file} = {everything[b].file}" for a, b in found_pairs[:EXAMPLES])
                text = f"{len(found_pairs)} pairs are {what}, {where}"
                yield Finding(severity, text, fix, told, tuple(files))  # type: ignore[arg-type]


def near_pairs(hashes: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of pictures whose hashes differ in two bits or fewer; of very many, those with equal hashes."""
    values = np.array(hashes, np.uint64)
    if len(values) > NEAR_AT_MOST:
        order = np.argsort(values, kind="stable")
        equal = np.flatnonzero(values[order][1:] == values[order][:-1])
        return [(int(order[i]), int(order[i + 1])) for i in equal]
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(values), 512):
        apart = np.bitwise_count(values[start : start + 512, None] ^ values[None])
        rows, columns = np.nonzero(apart <= NEAR_BITS)
        pairs += [(int(a) + start, int(b)) for a, b in zip(rows, columns, strict=True) if a + start < b]
    return pairs
