"""What is known of a network's weights: source, recipe, data, published accuracy, and the input they expect."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import timm
from timm.models import get_pretrained_cfg

from backbones.architecture import is_found
from backbones.custom import is_custom

# ImageNet-1k accuracy of single centre crops. Lite: tensorflow/tpu `efficientnet/lite/README.md`, FP32.
# B0-B7: arXiv:1905.11946v5, table 2. a1 and Noisy Student: timm. tv: torchvision.
TOP1 = {
    "tf_efficientnet_lite0.in1k": 0.751,
    "tf_efficientnet_lite1.in1k": 0.767,
    "tf_efficientnet_lite2.in1k": 0.776,
    "tf_efficientnet_lite3.in1k": 0.798,
    "tf_efficientnet_lite4.in1k": 0.815,
    "tf_efficientnet_b0.aa_in1k": 0.771,
    "tf_efficientnet_b1.aa_in1k": 0.791,
    "tf_efficientnet_b2.aa_in1k": 0.801,
    "tf_efficientnet_b3.aa_in1k": 0.816,
    "tf_efficientnet_b4.aa_in1k": 0.829,
    "tf_efficientnet_b5.aa_in1k": 0.836,
    "tf_efficientnet_b6.aa_in1k": 0.840,
    "tf_efficientnet_b7.aa_in1k": 0.843,
    "tf_efficientnet_l2.ns_jft_in1k": 0.8836,
    "resnet50.a1_in1k": 0.8038,
    "resnet50.tv_in1k": 0.7616,
    "resnet101.tv_in1k": 0.7740,
    "vgg16.tv_in1k": 0.7159,
}
DATA = {
    "in1k": "ImageNet-1k",
    "in12k": "ImageNet-12k",
    "in21k": "ImageNet-21k",
    "in22k": "ImageNet-22k",
    "jft": "JFT-300M",
    "laion2b": "LAION-2B",
    "yfcc100m": "YFCC-100M",
    "ig1b": "Instagram-1B",
}


@dataclass(frozen=True)
class Provenance:
    """Where a network's weights come from, and the input they expect.

    Attributes:
        source: "random", "packaged:DISTRIBUTION==VERSION", "timm:REPOSITORY" or "file:PATH".
        tag: which of the published weights, as in timm's `NAME.TAG`; None for random weights and files.
        recipe: how they were trained, as the tag says, or the file's format; None if random.
        data: what they were trained on, in order; None if unknown.
        top1: published ImageNet accuracy, fraction; None if not known here.
        mean, std: normalisation of images in 0..1, by channel.
        interpolation: filter the published evaluation resizes with.
        crop_pct: side of its centre crop, as a fraction of the resized image.
        input_size: height and width of that crop, px.
        sha256: digest of the weight file; None where timm fetched it.
        license: of the weights; None if not stated.
    """

    source: str
    tag: str | None
    recipe: str | None
    data: str | None
    top1: float | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    input_size: tuple[int, int]
    sha256: str | None
    license: str | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `record.json`."""
        return asdict(self)


def split_tag(name: str) -> tuple[str, str | None]:
    """`"resnet50.tv_in1k"` -> `("resnet50", "tv_in1k")`; the tag is None where there is none, as in `module:f`."""
    if is_custom(name) or is_found(name):
        return name, None
    architecture, _, tag = name.partition(".")
    return architecture, tag or None


def published_tags(architecture: str) -> list[str]:
    """Tags of the weights timm publishes for a network, its default first."""
    tags = [tag for name in timm.list_pretrained(f"{architecture}.*") if (tag := split_tag(name)[1])]
    default = getattr(get_pretrained_cfg(architecture), "tag", None)
    return sorted(tags, key=lambda tag: (tag != default, tag))


def described(tag: str) -> tuple[str | None, str | None]:
    """Recipe and data that timm's tag tells: `sw_in12k_ft_in1k` is sw on ImageNet-12k, then ImageNet-1k."""
    words = tag.split("_")
    recipe = "_".join(word for word in words if word not in DATA and word != "ft")
    return recipe or None, ", ".join(DATA[word] for word in words if word in DATA) or None
