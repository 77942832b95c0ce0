"""Decoders by name: EfficientDet's, and those of segmentation-models-pytorch (smp).

A decoder combines the backbone's feature maps into one feature map. The last layer computes logits from it, which are
upsampled to the input size. smp's classes are used unchanged, with the default sizes of smp's models, so that smp's
weight files fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from backbones.base import Level, Neck
from backbones.bifpn import BiFPN, BiFPNLayer, SeparableConv, batch_norm, init_near_identity
from backbones.errors import unknown_name
from backbones.memory_efficient import ACTIVATIONS
from backbones.scaling import Scale

# EfficientDet for segmentation, arXiv:1911.09070, section 5.2: on D4, BiFPN has 128 channels and 3 layers instead of
# the detector's 224 and 7, because P2 has four times the pixels of P3. The head has 256 channels and 3 layers.
MAX_CHANNELS, MAX_REPEATS, HEAD_FACTOR, HEAD_REPEATS = 128, 3, 2, 3
LEVELS = 6  # P2 to P7
LAST_STD = 0.01  # small initial weights of the last layer give all classes nearly equal probabilities


@dataclass(frozen=True)
class Spec:
    """Inputs and outputs of a decoder.

    Attributes:
        strides: strides of its input feature maps. Stride 2 is omitted if the backbone has no such map.
        stride: stride of its logits.
        build: channels of the image and of each map, by increasing stride -> smp's decoder. None for EfficientDet's.
        channels: number of output channels.
        kernel: kernel size of the last layer.
        multiple: the input's height and width are padded to a multiple of this. TensorFlow pads odd sizes otherwise
            than even sizes, which shifts feature maps. Without this padding, a network scores points lower at sizes
            other than the training's.
        corners: upsample logits with `align_corners=True`, as smp does.
        dilated: the last feature map has stride 16 instead of 32.
    """

    strides: tuple[int, ...]
    stride: int = 4
    build: Callable[[list[int]], nn.Module] | None = None
    channels: int = 256
    kernel: int = 1
    multiple: int = 32
    corners: bool = True
    dilated: bool = False


# smp imports timm and torchvision, which takes seconds: its classes are imported when a decoder is built.


def _unet(channels: list[int]) -> nn.Module:
    from segmentation.compat import UnetDecoder

    return UnetDecoder(channels, (256, 128, 64, 32, 16))


def _fpn(channels: list[int]) -> nn.Module:
    from segmentation.compat import FPNDecoder

    return FPNDecoder(channels)


def _deeplabv3plus(channels: list[int]) -> nn.Module:
    from segmentation.compat import DeepLabV3PlusDecoder

    return DeepLabV3PlusDecoder(
        channels,
        encoder_depth=5,
        out_channels=256,
        atrous_rates=(12, 24, 36),
        output_stride=16,
        aspp_separable=True,
        aspp_dropout=0.5,
    )


def _pspnet(channels: list[int]) -> nn.Module:
    from segmentation.compat import PSPDecoder

    return PSPDecoder(channels)


def _upernet(channels: list[int]) -> nn.Module:
    from segmentation.compat import UPerNetDecoder

    return UPerNetDecoder(channels)


def _segformer(channels: list[int]) -> nn.Module:
    from segmentation.compat import SegformerDecoder

    return SegformerDecoder(channels)


DECODERS: dict[str, Spec] = {
    "bifpn": Spec((4, 8, 16, 32), corners=False),
    "unet": Spec((2, 4, 8, 16, 32), stride=1, build=_unet, channels=16, kernel=3),
    "fpn": Spec((4, 8, 16, 32), build=_fpn, channels=128),
    "deeplabv3plus": Spec((4, 16), build=_deeplabv3plus, multiple=16, dilated=True),
    "pspnet": Spec((8,), stride=8, build=_pspnet, channels=512, kernel=3, multiple=8),
    "upernet": Spec((4, 8, 16, 32), build=_upernet),
    "segformer": Spec((2, 4, 8, 16, 32), build=_segformer),
}


def spec_of(decoder: str) -> Spec:
    """The decoder's entry in `DECODERS`. Raises UserError for an unknown name."""
    if decoder not in DECODERS:
        raise unknown_name("decoder", decoder, DECODERS)
    return DECODERS[decoder]


