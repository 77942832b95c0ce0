"""Finds a network in a state dict of any known file format.

The formats of timm, torchvision, effdet, segmentation-models-pytorch and of this package's runs differ only in the
prefix of their keys. EfficientNet-PyTorch has other keys in the same order.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from backbones.errors import BadInput

logger = logging.getLogger(__name__)

AVERAGES = re.compile(r"(?:^|[._])(?:ema|teacher|averaged?)[._]")  # in prefixes of keys
CLASS_LAYERS = ("fc", "classifier", "head", "pre_logits", "last_linear", "AuxLogits")
# File formats by the prefix of the backbone's keys.
FORMATS = {
    "": "timm or torchvision",
    "backbone.": "effdet",
    "model.backbone.": "run checkpoint",
    "encoder.": "segmentation-models-pytorch",
    "encoder.model.": "segmentation-models-pytorch (tu-)",
}


def locate(
    state: dict[str, Tensor], whole: Mapping[str, Tensor], names: Mapping[str, str], origin: str
) -> tuple[str, dict[str, Tensor], dict[str, str]]:
    """Find the network in a file.

    Returns the name of the format, the network's tensors without their prefix, and the network's keys -> keys of these
    tensors. Raises BadInput if the network is not there.
    """
    options: list[tuple[int, str, dict[str, str]]] = []
    # Published files use the names of the whole network, this package's own files those of the module.
    for candidate in (dict(names), {key: key.removeprefix("network.") for key in names}):
        for prefix in _prefixes(state, next(iter(candidate.values()))):
            options.append((sum(prefix + key in state for key in candidate.values()), prefix, candidate))
    if options:
        most = max(found for found, _, _ in options)
        _, prefix, found_names = next(option for option in options if option[0] == most)
        copies = dict.fromkeys(f"'{prefix}'" for found, prefix, _ in options if found == most)
        if len(copies) > 1:
            logger.warning("%s contains the network as %s: using '%s'", origin, " and ".join(copies), prefix)
        return _format(prefix, state), _without_prefix(prefix, state), found_names
    for prefix in _prefixes(state, "_conv_stem.weight"):
        return "EfficientNet-PyTorch", _renamed_by_order(_without_prefix(prefix, state), whole, origin), dict(names)
    raise BadInput(
        f"{origin} does not contain the network: it has no tensor '{next(iter(names.values()))}'. "
        f"Its first tensors are {', '.join(list(state)[:3])}."
    )


def _prefixes(state: Iterable[str], key: str) -> list[str]:
    """The prefixes before `key`, wherever a key of `state` ends with it: moving averages first, then the shortest.

    Of prefixes of one length the last by name comes first: `encoder_q.` before `encoder_k.`, which momentum contrast
    (arXiv:1911.05722) does not use after its training.
    """
    found = {name.removesuffix(key) for name in state if name == key or name.endswith("." + key)}
    return sorted(sorted(found, reverse=True), key=lambda prefix: (AVERAGES.search(prefix) is None, len(prefix)))


def _without_prefix(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose keys start with `prefix`, by the rest of the key."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _format(prefix: str, state: Iterable[str]) -> str:
    prefix = prefix.removesuffix("network.")
    if any("class_net." in key for key in state):
        return FORMATS["backbone."]
    return FORMATS.get(prefix, f"state dict with prefix '{prefix}'")


def _renamed_by_order(part: Mapping[str, Tensor], whole: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """The tensors of EfficientNet-PyTorch under timm's keys.

    Its keys differ from timm's but have the same order. Raises BadInput if a shape does not match.
    """
    renamed = dict(zip(whole, part.values(), strict=False))
    fits = all(value.shape == whole[key].shape or is_class_layer(key) for key, value in renamed.items())
    if not fits or len(part) > len(whole):
        raise BadInput(
            f"{origin} contains another EfficientNet. Choose the `backbone` that these weights belong to.",
            settings=("backbone",),
        )
    return renamed


def is_class_layer(key: str) -> bool:
    """Whether a key of a state dict belongs to a classifier's class layer or to an auxiliary head."""
    return key.split(".")[0] in CLASS_LAYERS
