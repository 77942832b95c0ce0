"""Finds a network in a state dict of any known file format.

The formats of timm, torchvision, effdet, segmentation-models-pytorch and of this package's runs differ only in the
prefix of their keys. EfficientNet-PyTorch has other keys in the same order.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Set

from torch import Tensor

from backbones.compat import unflattened
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
    spellings = list(_spellings(names))
    for candidate in spellings:
        for prefix in _prefixes(state, next(iter(candidate.values()))):
            options.append((sum(prefix + key in state for key in candidate.values()), prefix, candidate))
    if options:
        most = max(found for found, _, _ in options)
        _, prefix, found_names = next(option for option in options if option[0] == most)
        copies = {other + next(iter(spelling.values())): other for found, other, spelling in options if found == most}
        if len(copies) > 1:
            listed = " and ".join(f"'{other}'" for other in copies.values())
            logger.warning("%s contains the network as %s: using '%s'", origin, listed, prefix)
        return _format(prefix, state), _without_prefix(prefix, state), found_names
    for prefix in _prefixes(state, "_conv_stem.weight"):
        return "EfficientNet-PyTorch", _renamed_by_order(_without_prefix(prefix, state), whole, origin), dict(names)
    raise BadInput(
        f"{origin} does not contain the network: it has no tensor '{next(iter(spellings[-1].values()))}'. "
        f"Its first tensors are {', '.join(list(state)[:3])}."
    )


def _spellings(names: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The names that files can have for the network's tensors: the network's keys -> keys in the file.

    Published files use the names of the whole network, this package's own files those of the module. A network of the
    user can be an attribute of a module, such as `self.body`, or an extractor of timm, which renames layers.
    """
    yield dict(names)
    found = {key: key.removeprefix("network.") for key in names}
    yield found
    while len({name.partition(".")[0] for name in found.values()}) == 1 and all(
        name.count(".") > 1 for name in found.values()
    ):
        found = {key: name.partition(".")[2] for key, name in found.items()}
        yield found
    yield {key: unflattened(name) for key, name in found.items()}


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


def misfits(part: Mapping[str, Tensor], expected: Mapping[str, Tensor], known: Set[str]) -> list[str]:
    """Why the tensors of a file do not fit a network, one reason for each block or tensor; empty if they fit.

    Args:
        part: the network's tensors in the file.
        expected: the tensors that the network needs, by their keys in the file.
        known: other keys that may be in the file, because they belong to layers that a backbone does not use.
    """
    # Files of old torchvision versions have no `num_batches_tracked`, which only a batch norm without momentum needs.
    missing = [key for key in expected if key not in part and not key.endswith("num_batches_tracked")]
    extra = [key for key in part if key not in expected and key not in known and not is_class_layer(key)]
    return [
        *(f"{block} is missing" for block in _blocks(missing, part)),
        *(f"{block} is not part of the network" for block in _blocks(extra, expected)),
        *(
            f"{key} has the shape {tuple(part[key].shape)}, not {tuple(value.shape)}"
            for key, value in expected.items()
            if key in part and part[key].shape != value.shape
        ),
    ]


def _blocks(keys: Iterable[str], others: Iterable[str]) -> list[str]:
    """Keys grouped by the outermost module that has none of the `others`: "layer4.2 (12 tensors)". Single keys stay."""
    shared = {key[:i] for key in others for i, character in enumerate(key) if character == "."}
    found: dict[str, list[str]] = {}
    for key in keys:
        parts = key.split(".")
        names = (".".join(parts[:n]) for n in range(1, len(parts) + 1))
        found.setdefault(next((name for name in names if name not in shared), key), []).append(key)
    return [group[0] if len(group) == 1 else f"{name} ({len(group)} tensors)" for name, group in found.items()]
