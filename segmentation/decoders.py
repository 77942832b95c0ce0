"""Decoders by name: EfficientDet's own, and those of segmentation-models-pytorch (smp) on the same backbones.

A decoder turns the backbone's maps into one map of features; a last layer makes logits of it, which are enlarged to the
input's size. smp's classes are run as they are: the sizes are the defaults of smp's models, so that its files fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from backbones.base import Level
from backbones.bifpn import BiFPN, BiFPNLayer, SeparableConv, batch_norm, init_near_identity
from backbones.errors import unknown_name
from backbones.memory_efficient import ACTIVATIONS
from backbones.scaling import Scale
from segmentation.compat import (
    DeepLabV3PlusDecoder,
    FPNDecoder,
    PSPDecoder,
    SegformerDecoder,
    UnetDecoder,
    UPerNetDecoder,
    initialize_decoder,
    initialize_head,
)

# EfficientDet for segmentation, arXiv:1911.09070, section 5.2: on D4, BiFPN has 128 channels and 3 layers where the
# detector's has 224 and 7, for its finest map has four times the cells; the head has 256 channels and 3 layers.
MOST_CHANNELS, MOST_REPEATS, HEAD_FACTOR, HEAD_REPEATS = 128, 3, 2, 3
LEVELS = 6  # P2 to P7
LAST_STD = 0.01  # a small last layer starts every pixel undecided


@dataclass(frozen=True)
class Spec:
    """What a decoder wants and gives.

    Attributes:
        strides: of the maps it takes; 2 is left out where the backbone has no such map.
        stride: of its logits.
        build: channels of image and maps from stride 1 on -> smp's decoder; None for EfficientDet's.
        channels: of the features it gives.
        kernel: side of the last convolution.
        multiple: what the sides of its input are padded to. TensorFlow pads odd sides otherwise than even ones, which
            moves maps against each other: without it, a network trained at one size is points worse at another.
        corners: logits are enlarged so that corner pixels' centres coincide (`align_corners`), as smp does.
        dilated: the last map is at stride 16 in place of 32.
        pools_to_one: has a batch norm over single pixels, which needs two images in training.
    """

    strides: tuple[int, ...]
    stride: int = 4
    build: Callable[[list[int]], nn.Module] | None = None
    channels: int = 256
    kernel: int = 1
    multiple: int = 32
    corners: bool = True
    dilated: bool = False
    pools_to_one: bool = False


DECODERS: dict[str, Spec] = {
    "bifpn": Spec((4, 8, 16, 32), corners=False),
    "unet": Spec(
        (2, 4, 8, 16, 32),
        stride=1,
        build=lambda channels: UnetDecoder(channels, (256, 128, 64, 32, 16)),
        channels=16,
        kernel=3,
    ),
    "fpn": Spec((4, 8, 16, 32), build=FPNDecoder, channels=128),
    "deeplabv3plus": Spec(
        (4, 16),
        build=lambda channels: DeepLabV3PlusDecoder(
            channels,
            encoder_depth=5,
            out_channels=256,
            atrous_rates=(12, 24, 36),
            output_stride=16,
            aspp_separable=True,
            aspp_dropout=0.5,
        ),
        multiple=16,
        dilated=True,
        pools_to_one=True,
    ),
    "pspnet": Spec((8,), stride=8, build=PSPDecoder, channels=512, kernel=3, multiple=8),
    "upernet": Spec((4, 8, 16, 32), build=UPerNetDecoder, pools_to_one=True),
    "segformer": Spec((2, 4, 8, 16, 32), build=SegformerDecoder),
}


def spec_of(decoder: str) -> Spec:
    """The decoder called so. Raises UserError for an unknown name."""
    if decoder not in DECODERS:
        raise unknown_name("decoder", decoder, DECODERS)
    return DECODERS[decoder]


class PyramidDecoder(nn.Module):
    """EfficientDet's: BiFPN over P2 to P7, of which P2 goes through separable convolutions.

    The coefficient's width and number of layers hold, up to the paper's 128 and 3; the head has twice the width.

    Args:
        levels: of the backbone, strides 4 to 32.
        scale: of the compound coefficient.
    """

    def __init__(self, levels: Sequence[Level], scale: Scale) -> None:
        super().__init__()
        width = min(scale.width, MOST_CHANNELS)
        activation = ACTIVATIONS[scale.activation]
        self.neck = BiFPN(
            levels, width, min(scale.neck_repeats, MOST_REPEATS), LEVELS, fusion=scale.fusion, activation=activation
        )
        # Nothing reads the coarse maps of the last layer: its bottom-up path would compute in vain.
        final = self.neck.layers[-1]
        assert isinstance(final, BiFPNLayer)
        del final.bottom_up[:], final.project_up[:]
        self.channels = HEAD_FACTOR * width
        widths = [width] + [self.channels] * HEAD_REPEATS
        self.head = nn.Sequential(
            *(
                nn.Sequential(SeparableConv(before, after, bias=False), batch_norm(after), activation())
                for before, after in pairwise(widths)
            )
        )
        self.head.apply(init_weights)

    def forward(self, size: tuple[int, int], maps: Sequence[Tensor]) -> Tensor:
        """An image's height and width, and its maps at strides 4 to 32 -> (B, channels, ceil(H / 4), ceil(W / 4))."""
        return self.head(self.neck(maps)[0])


def init_weights(module: nn.Module) -> None:
    """Kaiming's normal for convolutions before a rectifier; separable ones begin by passing their input on."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    elif isinstance(module, SeparableConv):
        init_near_identity(module.depthwise)


class SmpDecoder(nn.Module):
    """One of smp's decoders, which want a list of all maps from the image itself on.

    Args:
        spec: of the decoder.
        levels: of the backbone, those of `spec.strides` that it has.
    """

    def __init__(self, spec: Spec, levels: Sequence[Level]) -> None:
        super().__init__()
        assert spec.build is not None
        self.channels = spec.channels
        # Stride 1 is the image; where nothing is at stride 2, a map without channels takes its place, as in smp.
        self._no_half = levels[0].stride != 2
        self.network = spec.build([3, *([0] if self._no_half else []), *(level.channels for level in levels)])
        if not spec.dilated:  # smp leaves DeepLab's layers as PyTorch makes them
            initialize_decoder(self.network)

    def forward(self, size: tuple[int, int], maps: Sequence[Tensor]) -> Tensor:
        """Height and width of images, multiples of `spec.multiple`, and their maps -> (B, channels, H / s, W / s)."""
        height, width = size
        image = maps[0].new_zeros(1, 1, 1, 1).expand(len(maps[0]), 3, height, width)  # only its size is asked for
        half = [maps[0].new_empty(len(maps[0]), 0, -(-height // 2), -(-width // 2))]
        return self.network([image, *(half if self._no_half else []), *maps])


def last_layer(spec: Spec, features: int, classes: int) -> nn.Conv2d:
    """The convolution that makes logits of features."""
    layer = nn.Conv2d(features, classes, spec.kernel, padding=spec.kernel // 2)
    if spec.build is None:
        nn.init.normal_(layer.weight, std=LAST_STD)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    elif not spec.dilated:
        initialize_head(layer)
    return layer
