"""Checks image files: damaged files, unusual sizes and formats, and duplicates."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
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
TINY, LONG = 32, 4.0  # limits of usual images: shorter side in pixels, and longer side divided by shorter
SUFFIXES = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "WEBP": (".webp",), "BMP": (".bmp",), "GIF": (".gif",),
            "TIFF": (".tif", ".tiff"), "PPM": (".ppm", ".pgm", ".pbm")}  # fmt: skip
PLAIN_MODES = ("RGB", "L", "P", "RGBA", "1")
ORIENTATION = 0x0112  # EXIF tag
NEAR_BITS = 2  # of 64 bits that may differ between the hashes of near duplicates
NEAR_AT_MOST = 20_000  # largest number of images that are compared pairwise; with more, only equal hashes count


@dataclass(frozen=True)
class Finding:
    """A problem or property of a data set.

    Attributes:
        severity: "error" makes training or scores wrong, "warning" may do so, "note" is for information.
        what: description with numbers.
        fix: what to do.
        examples: some files, classes or ids.
        files: some images that show it.
    """

    severity: Severity
    what: str
    fix: str
    examples: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    @classmethod
    def of_files(cls, severity: Severity, what: str, fix: str, files: Sequence[Path]) -> Finding:
        """Make a finding with files as examples."""
        return cls(severity, what, fix, tuple(str(file) for file in files[:EXAMPLES]), tuple(files[:EXAMPLES]))


@dataclass(frozen=True)
class ImageCheck:
    """The check of one image file.

    Attributes:
        file: the image file.
        problem: why it cannot be read; None if it can. The other attributes are set for readable files only.
        size: height and width in pixels.
        digest: SHA-256 (hex) of the file.
        hash: see `difference_hash`.
        oddities: keys of `ODDITIES`.
    """

    file: Path
    problem: str | None = None
    size: tuple[int, int] = (0, 0)
    digest: str = ""
    hash: int = 0
    oddities: tuple[str, ...] = ()


def check_image(file: Path) -> ImageCheck:
    """Read and check an image file."""
    try:
        pixels = read_image(file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        with Image.open(file, formats=FORMATS) as image:
            file_format, mode, is_rotated = image.format, image.mode, image.getexif().get(ORIENTATION, 1) != 1
    except (BadInput, OSError) as error:
        return ImageCheck(file, problem=str(error))
    height, width = pixels.shape[:2]
    oddities = []
    if min(height, width) < TINY:
        oddities.append("tiny")
    if max(height, width) > LONG * min(height, width):
        oddities.append("long")
    if is_rotated:
        oddities.append("rotated")
    if mode not in PLAIN_MODES:
        oddities.append("mode")
    if file.suffix.lower() not in SUFFIXES.get(file_format or "", ()):
        oddities.append("suffix")
    return ImageCheck(file, None, (height, width), digest, difference_hash(pixels), tuple(oddities))


def difference_hash(pixels: np.ndarray) -> int:
    """Return the difference hash of an image (Krawetz, 2013), an integer of 64 bits.

    Each bit states whether one of 8 x 8 cells is brighter than its right neighbour.

    Args:
        pixels: (H, W, 3) uint8 RGB.
    """
    small = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
    bits = (small[:, :-1] > small[:, 1:]).ravel()
    return int(np.packbits(bits).view(">u8")[0])


def check_images(files: Sequence[Path], workers: int) -> Iterator[ImageCheck]:
    """Check image files in several threads. Yields the checks in the order of the files."""
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(check_image, files)


ODDITIES: dict[str, tuple[Severity, str, str]] = {
    "tiny": ("warning", f"images have a side below {TINY} px", "leave them out if they are thumbnails or icons"),
    "long": ("note", f"images are more than {LONG:g} times as long as wide", "cut them into tiles"),
    "rotated": ("warning", "images have an EXIF orientation, which the readers ignore as COCO does",
                "check that the labels were drawn on the pixels as stored, or rotate the files"),
    "mode": ("note", "images are CMYK, 16-bit or of another rare mode, and are converted", "check some of them"),
    "suffix": ("note", "files have another format than their names state", "rename them; they can be read anyway"),
}  # fmt: skip


def image_findings(checks: dict[str, list[ImageCheck]]) -> Iterator[Finding]:
    """Yield the findings from the checks of each split's images."""
    all_checks = [check for split_checks in checks.values() for check in split_checks]
    unreadable = [check for check in all_checks if check.problem]
    if unreadable:
        problems = tuple(f"{check.problem}" for check in unreadable[:EXAMPLES])
        what = f"{len(unreadable)} images cannot be read"
        yield Finding("error", what, "fetch them again, or leave them out with --data.skip_bad", problems)
    for name, (severity, what, fix) in ODDITIES.items():
        files = [check.file for check in all_checks if name in check.oddities]
        if files:
            yield Finding.of_files(severity, f"{len(files)} {what}", fix, files)
    readable = {split: [c for c in split_checks if not c.problem] for split, split_checks in checks.items()}
    yield from duplicate_findings(readable)


def duplicate_findings(checks: dict[str, list[ImageCheck]]) -> Iterator[Finding]:
    """Yield findings on identical files and near duplicates, within a split and across splits."""
    split_of = [split for split, split_checks in checks.items() for _ in split_checks]
    all_checks = [check for split_checks in checks.values() for check in split_checks]
    by_digest = defaultdict(list)
    for index, check in enumerate(all_checks):
        by_digest[check.digest].append(index)
    same = [pair for group in by_digest.values() for pair in pairwise(group)]
    near = [
        (a, b) for a, b in near_pairs([check.hash for check in all_checks])
        if all_checks[a].digest != all_checks[b].digest
    ]  # fmt: skip
    for pairs, what, severities in (
        (same, "identical files", ("error", "warning")),
        (near, "near duplicates", ("warning", "note")),
    ):
        across = [pair for pair in pairs if split_of[pair[0]] != split_of[pair[1]]]
        within = [pair for pair in pairs if split_of[pair[0]] == split_of[pair[1]]]
        for found_pairs, where, severity, fix in (
            (across, "in two splits", severities[0], "remove one: scores on training images are too high"),
            (within, "in one split", severities[1], "remove one unless it should count twice"),
        ):
            if found_pairs:
                files = [all_checks[i].file for pair in found_pairs[: EXAMPLES // 2] for i in pair]
                examples = tuple(f"{all_checks[a].file} = {all_checks[b].file}" for a, b in found_pairs[:EXAMPLES])
                text = f"{len(found_pairs)} pairs are {what} {where}"
                yield Finding(severity, text, fix, examples, tuple(files))  # type: ignore[arg-type]


def near_pairs(hashes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the index pairs of images whose hashes differ in at most `NEAR_BITS` bits.

    For more than `NEAR_AT_MOST` images, return pairs with equal hashes only.
    """
    values = np.array(hashes, np.uint64)
    if len(values) > NEAR_AT_MOST:
        order = np.argsort(values, kind="stable")
        equal = np.flatnonzero(values[order][1:] == values[order][:-1])
        return [(int(order[i]), int(order[i + 1])) for i in equal]
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(values), 512):
        distances = np.bitwise_count(values[start : start + 512, None] ^ values[None])
        rows, columns = np.nonzero(distances <= NEAR_BITS)
        pairs += [(int(a) + start, int(b)) for a, b in zip(rows, columns, strict=True) if a + start < b]
    return pairs
