"""EfficientDet's compound scaling: the coefficient phi sets input size, neck, heads and anchors.

Source: google/automl `efficientdet/hparams_config.py` and table 1 of arXiv:1911.09070. Where the paper's
table and formulas disagree, this file follows the table, as the published weights do: D5 has 1280 px, not 1152.

Does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from backbones.errors import unknown_name


@dataclass(frozen=True)
class Scale:
    """The settings of one EfficientDet.

    Attributes:
        backbone: name of the published backbone.
        size: side of the square input images, px.
        width: channels of neck and heads.
        neck_repeats: number of BiFPN layers.
        head_repeats: separable convolutions in each head before the last one.
        fusion: weights of BiFPN's inputs: "fast", "softmax" or "sum", see `backbones.bifpn.Fusion`.
        activation: nonlinearity of neck and heads, a key of `backbones.memory_efficient.ACTIVATIONS`.
        anchor_scale: side of the smallest square anchor on each level, as a multiple of the level's stride.
        num_levels: number of pyramid levels; the first has stride 8.
    """

    backbone: str
    size: int
    width: int
    neck_repeats: int
    head_repeats: int
    fusion: str = "fast"
    activation: str = "silu"
    anchor_scale: float = 4.0
    num_levels: int = 5


def _lite(index: str, size: int, width: int, neck_repeats: int, head_repeats: int, anchor_scale: float = 3.0) -> Scale:
    backbone = f"tf_efficientnet_lite{index}"
    return Scale(backbone, size, width, neck_repeats, head_repeats, "sum", "relu6", anchor_scale)


SCALES: dict[str, Scale] = {
    "0": Scale("efficientnet_b0", 512, 64, 3, 3),
    "1": Scale("efficientnet_b1", 640, 88, 4, 3),
    "2": Scale("efficientnet_b2", 768, 112, 5, 3),
    "3": Scale("efficientnet_b3", 896, 160, 6, 4),
    "4": Scale("efficientnet_b4", 1024, 224, 7, 4),
    "5": Scale("efficientnet_b5", 1280, 288, 7, 4),
    "6": Scale("efficientnet_b6", 1280, 384, 8, 5, "sum"),
    "7": Scale("efficientnet_b6", 1536, 384, 8, 5, "sum", anchor_scale=5.0),
    "7x": Scale("efficientnet_b7", 1536, 384, 8, 5, "sum", num_levels=6),
    "lite0": _lite("0", 320, 64, 3, 3),
    "lite1": _lite("1", 384, 88, 4, 3),
    "lite2": _lite("2", 448, 112, 5, 3),
    "lite3": _lite("3", 512, 160, 6, 4, 4.0),
    "lite3x": _lite("3", 640, 200, 6, 4),
    "lite4": _lite("4", 640, 224, 7, 4, 4.0),
}


def scale_of(phi: int | str) -> Scale:
    """The scale for the coefficient `phi`, a key of `SCALES`. Raises UserError for any other value."""
    if str(phi) not in SCALES:
        raise unknown_name("phi", str(phi), SCALES)
    return SCALES[str(phi)]
