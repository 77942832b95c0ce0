"""The forms of a backbone's name, as pure functions on strings. Imports nothing of this package.

- `resnet50`: a network of timm or of this package.
- `resnet50.tv_in1k`: the same, with the tag of its published weights.
- `module:function`: a network of the user's own, see `backbones.custom`.
- `STUDY#NETWORK`: a network that an architecture search stored in the folder STUDY, see `backbones.architecture`.
"""

from __future__ import annotations


def is_custom(name: str) -> bool:
    """Whether the name has the form `module:function`."""
    return ":" in name


def is_study_network(name: str) -> bool:
    """Whether the name has the form `STUDY#NETWORK`."""
    return "#" in name


def split_tag(name: str) -> tuple[str, str | None]:
    """`"resnet50.tv_in1k"` -> `("resnet50", "tv_in1k")`.

    The tag is None if the name has none. `module:function` and `STUDY#NETWORK` have no tag, dots included.
    """
    if is_custom(name) or is_study_network(name):
        return name, None
    architecture, _, tag = name.partition(".")
    return architecture, tag or None
