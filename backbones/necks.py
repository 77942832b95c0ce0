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
    """The neck called `name` over `levels`, finest first; `options` are the constructor's.

    `repeats` and BiFPN's other options are for BiFPN alone. Raises UserError for an unknown name.
    """
    if name not in NECKS:
        raise unknown_name("neck", name, NECKS)
    return NECKS[name](levels, **options)
