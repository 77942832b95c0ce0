"""The private interface of albumentations that this package uses. Version 2.0.8 is pinned, the last MIT release.

tests/data/test_compat.py tests what another version must provide.
"""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # before the import, which otherwise looks for updates online

import albumentations as A
from albumentations.core.type_definitions import Targets

IMAGE_MASK_BOXES = (Targets.IMAGE, Targets.MASK, Targets.BBOXES)


def set_random_state(pipeline: A.Compose, seed: int, draw: random.Random) -> None:
    """Seed `pipeline`: its steps then draw from `draw`, which is seeded with `seed`, and from a new numpy generator.

    `Compose.set_random_seed` would start every step with the same random numbers, so that scale, flip and colour would
    be correlated. It also takes ten times as long.
    """
    draw.seed(seed)
    pipeline.set_random_state(np.random.Generator(np.random.PCG64(seed)), draw)


class DualTransform(A.DualTransform):
    """Base of a transform of image, mask and boxes."""

    _targets: Any = IMAGE_MASK_BOXES
