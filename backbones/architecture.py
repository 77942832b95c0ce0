"""EfficientNet architectures as data: the baseline B0, its scaled family, and networks from architecture searches.

Architecture and scaling: arXiv:1905.11946, sections 3.3 and 4. For what the paper does not state (rounding, the Lite
family, B8 and L2), this file follows the authors' code: tensorflow/tpu `models/official/efficientnet`, files
`efficientnet_builder.py` and `lite/efficientnet_lite_builder.py`.

Does not import torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from backbones.errors import BadInput, UserError, unknown_name
from backbones.names import is_study_network

SQUEEZE = 0.25  # channels of squeeze-excitation, as a fraction of a block's input channels
FOLDER = "networks"  # where a study's folder has its architectures
LARGEST = {"channels": 8192, "repeats": 100, "kernel": 15, "expansion": 16}  # limits for stages read from a file
_KEY = re.compile(r"[\w][\w.-]*")


@dataclass(frozen=True)
class Stage:
    """One row of the paper's table 1: `repeats` blocks, the first of them with the stride.

    Attributes:
        expansion: factor on the channels inside the inverted bottleneck; 1 means a depthwise separable convolution.
        channels: output channels.
        repeats: number of blocks.
        stride: stride of the first block, 1 or 2.
        kernel: side of the depthwise kernels, px.
        squeeze: channels of squeeze-excitation, as a fraction of the block's input channels; 0 for none.
    """

    expansion: int
    channels: int
    repeats: int
    stride: int
    kernel: int
    squeeze: float = SQUEEZE


@dataclass(frozen=True)
class Architecture:
    """A network of MBConv stages.

    Attributes:
        stages: the stages after the stem, which has stride 2.
        stem: channels of the first convolution.
        head: channels of the last convolution, before the classifier.
        dropout: dropout rate before the classifier.
        lite: use ReLU6 instead of swish.
        tensorflow: use SAME padding and batch-norm epsilon 1e-3 instead of symmetric padding and 1e-5.
        image_size: side of the square images that the network is designed for, px.
    """

    stages: tuple[Stage, ...]
    stem: int = 32
    head: int = 1280
    dropout: float = 0.2
    lite: bool = False
    tensorflow: bool = False
    image_size: int = 224


B0 = Architecture(
    (
        Stage(1, 16, 1, 1, 3),
        Stage(6, 24, 2, 2, 3),
        Stage(6, 40, 2, 2, 5),
        Stage(6, 80, 3, 2, 3),
        Stage(6, 112, 3, 1, 5),
        Stage(6, 192, 4, 2, 5),
        Stage(6, 320, 1, 1, 3),
    )
)


def round_channels(channels: float) -> int:
    """Round to the nearest multiple of 8, or up if that would remove more than 10% of the channels."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def scaled(base: Architecture, width: float = 1.0, depth: float = 1.0, **changes: Any) -> Architecture:
    """Scale an architecture: multiply its channels by `width` and its blocks by `depth`.

    `changes` replace other attributes. The numbers of blocks are rounded up. In a Lite network, the stem, the head and
    the depth of the first and last stage stay fixed.
    """
    lite = changes.get("lite", base.lite)
    ends = (0, len(base.stages) - 1) if lite else ()
    stages = tuple(
        replace(
            stage,
            channels=round_channels(stage.channels * width),
            repeats=stage.repeats if i in ends else math.ceil(stage.repeats * depth),
        )
        for i, stage in enumerate(base.stages)
    )
    if not lite:
        changes |= {"stem": round_channels(base.stem * width), "head": round_channels(base.head * width)}
    return replace(base, stages=stages, **changes)


