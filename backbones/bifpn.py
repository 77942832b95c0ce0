"""BiFPN: a feature pyramid fused top-down and then bottom-up, several times (Tan et al., arXiv:1911.09070, section 3).

Every fusion is a weighted sum of two or three maps of one level, followed by a separable convolution. The first layer
projects the backbone's maps to the neck's width; levels coarser than the backbone's last are made by max pooling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Level, Neck

FUSIONS = ("fast", "softmax", "sum")

# google/automl efficientdet/hparams_config.py: batch norm momentum 0.99 (1 - 0.99 in PyTorch's terms), epsilon 1e-3.
BN_MOMENTUM, BN_EPSILON = 0.01, 1e-3


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with EfficientDet's momentum and epsilon."""
    return nn.BatchNorm2d(channels, eps=BN_EPSILON, momentum=BN_MOMENTUM)


class MaxPool(nn.Module):
    """3x3 max pooling with stride 2: (B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2)).

    `same` pads as TensorFlow does: an even side gets its one row or column at the end only.
    """

    def __init__(self, same: bool) -> None:
        super().__init__()
        self.same = same

    def forward(self, x: Tensor) -> Tensor:
        if not self.same:
            return F.max_pool2d(x, 3, 2, 1)
        height, width = x.shape[-2:]
        if height % 2 and width % 2:
            return F.max_pool2d(x, 3, 2, 1)
        pad = (width % 2, 1, height % 2, 1)
        return F.max_pool2d(F.pad(x, pad, value=float("-inf")), 3, 2)


class SeparableConv(nn.Module):
    """Depthwise 3x3, then pointwise: (B, in, H, W) -> (B, out, H, W), without norm or activation."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class Fusion(nn.Module):
    """A weighted sum of maps of one level, then activation, separable convolution and batch norm.

    `fast` divides each non-negative weight by their sum + 1e-4; `softmax` is the costlier form it approximates; `sum`
    has no weights (section 3.3 of the paper).
    """

    def __init__(self, inputs: int, channels: int, fusion: str, activation: Callable[[], nn.Module], bias: bool):
        super().__init__()
        self.fusion = fusion
        self.weights = nn.Parameter(torch.ones(inputs)) if fusion != "sum" else None
        self.activation = activation()
        self.conv = SeparableConv(channels, channels, bias)
        self.norm = batch_norm(channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[(B, C, H, W), ...] -> (B, C, H, W)."""
        fused = sum(maps[1:], maps[0]) if self.weights is None else self._weighted(maps, self.weights)
        return self.norm(self.conv(self.activation(fused)))

    def _weighted(self, maps: Sequence[Tensor], weights: Tensor) -> Tensor:
        share = self.share(weights).to(maps[0].dtype)
        fused = maps[0] * share[0]
        for x, weight in zip(maps[1:], share[1:], strict=True):
            fused = torch.addcmul(fused, x, weight)  # one pass and no stacked copy of all maps
        return fused

    def share(self, weights: Tensor) -> Tensor:
        """The factor on each input."""
        if self.fusion == "softmax":
            return weights.softmax(0)
        positive = weights.relu()
        return positive / (positive.sum() + 1e-4)

    def for_inference(self) -> FixedFusion:
        """The same with its weights as plain numbers."""
        return FixedFusion(self)