class PyramidDecoder(nn.Module):
    """EfficientDet's decoder: BiFPN over P2 to P7, then separable convolutions on P2.

    Width and number of layers are those of the compound coefficient, but at most the paper's 128 and 3. The head has
    twice the width.

    Args:
        levels: the backbone's levels with strides 4 to 32.
        scale: sizes for the compound coefficient.
        neck: computes P2, and other maps for other networks. By default a new one, which computes P2 only.
    """

    def __init__(self, levels: Sequence[Level], scale: Scale, neck: Neck | None = None) -> None:
        super().__init__()
        activation = ACTIVATIONS[scale.activation]
        self.neck = new_neck(levels, scale) if neck is None else neck
        if neck is None:
            # Only P2 of the last layer is used. Its bottom-up path, which computes P3 to P7, is not needed.
            final = self.neck.layers[-1]  # type: ignore[index]
            assert isinstance(final, BiFPNLayer)
            del final.bottom_up[:], final.project_up[:]
        width = self.neck.levels[0].channels
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
        """Feature maps at strides 4 to 32 -> (B, channels, ceil(H / 4), ceil(W / 4)). `size` is the images' (H, W)."""
        return self.outputs(self.neck(maps))

    def outputs(self, pyramid: Sequence[Tensor]) -> Tensor:
        """The neck's maps, P2 first -> (B, channels, ceil(H / 4), ceil(W / 4))."""
        return self.head(pyramid[0])


def new_neck(levels: Sequence[Level], scale: Scale) -> BiFPN:
    """A BiFPN over P2 to P7 of the decoder's size, for a backbone's `levels` with strides 4 to 32."""
    return BiFPN(
        levels,
        min(scale.width, MAX_CHANNELS),
        min(scale.neck_repeats, MAX_REPEATS),
        LEVELS,
        fusion=scale.fusion,
        activation=ACTIVATIONS[scale.activation],
    )


def init_weights(module: nn.Module) -> None:
    """Kaiming normal initialisation for convolutions. The depthwise part of separable ones starts near the identity."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    elif isinstance(module, SeparableConv):
        init_near_identity(module.depthwise)


class SmpDecoder(nn.Module):
    """One of smp's decoders. They expect the image as the first of the feature maps.

    Args:
        spec: the decoder.
        levels: the backbone's levels with the strides `spec.strides`.
    """

    def __init__(self, spec: Spec, levels: Sequence[Level]) -> None:
        super().__init__()
        assert spec.build is not None
        self.channels = spec.channels
        # The image is the map with stride 1. If there is no map with stride 2, smp expects one without channels.
        self._no_half = levels[0].stride != 2
        self.network = spec.build([3, *([0] if self._no_half else []), *(level.channels for level in levels)])
        if not spec.dilated:  # smp keeps PyTorch's initialisation for DeepLab
            from segmentation.compat import initialize_decoder

            initialize_decoder(self.network)

    def forward(self, size: tuple[int, int], maps: Sequence[Tensor]) -> Tensor:
        """Feature maps -> (B, channels, H / s, W / s) at stride s = `spec.stride`.

        `size` is the images' (H, W), multiples of `spec.multiple`.
        """
        height, width = size
        image = maps[0].new_zeros(1, 1, 1, 1).expand(maps[0].shape[0], 3, height, width)  # smp uses only its size
        half = [maps[0].new_empty(maps[0].shape[0], 0, -(-height // 2), -(-width // 2))]
        return self.network([image, *(half if self._no_half else []), *maps])


def last_layer(spec: Spec, features: int, classes: int) -> nn.Conv2d:
    """The convolution from `features` channels to the logits of `classes` classes."""
    layer = nn.Conv2d(features, classes, spec.kernel, padding=spec.kernel // 2)
    if spec.build is None:
        nn.init.normal_(layer.weight, std=LAST_STD)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    elif not spec.dilated:
        from segmentation.compat import initialize_head

        initialize_head(layer)
    return layer
