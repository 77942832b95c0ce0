"""All that data uses of albumentations beyond its documented interface: 2.0.8 is pinned, the last MIT release.

What a successor has to offer, tests/data/test_compat.py says.
"""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # before the import: else it asks the network for its version

import albumentations as A
from albumentations.core.type_definitions import Targets

IMAGE_MASK_BOXES = (Targets.IMAGE, Targets.MASK, Targets.BBOXES)


def set_random_state(pipeline: A.Compose, seed: int, draw: random.Random) -> None:
    """Make what `pipeline` draws next a function of `seed`, through `draw`, which is seeded anew, and numpy's PCG64.

    `Compose.set_random_seed` would give every step the same stream, so that scale, flip and colour are drawn alike;
    and it costs ten times as much.
    """
    draw.seed(seed)
    pipeline.set_random_state(np.random.Generator(np.random.PCG64(seed)), draw)


class DualTransform(A.DualTransform):
    """A step for image, mask and boxes, by the hooks that albumentations calls."""

    _targets: Any = IMAGE_MASK_BOXES
