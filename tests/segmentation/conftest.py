"""Segmentation data of coloured rectangles, small enough to train on in seconds."""

import cv2
import numpy as np
import pytest

COLORS = {1: (220, 40, 40), 2: (40, 200, 60)}
CLASSES = ("ground", "red <b>", "green")
UNLABELLED = 9


def write_masks(root, train=8, val=4):
    """Gray noise with a red and a green rectangle. Two rows at the top and two at the bottom have no class."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for i in range(1, count + 1):
            image = random.integers(90, 150, (96, 128, 3), dtype=np.uint8)
            mask = np.zeros((96, 128), np.uint8)
            for label, color in COLORS.items():
                x, y = (int(v) for v in random.integers(2, 50, 2))
                w, h = (int(v) for v in random.integers(20, 44, 2))
                cv2.rectangle(image, (x, y), (x + w, y + h), color, -1)
                cv2.rectangle(mask, (x, y), (x + w, y + h), label, -1)
            mask[:2] = mask[-2:] = UNLABELLED
            cv2.imwrite(str(root / "images" / split / f"{i}.png"), image[..., ::-1])
            cv2.imwrite(str(root / "annotations" / split / f"{i}.png"), mask)
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root


@pytest.fixture(scope="session")
def mask_root(tmp_path_factory):
    return write_masks(tmp_path_factory.mktemp("masks") / "rectangles")
