"""The necks that BiFPN is compared with: FPN (arXiv:1612.03144) and PANet (arXiv:1803.01534)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Level, Neck


class FPN(Neck):
    """Lateral 1x1 convolutions, a top-down sum, and a 3x3 convolution on each level.

    Levels coarser than the input's are computed by stride-2 convolutions as in RetinaNet (arXiv:1708.02002, section 4):
    the first from the last input map, each further one from the ReLU of the level before.

    Args:
        levels: the input maps, finest first, each with twice the stride of the one before.
        channels: channels of every output map.
        num_levels: number of output maps, at least `len(levels)`.

    Raises ValueError for fewer output than input maps.
    """

    def __init__(self, levels: Sequence[Level], channels: int = 256, num_levels: int = 5) -> None:
        super().__init__()
        if not 1 <= len(levels) <= num_levels:
            raise ValueError(
                f"{len(levels)} input levels and {num_levels} output levels: there must not be fewer outputs"
            )
        self.levels = tuple(Level(channels, levels[0].stride * 2**i) for i in range(num_levels))
        self.lateral = nn.ModuleList(nn.Conv2d(level.channels, channels, 1) for level in levels)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in levels)
        self.coarser = nn.ModuleList(
            nn.Conv2d(levels[-1].channels if i == 0 else channels, channels, 3, 2, 1)
            for i in range(num_levels - len(levels))
        )
        self.apply(init_weights)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[(B, C, ceil(H/stride), ceil(W/stride)) of the input levels] -> the same for `self.levels`."""
        merged = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for level in reversed(range(len(merged) - 1)):
            coarser = F.interpolate(merged[level + 1], merged[level].shape[-2:], mode="nearest")
            merged[level] = merged[level] + coarser
        out = [smooth(x) for smooth, x in zip(self.smooth, merged, strict=True)]
        x = maps[-1]
        for i, conv in enumerate(self.coarser):
            x = conv(x if i == 0 else x.relu())
            out.append(x)
        return out


class PANet(Neck):
    """An FPN with a second, bottom-up path: each level is summed with a stride-2 convolution of the next finer level.

    Arguments are those of `FPN`.
    """

    def __init__(self, levels: Sequence[Level], channels: int = 256, num_levels: int = 5) -> None:
        super().__init__()
        self.fpn = FPN(levels, channels, num_levels)
        self.levels = self.fpn.levels
        self.down = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, 1) for _ in self.levels[1:])
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in self.levels[1:])
        self.down.apply(init_weights)
        self.smooth.apply(init_weights)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[(B, C, ceil(H/stride), ceil(W/stride)) of the input levels] -> the same for `self.levels`."""
        top_down = self.fpn(maps)
        out = [top_down[0]]
        for x, down, smooth in zip(top_down[1:], self.down, self.smooth, strict=True):
            out.append(smooth((x + down(out[-1]).relu()).relu()))
        return out


def init_weights(module: nn.Module) -> None:
    """He-uniform weights with gain 1, as in the FPNs of detectron2 and torchvision, and zero biases."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight, a=1)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
