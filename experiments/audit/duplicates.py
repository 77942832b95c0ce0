"""Finds identical images and near duplicates, within a split and across splits.

Near duplicates are the same picture after compression, scaling, a small crop, a change of brightness or mirroring.
Textures of one material have similar coarse structures without being the same picture, so each candidate is verified:

1. Candidates: the difference hashes of two images, 128 bits, differ in at most 20.
2. Fine structure, unaligned: the images without their coarse structure correlate by at least 0.5.
3. Fine structure, aligned: after the small affine transform that maximises it, they correlate by at least 0.85.

docs/data.md has the measured precision and recall.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data.bands import displayable
from data.findings import EXAMPLES, Finding, Severity

SIDE = 64  # px of the small gray image that everything is computed from
NEAR_BITS = 20  # of 128. Copies differ in at most 20 bits after cropping 2% at each side; 2 after compression.
COARSE, FINE = 0.5, 0.85  # least correlations, see the measurements in docs/data.md
MOVED = 0.1 * SIDE  # px by which the alignment may move a corner of the small image
LOW, HIGH = 1.0, SIDE / 16  # px: standard deviations of the Gaussians that the fine structure lies between
FLAT = 0.5  # standard deviation of the fine structure, in gray values, below which it is noise
EQUAL = 2.0  # mean difference of gray values of two flat images that are the same
MOST = 150_000  # images that are compared pairwise, in two minutes; their small images need 600 MB
ROWS = 512  # images that are compared with all others at once


@dataclass(frozen=True)
class Fingerprint:
    """What images are compared by.

    Attributes:
        file: the image file.
        digest: SHA-256 (hex) of the file.
        small: (64, 64) uint8, the gray image.
    """

    file: Path
    digest: str
    small: np.ndarray


class Pair(NamedTuple):
    """Two near duplicates, by index. `mirrored`: whether the second is a mirror image."""

    first: int
    second: int
    mirrored: bool


def small_image(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB, or another image, see `displayable` -> (64, 64) uint8 gray."""
    return cv2.resize(cv2.cvtColor(displayable(pixels), cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def difference_hash(small: np.ndarray) -> np.ndarray:
    """(2,) uint64, the difference hashes of a gray image in both directions (Krawetz, 2013).

    Each bit states whether one of 8 x 8 cells is brighter than its neighbour on the right, or below.
    """
    right = cv2.resize(small, (9, 8), interpolation=cv2.INTER_AREA)
    below = cv2.resize(small, (8, 9), interpolation=cv2.INTER_AREA)
    bits = np.stack([(right[:, :-1] > right[:, 1:]).ravel(), (below[:-1] > below[1:]).ravel()])
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64)[:, 0]


def duplicate_findings(prints: dict[str, list[Fingerprint]]) -> Iterator[Finding]:
    """Yield findings on identical files and near duplicates, within a split and across splits."""
    split_of = [split for split, own in prints.items() for _ in own]
    every = [fingerprint for own in prints.values() for fingerprint in own]
    yield from _found(identical_pairs(every), "identical files", ("error", "warning"), split_of, every)
    if len(every) > MOST:
        yield Finding("note", f"near duplicates are searched in up to {MOST:,} images, and these are {len(every):,}")
        return
    near = near_pairs([fingerprint.small for fingerprint in every])
    different = [pair for pair in near if every[pair.first].digest != every[pair.second].digest]
    yield from _found(different, "near duplicates", ("warning", "note"), split_of, every)


def _found(
    pairs: list[Pair],
    what: str,
    severities: tuple[Severity, Severity],
    split_of: list[str],
    prints: list[Fingerprint],
) -> Iterator[Finding]:
    """A finding for the pairs across splits, and one for those within a split. `severities`: of the two."""
    across = [pair for pair in pairs if split_of[pair.first] != split_of[pair.second]]
    within = [pair for pair in pairs if split_of[pair.first] == split_of[pair.second]]
    for chosen, where, severity, fix in (
        (across, "in two splits", severities[0], "Remove one: scores on training images are too high"),
        (within, "in one split", severities[1], "Remove one unless it should count twice"),
    ):
        if chosen:
            mirrored = sum(pair.mirrored for pair in chosen)
            text = f"{len(chosen)} pairs are {what} {where}" + (f", {mirrored} of them mirrored" if mirrored else "")
            names = [(prints[pair.first].file, prints[pair.second].file) for pair in chosen[:EXAMPLES]]
            files = tuple(file for pair in names[: EXAMPLES // 2] for file in pair)
            yield Finding(severity, text, fix, tuple(f"{first} = {second}" for first, second in names), files)


def identical_pairs(prints: Sequence[Fingerprint]) -> list[Pair]:
    """Files of the same content. A file that is listed twice is not among them: it is reported with the labels."""
    by_digest: dict[str, list[int]] = defaultdict(list)
    for index, fingerprint in enumerate(prints):
        by_digest[fingerprint.digest].append(index)
    pairs = [pair for group in by_digest.values() for pair in pairwise(group)]
    return [
        Pair(a, b, False)
        for a, b in pairs
        if os.path.realpath(prints[a].file) != os.path.realpath(prints[b].file)
    ]  # fmt: skip


def near_pairs(smalls: Sequence[np.ndarray]) -> list[Pair]:
    """The near duplicates among images, given as (64, 64) uint8 gray."""
    if len(smalls) < 2:
        return []
    plain = np.stack([difference_hash(small) for small in smalls])
    mirror = np.stack([difference_hash(np.ascontiguousarray(small[:, ::-1])) for small in smalls])
    coarse = np.stack([_coarse(fine_structure(small)) for small in smalls])
    found: dict[tuple[int, int], Pair] = {}
    for mirrored, hashes in ((False, plain), (True, mirror)):
        for first, second in _candidates(plain, hashes):
            others = coarse[second]
            if mirrored:
                others = others.reshape(-1, SIDE // 2, SIDE // 2)[:, :, ::-1].reshape(others.shape)
            alike = np.einsum("ij,ij->i", coarse[first], others) >= COARSE
            is_flat = ~coarse[first].any(1) & ~others.any(1)
            for a, b in zip(first[alike | is_flat].tolist(), second[alike | is_flat].tolist(), strict=True):
                if (a, b) not in found and are_near(smalls[a], smalls[b][:, ::-1] if mirrored else smalls[b]):
                    found[a, b] = Pair(a, b, mirrored)
    return sorted(found.values())


def _candidates(hashes: np.ndarray, others: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices a < b, some at a time, for which the hash of a and the other hash of b differ in few bits."""
    for start in range(0, len(hashes), ROWS):
        rows, columns = hashes[start : start + ROWS], others[start:]
        distance = np.bitwise_count(rows[:, None, 0] ^ columns[None, :, 0])
        distance += np.bitwise_count(rows[:, None, 1] ^ columns[None, :, 1])
        first, second = np.nonzero(distance <= NEAR_BITS)
        for part in range(0, len(first), 4 * ROWS):
            a, b = first[part : part + 4 * ROWS], second[part : part + 4 * ROWS]
            yield a[a < b] + start, b[a < b] + start


def fine_structure(small: np.ndarray) -> np.ndarray:
    """(64, 64) float32, the gray image without its coarse structure and without noise of single pixels."""
    gray = small.astype(np.float32)
    return cv2.GaussianBlur(gray, (0, 0), LOW) - cv2.GaussianBlur(gray, (0, 0), HIGH)


def _coarse(fine: np.ndarray) -> np.ndarray:
    """(1024,) float32, the fine structure at half its size, centred, of length 1; zeros for a flat image."""
    half = cv2.resize(fine, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA).ravel()
    half = half - half.mean()
    return half / np.linalg.norm(half) if fine.std() >= FLAT else np.zeros_like(half)


def are_near(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two small gray images, (64, 64) uint8, show the same picture, slightly shifted, scaled or sheared.

    Aligns their fine structures by maximising the enhanced correlation coefficient (Evangelidis and Psarakis, 2008).
    """
    a, b = fine_structure(first), fine_structure(np.ascontiguousarray(second))
    if a.std() < FLAT and b.std() < FLAT:
        return float(np.abs(first.astype(np.float32) - second).mean()) < EQUAL
    transform, everywhere = np.eye(2, 3, dtype=np.float32), np.full(a.shape, 255, np.uint8)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 1e-3)
    try:
        correlation, moved = cv2.findTransformECC(a, b, transform, cv2.MOTION_AFFINE, stop, everywhere, 1)
    except cv2.error:  # the alignment diverged, since the images have nothing in common
        return False
    corners = np.array([[0, 0, 1], [SIDE, 0, 1], [0, SIDE, 1], [SIDE, SIDE, 1]], np.float32)
    return correlation >= FINE and float(np.abs(corners @ moved.T - corners[:, :2]).max()) <= MOVED
