"""The blocks of EfficientNet: squeeze-excitation, stochastic depth, and MBConv, which architecture search chose from.

Sources: arXiv:1905.11946, section 4, and where it is silent tensorflow/tpu `models/official/efficientnet`. Parameters
are named as in timm, so that published weights load as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.memory_efficient import gated, norm_act, spatial_mean

Activation = Callable[[Tensor], Tensor]


class SameConv2d(nn.Conv2d):
    """Strided convolution padded as TensorFlow does: enough for ceil(size / stride) outputs, the odd pixel last.

    Where one side needs a pixel more than the other, a filter with a row or column of zeros before its first, padded
    evenly, does the same without a padded copy of the input. Its gradients take oneDNN twice as long as those of a 3x3
    filter, which is why such a one gets the copy in training; for larger filters they cost the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""
        (top, last_row), (left, last_column) = (self._axis(x.shape[2 + axis], axis) for axis in (0, 1))
        weight = self.weight
        if last_row or last_column:
            if torch.is_grad_enabled() and max(self.kernel_size) <= 3:
                x = F.pad(x, (0, last_column, 0, last_row))
            else:
                weight = F.pad(weight, (last_column, 0, last_row, 0))
                top, left = top + last_row, left + last_column
        return F.conv2d(x, weight, self.bias, self.stride, (top, left), 1, self.groups)

    def _axis(self, size: int, axis: int) -> tuple[int, int]:
        """Padding of both ends of an axis, and 1 where its end needs a pixel more."""
        stride, kernel = self.stride[axis], self.kernel_size[axis]
        missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return missing // 2, missing % 2


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from the means of all channels (arXiv:1709.01507)."""

    def __init__(self, channels: int, reduced: int, act: Activation) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.conv_expand = nn.Conv2d(reduced, channels, 1)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return gated(x, self.logits(x))

    def logits(self, x: Tensor) -> Tensor:
        """The gate before its sigmoid: (B, C, H, W) -> (B, C, 1, 1)."""
        return self.conv_expand(self.act(self.conv_reduce(spatial_mean(x))))


class GatedConv2d(nn.Module):
    """Squeeze-excitation and the 1x1 convolution after it, which learn no more: (B, C, H, W) -> (B, C', H, W).

    A gate on each input channel is a factor on that channel's weights. One image needs no product over its maps then;
    several would need as many sets of weights.
    """

    def __init__(self, gate: SqueezeExcite, conv: nn.Conv2d) -> None:
        super().__init__()
        self.gate, self.conv = gate, conv

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != 1:
            return self.conv(self.gate(x))
        return F.conv2d(x, self.conv.weight * self.gate.logits(x).sigmoid(), self.conv.bias)

    @classmethod
    def replace(cls, block: nn.Module, name: str) -> None:
        """Let one take the place of a block's gate, `se`, if it has any, and of the convolution called `name`."""
        if isinstance(block.se, SqueezeExcite):
            setattr(block, name, cls(block.se, getattr(block, name)))
            block.se = nn.Identity()


class StochasticDepth(nn.Module):
    """Drops the residual branch of a sample with probability `rate` in training (arXiv:1603.09382). Works in place."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, with whole samples zeroed and the others scaled to keep the expectation."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        return x.mul_(x.new_empty(len(x), 1, 1, 1).bernoulli_(keep).div_(keep))


@dataclass(frozen=True)
class Parts:
    """The pieces every block of one network is made of."""

    act: Activation
    same_padding: bool
    epsilon: float
    squeeze: float = 0.0  # channels of squeeze-excitation, as a share of the block's input channels

    def conv(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
        """Convolution without bias whose output measures ceil(input / stride)."""
        if self.same_padding and stride > 1:
            return SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)

    def norm(self, channels: int) -> nn.BatchNorm2d:
        """Batch norm; the momentum stays torch's 0.1, which suits runs shorter than TensorFlow's 0.99 was set for."""
        return nn.BatchNorm2d(channels, eps=self.epsilon)

    def gate(self, channels: int, inputs: int) -> nn.Module:
        """Squeeze-excitation, or nothing."""
        return SqueezeExcite(channels, int(inputs * self.squeeze), self.act) if self.squeeze else nn.Identity()


class DepthwiseSeparableBlock(nn.Module):
    """Depthwise, then pointwise convolution: MBConv without expansion."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, parts: Parts, drop: float) -> None:
        super().__init__()
        self.conv_dw = parts.conv(inputs, inputs, kernel, stride, groups=inputs)
        self.bn1 = parts.norm(inputs)
        self.se = parts.gate(inputs, inputs)
        self.conv_pw = parts.conv(inputs, outputs)
        self.bn2 = parts.norm(outputs)
        self.drop = StochasticDepth(drop)
        self.act = parts.act
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))."""
        y = self.se(norm_act(self.bn1, self.act, self.conv_dw(x)))
        y = self.bn2(self.conv_pw(y))
        return self.drop(y).add_(x) if self.residual else y

    def for_inference(self) -> DepthwiseSeparableBlock:
        """The same, its gate part of the convolution that follows."""
        GatedConv2d.replace(self, "conv_pw")
        return self


class MBConv(nn.Module):
    """Mobile inverted bottleneck (arXiv:1801.04381): expand, convolve depthwise, squeeze-excite, project."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, parts: Parts, drop: float
    ) -> None:
        super().__init__()
        expanded = inputs * expansion
        self.conv_pw = parts.conv(inputs, expanded)
        self.bn1 = parts.norm(expanded)
        self.conv_dw = parts.conv(expanded, expanded, kernel, stride, groups=expanded)
        self.bn2 = parts.norm(expanded)
        self.se = parts.gate(expanded, inputs)
        self.conv_pwl = parts.conv(expanded, outputs)
        self.bn3 = parts.norm(outputs)
        self.drop = StochasticDepth(drop)
        self.act = parts.act
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))."""
        y = norm_act(self.bn1, self.act, self.conv_pw(x))
        y = self.se(norm_act(self.bn2, self.act, self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return self.drop(y).add_(x) if self.residual else y

    def for_inference(self) -> MBConv:
        """The same, its gate part of the convolution that follows."""
        GatedConv2d.replace(self, "conv_pwl")
        return self


def initialize(module: nn.Module) -> None:
    """Initial weights of the authors' code: convolutions normal by fan-out, the classifier uniform by its outputs."""
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
    elif isinstance(module, nn.Linear):
        bound = module.out_features**-0.5
        nn.init.uniform_(module.weight, -bound, bound)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
