"""Near duplicates: copies of a texture are found after the usual changes, other pieces of the same material are not."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from experiments.audit.duplicates import (
    NEAR_BITS,
    SIDE,
    Fingerprint,
    Pair,
    are_near,
    difference_hash,
    duplicate_findings,
    near_pairs,
    small_image,
)


def texture(seed: int, size: int = 200) -> np.ndarray:
    """A piece of brushed metal, (H, W, 3) uint8: grain of its own under the same lamp, so that hashes are alike."""
    rng = np.random.default_rng(seed)
    grain = cv2.GaussianBlur(rng.normal(size=(size, size)).astype(np.float32), (0, 0), sigmaX=1.5, sigmaY=6)
    spots = cv2.GaussianBlur(rng.normal(size=(size, size)).astype(np.float32), (0, 0), 5)
    y, x = np.mgrid[:size, :size] / size
    lamp = 30 + 110 * x + 70 * y  # from the lower right
    gray = np.clip(lamp + 9 * grain / grain.std() + 3 * spots / spots.std(), 0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def half(pixels: np.ndarray) -> np.ndarray:
    return cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def brighter(pixels: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(pixels * factor, 0, 255).astype(np.uint8)


CHANGES = {
    "quality 50": lambda p: jpeg(p, 50),
    "quality 95": lambda p: jpeg(p, 95),
    "half the size": lambda p: jpeg(half(p), 90),
    "cropped by 2% at each side": lambda p: jpeg(p[4:-4, 4:-4], 90),
    "cropped at a corner": lambda p: jpeg(p[4:, 4:], 90),
    "brighter": lambda p: jpeg(brighter(p, 1.1), 90),
    "darker": lambda p: jpeg(brighter(p, 0.9), 90),
    "mirrored": lambda p: jpeg(np.ascontiguousarray(p[:, ::-1]), 90),
    "all": lambda p: jpeg(brighter(half(p[4:-4, 4:-4]), 1.1), 60),
}
PIECES = [small_image(texture(seed)) for seed in range(40)]


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found(change):
    for seed in range(8):
        copy = small_image(CHANGES[change](texture(seed)))
        assert near_pairs([*PIECES, copy]) == [Pair(seed, len(PIECES), change == "mirrored")]


def test_other_pieces_of_a_material_are_not_reported_although_their_hashes_are_alike():
    hashes = np.stack([difference_hash(piece) for piece in PIECES])
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(2)
    alike = (distance <= NEAR_BITS).sum() - len(PIECES)
    assert alike > 20  # candidates, so the verification decides
    assert near_pairs(PIECES) == []


def test_another_part_of_a_piece_is_another_picture():
    piece = texture(3)
    assert not are_near(small_image(piece[:150, :150]), small_image(piece[50:, 50:]))


def test_images_without_structure():
    black, gray = np.zeros((SIDE, SIDE), np.uint8), np.full((SIDE, SIDE), 128, np.uint8)
    noisy = (gray + np.random.default_rng(0).integers(0, 2, gray.shape)).astype(np.uint8)
    assert are_near(gray, noisy)
    assert not are_near(black, gray)
    assert not are_near(black, PIECES[0])
    assert near_pairs([]) == near_pairs([black]) == []
    assert near_pairs([gray, PIECES[0], gray]) == [Pair(0, 2, False)]


def test_findings_count_pairs_across_and_within_splits():
    prints = {
        "train": [Fingerprint(Path(f"{i}.png"), str(i), PIECES[i]) for i in range(4)],
        "val": [
            Fingerprint(Path("copy.png"), "0", PIECES[0]),
            Fingerprint(Path("mirror.png"), "9", np.ascontiguousarray(PIECES[1][:, ::-1])),
        ],
    }
    found = [(finding.severity, finding.what) for finding in duplicate_findings(prints)]
    assert found == [
        ("error", "1 pairs are identical files in two splits"),
        ("warning", "1 pairs are near duplicates in two splits, 1 of them mirrored"),
    ]
