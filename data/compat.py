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
from albumentations.core.serialization import SERIALIZABLE_REGISTRY, shorten_class_name
from albumentations.core.type_definitions import Targets

IMAGE_MASK_BOXES = (Targets.IMAGE, Targets.MASK, Targets.BBOXES)
_BASES = (A.BasicTransform, A.BaseCompose, A.DualTransform, A.ImageOnlyTransform, A.Transform3D)
TARGETS = {"boxes": Targets.BBOXES, "masks": Targets.MASK, "classes": None}  # of the labels of each kind


def set_random_state(pipeline: A.Compose, seed: int, draw: random.Random) -> None:
    """Seed `pipeline`: its steps then draw from `draw`, which is seeded with `seed`, and from a new numpy generator.

    `Compose.set_random_seed` would start every step with the same random numbers, so that scale, flip and colour would
    be correlated. It also takes ten times as long.
    """
    draw.seed(seed)
    pipeline.set_random_state(np.random.Generator(np.random.PCG64(seed)), draw)


def plain_name(name: str) -> str:
    """The short name of a class of albumentations; other names unchanged."""
    return shorten_class_name(name)


def serializable_class(name: str) -> type | None:
    """The transform of albumentations that `A.from_dict` builds for a name; None for anything else.

    The registry also has classes that other packages derive from albumentations' classes, abstract classes, and
    parameters of boxes.
    """
    found: Any = SERIALIZABLE_REGISTRY.get(plain_name(name))
    is_own = found is not None and found.__module__.startswith("albumentations.")
    is_public = is_own and getattr(A, found.__name__, None) is found and found not in _BASES
    return found if is_public and issubclass(found, (A.BasicTransform, A.BaseCompose)) else None


class DualTransform(A.DualTransform):
    """Base of a transform of image, mask and boxes."""

    _targets: Any = IMAGE_MASK_BOXES
