"""Facts about a network's weights: source, training recipe and data, published accuracy, and expected input."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from backbones.compat import pretrained_config
from backbones.errors import unknown_name
from backbones.names import split_tag
from backbones.pretraining import RANDOM
from backbones.pretraining_rules import DATA

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

# Published ImageNet-1k accuracy of single centre crops, as fractions. Sources: for Lite, tensorflow/tpu
# `efficientnet/lite/README.md`, FP32; for B0-B7, arXiv:1905.11946v5, table 2; for a1 and Noisy Student, timm; for tv,
# torchvision.
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


@dataclass(frozen=True)
class Provenance:
    """Where a network's weights come from, and the input they expect.

    Attributes:
        source: "random", "packaged:DISTRIBUTION==VERSION", "timm:REPOSITORY", "file:PATH", or "run:PATH" for the
            checkpoint of a run.
        tag: the tag of published weights, as in timm's `NAME.TAG`; None for random weights, and for files that do not
            state it.
        recipe: training recipe according to the tag, or the format of a weight file; None for random weights.
        data: data sets of pretraining and fine-tuning, in this order; None if unknown.
        top1: published ImageNet-1k accuracy, as a fraction; None if it is not in `TOP1`.
        mean: mean of each channel, for images in 0..1.
        std: standard deviation of each channel, for images in 0..1.
        interpolation: name of the filter that resizes images in the published evaluation.
        crop_pct: side of the centre crop in that evaluation, as a fraction of the resized image's side.
        input_size: height and width of that crop, px.
        sha256: digest of the weight file; None for random weights and for files that timm downloads.
        license: license of the weights; None if not stated.
        group: the kind of pretraining, see `backbones.pretraining`: "random" for random weights only, and "unknown" for
            a file that does not state it.
        method: method of pretraining in words; None if unknown.
        origin: where a weight file says that its weights come from; None if it does not.
        run: for weights of a run, its `path`, `task`, `dataset`, `classes` and its own `provenance`.
        continues: whether all weights of that run are used, the class layer included, so that the new run trains it
            further.
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
    group: str | None = None
    method: str | None = None
    origin: str | None = None
    run: dict[str, Any] | None = None
    continues: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for `record.json`."""
        return asdict(self)


def published_tags(architecture: str) -> list[str]:
    """Tags of a network's weights in timm: the default first, then the others by name."""
    import timm

    tags = [tag for name in timm.list_pretrained(f"{architecture}.*") if (tag := split_tag(name)[1])]
    config = pretrained_config(architecture)
    default = None if config is None else config.tag
    return sorted(tags, key=lambda tag: (tag != default, tag))


def random_provenance(name: str) -> Provenance:
    """The provenance of random weights, with the normalisation that published weights of `name` expect.

    Raises UserError for an unknown tag.
    """
    config = published_config(*split_tag(name))
    return Provenance(
        source="random",
        tag=None,
        recipe=None,
        data=None,
        top1=None,
        mean=tuple(config.mean),
        std=tuple(config.std),
        interpolation=config.interpolation,
        crop_pct=config.crop_pct,
        input_size=config.input_size[1:],
        sha256=None,
        license=None,
        group=RANDOM,
    )


def published_config(architecture: str, tag: str | None) -> PretrainedCfg:
    """Facts about a network's published weights in timm: normalisation, input size and URL. Raises UserError."""
    from timm.models import PretrainedCfg

    tags = published_tags(architecture)
    if tag and tag not in tags:
        raise unknown_name("published weights", f"{architecture}.{tag}", [f"{architecture}.{known}" for known in tags])
    # For a network that timm does not have: timm's defaults, ImageNet's mean and standard deviation and no weights.
    return pretrained_config(f"{architecture}.{tag}" if tag else architecture) or PretrainedCfg()


def licence_of(architecture: str, tag: str) -> str | None:
    """Licence of the published weights `ARCHITECTURE.TAG` according to timm; None if timm does not state it."""
    config = pretrained_config(f"{architecture}.{tag}")
    licence = None if config is None else config.license
    return None if licence in (None, "unknown") else licence


def recipe_and_data(tag: str) -> tuple[str | None, str | None]:
    """Training recipe and data sets from a tag: "sw_in12k_ft_in1k" -> ("sw", "ImageNet-12k, ImageNet-1k")."""
    words = tag.split("_")
    recipe = "_".join(word for word in words if word not in DATA and word != "ft")
    return recipe or None, ", ".join(DATA[word] for word in words if word in DATA) or None