class FixedFusion(nn.Module):
    """A fusion that learns no more: `fused` and `maps` as in `Fusion`."""

    def __init__(self, fusion: Fusion) -> None:
        super().__init__()
        weights = fusion.weights
        self.share = [1.0, 1.0, 1.0] if weights is None else fusion.share(weights.detach().float()).tolist()
        self.activation, self.conv, self.norm = fusion.activation, fusion.conv, fusion.norm
        if isinstance(self.activation, nn.SiLU):
            self.activation = nn.SiLU(inplace=True)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[(B, C, H, W), ...] -> (B, C, H, W)."""
        fused = maps[0] * self.share[0]
        for x, weight in zip(maps[1:], self.share[1:], strict=False):
            fused.add_(x, alpha=weight)
        return self.norm(self.conv(self.activation(fused)))


class BiFPNLayer(nn.Module):
    """One top-down and one bottom-up pass: maps in, as many maps out, all with `channels` channels.

    Where an input has another width (first layer only) each of its uses has a projection of its own, as published.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        fusion: str,
        activation: Callable[[], nn.Module],
        same: bool,
        bias: bool,
    ) -> None:
        super().__init__()
        count = len(in_channels)

        def node(inputs: int) -> Fusion:
            return Fusion(inputs, channels, fusion, activation, bias)

        def projections(widths: Sequence[int]) -> nn.ModuleList:
            return nn.ModuleList(projection(width, channels, bias) for width in widths)

        # Both lists are indexed by level, finest first. The coarsest has no top-down node, the finest no bottom-up one.
        self.top_down = nn.ModuleList(node(2) for _ in range(count - 1))
        self.bottom_up = nn.ModuleList(node(3 if level < count - 1 else 2) for level in range(1, count))
        self.project_down = projections(in_channels[:-1])
        self.project_up = projections(in_channels[1:])
        self.project_top = projection(in_channels[-1], channels, bias)
        self.downsample = MaxPool(same)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[(B, in_channels, H, W) finest first] -> [(B, channels, H, W) finest first]."""
        last = len(maps) - 1
        down = [self.project_top(maps[-1])]
        for level in reversed(range(last)):
            coarser = F.interpolate(down[0], maps[level].shape[-2:], mode="nearest")
            down.insert(0, self.top_down[level]((self.project_down[level](maps[level]), coarser)))
        up = [down[0]]
        for level in range(1, len(self.bottom_up) + 1):
            inputs = [self.project_up[level - 1](maps[level])]
            if level < last:
                inputs.append(down[level])
            up.append(self.bottom_up[level - 1]([*inputs, self.downsample(up[-1])]))
        return up


def projection(in_channels: int, channels: int, bias: bool) -> nn.Module:
    """1x1 convolution and batch norm to the neck's width, or the identity where the width is right already."""
    if in_channels == channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=bias), batch_norm(channels))


class BiFPN(Neck):
    """A stack of BiFPN layers over the given levels and as many coarser ones as `num_levels` asks for.

    Args:
        levels: what the backbone gives, finest first, each with twice the stride of the one before.
        channels: width of every map, W_bifpn of the paper's table 1.
        repeats: layers, D_bifpn of the paper's table 1.
        num_levels: maps out; those beyond `len(levels)` are pooled from the last.
        fusion: "fast", "softmax" or "sum".
        activation: module class of the nonlinearity before each convolution.
        same: TensorFlow's padding in the poolings, which `tf_` weights expect.
        bias: biases before batch norm, redundant but present in TensorFlow's weights.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        channels: int = 64,
        repeats: int = 3,
        num_levels: int = 5,
        fusion: str = "fast",
        activation: Callable[[], nn.Module] = nn.SiLU,
        same: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"fusion is one of {FUSIONS}, not {fusion!r}")
        if not 2 <= len(levels) <= num_levels:
            raise ValueError(
                f"{len(levels)} levels in and {num_levels} out: needs at least 2, and no fewer out than in"
            )
        extra = num_levels - len(levels)
        self.levels = tuple(Level(channels, levels[0].stride * 2**i) for i in range(num_levels))
        self.coarser = nn.ModuleList()
        for i in range(extra):
            width = levels[-1].channels if i == 0 else channels
            self.coarser.append(nn.Sequential(projection(width, channels, bias), MaxPool(same)))
        widths = [level.channels for level in levels] + [channels] * extra
        self.layers = nn.ModuleList()
        for i in range(repeats):
            layer_in = widths if i == 0 else [channels] * num_levels
            self.layers.append(BiFPNLayer(layer_in, channels, fusion, activation, same, bias))
        self.apply(init_weights)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[(B, C, ceil(H/stride), ceil(W/stride)) of the input levels] -> the same for `self.levels`."""
        pyramid = list(maps)
        for coarser in self.coarser:
            pyramid.append(coarser(pyramid[-1]))
        for layer in self.layers:
            pyramid = layer(pyramid)
        return pyramid


def init_weights(module: nn.Module) -> None:
    """Xavier-uniform convolutions and zero biases, Keras's default, which google/automl keeps for the neck.

    Separable convolutions begin by passing their input on, see `init_near_identity`.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, SeparableConv):
        init_near_identity(module.depthwise)


@torch.no_grad()
def init_near_identity(depthwise: nn.Conv2d) -> None:
    """Turn random depthwise 3x3 filters into the identity and half as much noise.

    Filters that are noise alone blur and shift a map, each channel its own way; a stack of six, as on the way to P2,
    hides where things are until training has undone it, for which short schedules have no time. On the demo scenes, in
    neck and heads, this is worth ten points of AP after 12 epochs and four of mIoU after 8.
    """
    depthwise.weight *= 0.5
    depthwise.weight[:, :, 1, 1] += 1
