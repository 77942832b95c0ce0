"""Necks by name: `create_neck("bifpn", backbone.levels, channels=64, repeats=3, num_levels=5)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from backbones.base import Level, Neck
from backbones.bifpn import BiFPN
from backbones.errors import unknown_name
from backbones.fpn import FPN, PANet

NECKS: dict[str, Callable[..., Neck]] = {
    "bifpn": BiFPN,
    "bifpn_softmax": partial(BiFPN, fusion="softmax"),
    "bifpn_sum": partial(BiFPN, fusion="sum"),
    "fpn": FPN,
    "panet": PANet,
}


def create_neck(name: str, levels: Sequence[Level], **options: Any) -> Neck:
    """Create the neck `name`, a key of `NECKS`.

    Args:
        name: "bifpn" with fast normalised fusion, "bifpn_softmax", "bifpn_sum", "fpn" or "panet".
        levels: the input maps, finest first, each with twice the stride of the one before.
        options: arguments of the neck's class. `channels` and `num_levels` exist for all, the others for BiFPN only.

    Raises UserError for an unknown name.
    """
    if name not in NECKS:
        raise unknown_name("neck", name, NECKS)
    return NECKS[name](levels, **options)
