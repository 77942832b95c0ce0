"""The simple feature pyramid: maps at strides 4, 8, 16 and 32 from the last map of a plain vision transformer."""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import LayerNorm2d
from torch import Tensor, nn

STRIDES = (4, 8, 16, 32)
# Channels of every level. ViTDet (arXiv:2203.16527) uses 256 for networks of every size, from ViT-B to ViT-H.
WIDTH = 256


class SimpleFeaturePyramid(nn.Module):
    """The simple feature pyramid of ViTDet (arXiv:2203.16527, section 3) on one map.

    Layers are those of `SimpleFeaturePyramid` in detectron2 (`detectron2/modeling/backbone/vit.py`): transposed 2x2
    convolutions double the size of the map and halve its number of channels, with layer norm and GELU between two of
    them; max pooling halves the size. A 1x1 convolution to `width` channels and a 3x3 convolution follow, each without
    bias and with a layer norm over channels. That code is for maps of stride 16. Here the map may have any of
    `STRIDES`, and a layer norm over channels comes first, because the map of a transformer without its final norm has
    channels of very different sizes.

    Args:
        channels: channels of the map.
        stride: stride of the map, one of `STRIDES`.
        strides: strides of the levels, some of `STRIDES`.
        width: channels of each level.
    """

    def __init__(self, channels: int, stride: int, strides: Sequence[int] = STRIDES, width: int = WIDTH) -> None:
        super().__init__()
        self.norm = LayerNorm2d(channels)
        self.branches = nn.ModuleDict(
            {str(level): _branch(channels, stride, level, width) for level in sorted(strides)}
        )

    def forward(self, x: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """The levels of images of (height, width) `size`, finest first.

        Args:
            x: (B, channels, h, w), where h and w times the stride are at least the size of the images.
            size: height and width of the images, px. Maps are cropped to the cells that images of this size have.

        Returns [(B, width, ceil(height / stride), ceil(width / stride)) for each level].
        """
        x = self.norm(x)
        height, width = size
        return [
            branch(x)[..., : -(-height // int(stride)), : -(-width // int(stride))]
            for stride, branch in self.branches.items()
        ]


def _branch(channels: int, stride: int, level: int, width: int) -> nn.Sequential:
    """The layers from a map with `channels` channels at `stride` to the level of stride `level`."""
    layers: list[nn.Module] = []
    if level > stride:
        # Pooled windows at the edge may be incomplete: a map with an odd number of cells keeps its last ones.
        layers.append(nn.MaxPool2d(level // stride, level // stride, ceil_mode=True))
    while stride > level:
        if layers:
            layers += [LayerNorm2d(channels), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2))
        channels, stride = channels // 2, stride // 2
    return nn.Sequential(
        *layers,
        nn.Conv2d(channels, width, kernel_size=1, bias=False),
        LayerNorm2d(width),
        nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
        LayerNorm2d(width),
    )
