"""Groups of pretraining that a person understands, such as "supervised, ImageNet-1k" or "self-supervised"."""

from __future__ import annotations

import re

RANDOM, UNKNOWN = "random", "unknown"
SUPERVISED_1K, SUPERVISED_21K = "supervised, ImageNet-1k", "supervised, ImageNet-21k"
SUPERVISED_OTHER = "supervised, other data"
SELF_SUPERVISED, IMAGE_TEXT, SEGMENTATION = "self-supervised", "image-text", "segmentation"
DISTILLED = "distilled"
# Words that a weight file's metadata may use for the method of pretraining: the first group with a word is taken.
STATED = {
    DISTILLED: r"distil",
    SELF_SUPERVISED: r"self-supervised|unsupervised|dino|\b(?:mae|moco|byol|simclr|swav|ibot)\b|masked image",
    IMAGE_TEXT: r"image-text|clip\b|siglip",
    SEGMENTATION: r"segmentation|\bsam\b",
}
# Data of supervised pretraining in a weight file's metadata. "ImageNet" alone means ImageNet-1k, as in publications.
STATED_DATA = {
    SUPERVISED_21K: r"imagenet[- ]?(?:21|22|12)k",
    SUPERVISED_1K: r"imagenet(?:[- ]?1k)?(?![- ]?\w)|ilsvrc",
}


def group_of_text(pretraining: str) -> str:
    """The group for a description such as "supervised, ImageNet-1k"; `UNKNOWN` if no rule recognises it."""
    text = pretraining.lower()
    for group, words in STATED.items():
        if re.search(words, text):
            return group
    if not re.match(r"supervised\b", text):
        return UNKNOWN
    return next((group for group, words in STATED_DATA.items() if re.search(words, text)), SUPERVISED_OTHER)
