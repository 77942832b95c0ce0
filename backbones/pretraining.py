"""Groups of pretraining, such as "supervised, ImageNet-1k" or "self-supervised".

The group of timm's published weights follows from name and tag by the rules in `backbones.pretraining_rules`. The group
of a weight file follows from its metadata. What no rule recognises is `UNKNOWN`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backbones.names import split_tag
from backbones.pretraining_rules import (
    DATA,
    DISTILLED,
    OTHER,
    RULES,
    SEGMENTATION,
    SELF,
    SUPERVISED_WORDS,
    TAUGHT,
    TEACHER,
    TEXT,
)

RANDOM, UNKNOWN = "random", "unknown"
SUPERVISED_1K, SUPERVISED_21K = "supervised, ImageNet-1k", "supervised, ImageNet-21k"
RUN = "run of this package"
THEN_LABELS = ", then supervised"  # appended to the first group if the network was then fine-tuned with labels
GROUPS = (
    *(SUPERVISED_1K, SUPERVISED_21K, OTHER, TAUGHT, SELF, SELF + THEN_LABELS, TEXT, TEXT + THEN_LABELS),
    *(SEGMENTATION, DISTILLED, RUN, RANDOM, UNKNOWN),
)
IMAGENET_21K = {"ImageNet-21k", "ImageNet-22k", "ImageNet-12k", "ImageNet-Winter-21k"}

# Words of the method in a weight file's metadata, unless it starts with "supervised". The first group with one counts.
STATED = {
    DISTILLED: r"distil",
    SELF: r"self-supervised|unsupervised|dino|\b(?:mae|moco|byol|simclr|swav|ibot)\b|masked image",
    TEXT: r"image-text|clip\b|siglip",
    SEGMENTATION: r"segmentation|\bsam\b",
}
# Words after "supervised". "ImageNet" alone means ImageNet-1k, as in publications.
STATED_SUPERVISED = {
    TAUGHT: r"distil|teacher",
    SUPERVISED_21K: r"imagenet[- ]?(?:21|22|12)k",
    SUPERVISED_1K: r"imagenet(?:[- ]?1k)?(?![- ]?\w)|ilsvrc",
}


@dataclass(frozen=True)
class Pretraining:
    """How weights were trained.

    Attributes:
        group: one of `GROUPS`.
        method: in words; None if unknown.
        data: data sets, in the order of their use; None if unknown.
    """

    group: str
    method: str | None = None
    data: str | None = None


def pretraining_of(name: str, tag: str | None) -> Pretraining:
    """How the published weights `NAME.TAG` of timm were trained. `UNKNOWN` for a tag that matches no rule."""
    words = (tag or "").split("_")
    data = ", ".join(DATA[word] for word in words if word in DATA) or None
    for pattern, group, method, first_data in RULES:
        if re.search(pattern, f"{name}.{tag}"):
            later = [DATA[word] for word in words[words.index("ft") :] if word in DATA] if "ft" in words else []
            labels = THEN_LABELS if later and group in (SELF, TEXT) else ""
            return Pretraining(group + labels, method, ", ".join([first_data, *later]) if first_data else data)
    if data is None or not all(word in DATA or re.fullmatch(SUPERVISED_WORDS, word) for word in words):
        return Pretraining(UNKNOWN, None, data)
    if re.search(TEACHER, f"{name}.{tag}"):
        return Pretraining(TAUGHT, "supervised, with a teacher", data)
    return Pretraining(SUPERVISED_21K if IMAGENET_21K & set(data.split(", ")) else SUPERVISED_1K, "supervised", data)


def group_of_text(pretraining: str) -> str:
    """The group for a description such as "supervised, ImageNet-1k"; `UNKNOWN` if no rule recognises it."""
    text = pretraining.lower().strip()
    is_supervised = re.match(r"supervised\b", text) is not None
    for group, words in (STATED_SUPERVISED if is_supervised else STATED).items():
        if re.search(words, text):
            return group
    return OTHER if is_supervised else UNKNOWN


def group_of_record(provenance: Mapping[str, Any], backbone: str) -> str:
    """The group of weights in a `record.json`, also in one of an earlier version, which does not have it.

    Args:
        provenance: see `backbones.provenance.Provenance.as_dict`.
        backbone: name of the network.
    """
    if provenance.get("group"):
        return provenance["group"]
    source = provenance["source"]
    if source == RANDOM:
        return RANDOM
    if source.startswith("run:"):
        return RUN
    return pretraining_of(split_tag(backbone)[0], provenance["tag"]).group if provenance.get("tag") else UNKNOWN
