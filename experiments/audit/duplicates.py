"""Finds identical images and near duplicates, within a split and across splits."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from data.findings import EXAMPLES, Finding

NEAR_BITS = 2  # of 64 bits that may differ between the hashes of near duplicates
NEAR_AT_MOST = 20_000  # largest number of images that are compared pairwise; with more, only equal hashes count


@dataclass(frozen=True)
class Fingerprint:
    """What images are compared by.

    Attributes:
        file: the image file.
        digest: SHA-256 (hex) of the file.
        hash: see `difference_hash`.
    """

    file: Path
    digest: str
    hash: int


def difference_hash(pixels: np.ndarray) -> int:
    """Return the difference hash of an image (Krawetz, 2013), an integer of 64 bits.

    Each bit states whether one of 8 x 8 cells is brighter than its right neighbour.

    Args:
        pixels: (H, W, 3) uint8 RGB.
    """
    small = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
    bits = (small[:, :-1] > small[:, 1:]).ravel()
    return int(np.packbits(bits).view(">u8")[0])


def duplicate_findings(prints: dict[str, list[Fingerprint]]) -> Iterator[Finding]:
    """Yield findings on identical files and near duplicates, within a split and across splits."""
    split_of = [split for split, own in prints.items() for _ in own]
    all_prints = [fingerprint for own in prints.values() for fingerprint in own]
    by_digest = defaultdict(list)
    for index, fingerprint in enumerate(all_prints):
        by_digest[fingerprint.digest].append(index)
    # A file that is listed twice is reported with the labels.
    same = [
        (a, b) for group in by_digest.values() for a, b in pairwise(group)
        if os.path.realpath(all_prints[a].file) != os.path.realpath(all_prints[b].file)
    ]  # fmt: skip
    near = [
        (a, b) for a, b in near_pairs([fingerprint.hash for fingerprint in all_prints])
        if all_prints[a].digest != all_prints[b].digest
    ]  # fmt: skip
    for pairs, what, severities in (
        (same, "identical files", ("error", "warning")),
        (near, "near duplicates", ("warning", "note")),
    ):
        across = [pair for pair in pairs if split_of[pair[0]] != split_of[pair[1]]]
        within = [pair for pair in pairs if split_of[pair[0]] == split_of[pair[1]]]
        for found_pairs, where, severity, fix in (
            (across, "in two splits", severities[0], "Remove one: scores on training images are too high"),
            (within, "in one split", severities[1], "Remove one unless it should count twice"),
        ):
            if found_pairs:
                files = [all_prints[i].file for pair in found_pairs[: EXAMPLES // 2] for i in pair]
                examples = tuple(f"{all_prints[a].file} = {all_prints[b].file}" for a, b in found_pairs[:EXAMPLES])
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