def counts(architecture: Architecture, image_size: int, classes: int = 1000) -> tuple[int, int]:
    """Parameters of the classifier, and multiply-adds of its convolutions and linear layer for one square image.

    `image_size` is the side of the image, px.
    """
    side = -(-image_size // 2)
    params, macs = 27 * architecture.stem + 2 * architecture.stem, 27 * architecture.stem * side**2
    inputs = architecture.stem
    for stage in architecture.stages:
        for block in range(stage.repeats):
            before, wide = side, inputs * stage.expansion
            side = -(-side // stage.stride) if block == 0 else side
            gate = int(inputs * stage.squeeze)
            expand = inputs * wide if stage.expansion > 1 else 0
            depthwise, project = stage.kernel**2 * wide, wide * stage.channels
            norms = (2 if stage.expansion > 1 else 1) * wide + stage.channels
            params += expand + depthwise + project + 2 * norms + (2 * wide * gate + wide + gate if gate else 0)
            macs += expand * before**2 + (depthwise + project) * side**2 + 2 * wide * gate
            inputs = stage.channels
    head = inputs * architecture.head
    params += head + 2 * architecture.head + (architecture.head + 1) * classes
    return params, macs + head * side**2 + architecture.head * classes


# Width factor, depth factor, dropout rate and image size (px) of each member of the family.
_FACTORS = {
    "b0": (1.0, 1.0, 0.2, 224),
    "b1": (1.0, 1.1, 0.2, 240),
    "b2": (1.1, 1.2, 0.3, 260),
    "b3": (1.2, 1.4, 0.3, 300),
    "b4": (1.4, 1.8, 0.4, 380),
    "b5": (1.6, 2.2, 0.4, 456),
    "b6": (1.8, 2.6, 0.5, 528),
    "b7": (2.0, 3.1, 0.5, 600),
    "b8": (2.2, 3.6, 0.5, 672),
    "l2": (4.3, 5.3, 0.5, 800),
    "lite0": (1.0, 1.0, 0.2, 224),
    "lite1": (1.0, 1.1, 0.2, 240),
    "lite2": (1.1, 1.2, 0.3, 260),
    "lite3": (1.2, 1.4, 0.3, 280),
    "lite4": (1.4, 1.8, 0.3, 300),
}


def _member(size: str, tensorflow: bool) -> Architecture:
    width, depth, dropout, image_size = _FACTORS[size]
    lite = size.startswith("lite")
    base = replace(B0, stages=tuple(replace(stage, squeeze=0.0) for stage in B0.stages)) if lite else B0
    return scaled(base, width, depth, dropout=dropout, lite=lite, tensorflow=tensorflow, image_size=image_size)


VARIANTS: dict[str, Architecture] = {
    f"{prefix}efficientnet_{size}": _member(size, bool(prefix)) for prefix in ("", "tf_") for size in _FACTORS
}


def is_efficientnet(name: str) -> bool:
    """Whether `name` is a key of `VARIANTS` or has the form `STUDY#NETWORK`."""
    return name in VARIANTS or is_study_network(name)


def architecture_of(name: str) -> Architecture:
    """The architecture called `name`: a key of `VARIANTS`, or `STUDY#NETWORK`, which is read from its file.

    Raises UserError for an unknown name, BadInput for a malformed file.
    """
    if is_study_network(name):
        return read(name)
    if name not in VARIANTS:
        raise unknown_name("EfficientNet", name, VARIANTS)
    return VARIANTS[name]


def save(folder: Path, key: str, architecture: Architecture) -> str:
    """Store an architecture in a study's folder. Returns its name as a backbone, `FOLDER#KEY`.

    Storing the same architecture again has no effect. Raises BadInput if the folder has a different architecture under
    this key.
    """
    assert _KEY.fullmatch(key), key
    name, file = f"{folder}#{key}", folder / FOLDER / f"{key}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}")
        temporary.write_text(json.dumps(asdict(architecture), indent=1) + "\n")
        temporary.replace(file)
    elif read(name) != architecture:
        raise BadInput(
            f"{folder} contains the networks of another study, including {key}: choose another `output`",
            settings=("output",),
        )
    return name


def read(name: str) -> Architecture:
    """Read the architecture `STUDY#NETWORK`. Raises UserError for an unknown name, BadInput for a malformed file."""
    study, _, key = name.partition("#")
    folder = Path(study) / FOLDER
    file = folder / f"{key}.json"
    if not _KEY.fullmatch(key) or not file.is_file():
        if not folder.is_dir():
            raise UserError(f"backbone '{name}': there is no study in {study} (no folder {folder})")
        raise unknown_name(f"network of {study}", key, (path.stem for path in folder.glob("[!.]*.json")))
    try:
        return _checked(json.loads(file.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} does not describe a network: {error}") from error


def _checked(content: Mapping[str, Any]) -> Architecture:
    """The architecture in a file's content. Raises ValueError, KeyError or TypeError for malformed content."""
    stages = tuple(Stage(**stage) for stage in content["stages"])
    for stage in stages:
        for field, maximum in LARGEST.items():
            _check_integer(getattr(stage, field), field, maximum)
        if stage.stride not in (1, 2) or not 0 <= stage.squeeze <= 1 or stage.kernel % 2 == 0:
            raise ValueError("strides must be 1 or 2, squeeze must be from 0 to 1, kernels must be odd")
    if math.prod(stage.stride for stage in stages) != 16:
        raise ValueError("the product of the strides of its stages must be 16")
    architecture = Architecture(**{**content, "stages": stages})
    for field in ("stem", "head", "image_size"):
        _check_integer(getattr(architecture, field), field, LARGEST["channels"])
    return architecture


def _check_integer(value: Any, field: str, maximum: int) -> None:
    if not isinstance(value, int) or not 1 <= value <= maximum:
        raise ValueError(f"{field} is {value!r}, but must be an integer from 1 to {maximum}")
