"""The building blocks of EfficientNet: MBConv, squeeze-excitation and stochastic depth.

Sources: arXiv:1905.11946, section 4, and for what it does not state, tensorflow/tpu `models/official/efficientnet`.
Parameters have the same names as in timm, so that published weights load unchanged.
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
    """Strided convolution with TensorFlow's SAME padding: ceil(size / stride) outputs, an odd pixel of padding last.

    Where the end of an axis needs one pixel more than its start, padding the input would copy it. Instead, the filter
    gets a row or column of zeros before its first one, and the input is padded evenly by the convolution itself. Only
    3x3 filters in training pad the input: oneDNN takes twice as long for the gradients of an enlarged 3x3 filter. For
    larger filters both ways take the same time. Exported graphs pad the input: runtimes merge that with the
    convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""
        (top, last_row), (left, last_column) = (self._axis(x.shape[2 + axis], axis) for axis in (0, 1))
        weight = self.weight
        if last_row or last_column:
            pads_input = torch.is_grad_enabled() and max(self.kernel_size) <= 3
            if pads_input or torch.compiler.is_exporting():
                x = F.pad(x, (0, last_column, 0, last_row))
            else:
                weight = F.pad(weight, (last_column, 0, last_row, 0))
                top, left = top + last_row, left + last_column
        return F.conv2d(x, weight, self.bias, self.stride, (top, left), 1, self.groups)

    def _axis(self, size: int, axis: int) -> tuple[int, int]:
        """Padding at both ends of an axis, and 1 if its end needs one pixel more, else 0."""
        stride, kernel = self.stride[axis], self.kernel_size[axis]
        missing = max(kernel - (size % stride or stride), 0)
        return missing // 2, missing % 2


class SqueezeExcite(nn.Module):
    """Squeeze-excitation: multiplies each channel by a gate, computed from all channel means (arXiv:1709.01507)."""

    def __init__(self, channels: int, reduced: int, act: Activation) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.conv_expand = nn.Conv2d(reduced, channels, 1)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return gated(x, self.logits(x))

    def logits(self, x: Tensor) -> Tensor:
        """The gate before its sigmoid: (B, C, H, W) -> (B, C, 1, 1)."""
        return self.conv_expand(self.act(self.conv_reduce(spatial_mean(x))))


class GatedConv2d(nn.Module):
    """Squeeze-excitation and the 1x1 convolution after it, for inference: (B, C, H, W) -> (B, C', H, W).

    Multiplying an input channel by its gate equals multiplying that channel's weights by it. For a single image this
    avoids a product over whole maps. Several images would each need weights of their own, so they are computed as in
    training. So are images in an exported graph, whose batch size is open, and whose weights have to be constants.
    """

    def __init__(self, gate: SqueezeExcite, conv: nn.Conv2d) -> None:
        super().__init__()
        self.gate, self.conv = gate, conv

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting() or len(x) != 1:
            return self.conv(self.gate(x))
        return F.conv2d(x, self.conv.weight * self.gate.logits(x).sigmoid(), self.conv.bias)

    @classmethod
    def replace(cls, block: nn.Module, name: str) -> None:
        """Merge a block's `se` and its convolution `name`, in place. Without squeeze-excitation, do nothing."""
        if isinstance(block.se, SqueezeExcite):
            setattr(block, name, cls(block.se, getattr(block, name)))
            block.se = nn.Identity()


class StochasticDepth(nn.Module):
    """In training, zeroes the residual branch of a sample with probability `rate`, in place (arXiv:1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W). Scales the other samples so that the expectation stays the same."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        return x.mul_(x.new_empty(len(x), 1, 1, 1).bernoulli_(keep).div_(keep))


@dataclass(frozen=True)
class BlockLayers:
    """Creates the layers of blocks, with the settings that all blocks of a network or stage share.

    Attributes:
        act: the activation function.
        same_padding: whether strided convolutions use TensorFlow's SAME padding.
        epsilon: epsilon of batch norm.
        squeeze: channels of squeeze-excitation, as a fraction of the block's input channels; 0 for none.
    """

    act: Activation
    same_padding: bool
    epsilon: float
    squeeze: float = 0.0

    def conv(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
        """Convolution without bias, with output size ceil(input size / stride)."""
        if self.same_padding and stride > 1:
            return SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)

    def norm(self, channels: int) -> nn.BatchNorm2d:
        """Batch norm with torch's momentum 0.1: TensorFlow's 0.99 (0.01 in torch) is meant for longer trainings."""
        return nn.BatchNorm2d(channels, eps=self.epsilon)

    def gate(self, channels: int, inputs: int) -> nn.Module:
        """Squeeze-excitation, or the identity if `squeeze` is 0."""
        return SqueezeExcite(channels, int(inputs * self.squeeze), self.act) if self.squeeze else nn.Identity()


class DepthwiseSeparableBlock(nn.Module):
    """MBConv without expansion: depthwise convolution, squeeze-excitation, pointwise convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, layers: BlockLayers, drop: float) -> None:
        super().__init__()
        self.conv_dw = layers.conv(inputs, inputs, kernel, stride, groups=inputs)
        self.bn1 = layers.norm(inputs)
        self.se = layers.gate(inputs, inputs)
        self.conv_pw = layers.conv(inputs, outputs)
        self.bn2 = layers.norm(outputs)
        self.drop = StochasticDepth(drop)
        self.act = layers.act
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))."""
        y = self.se(norm_act(self.bn1, self.act, self.conv_dw(x)))
        y = self.bn2(self.conv_pw(y))
        return self.drop(y).add_(x) if self.residual else y

    def for_inference(self) -> DepthwiseSeparableBlock:
        """This block, with squeeze-excitation merged into the convolution after it."""
        GatedConv2d.replace(self, "conv_pw")
        return self


class MBConv(nn.Module):
    """Mobile inverted bottleneck (arXiv:1801.04381): expansion, depthwise, squeeze-excitation, projection."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, layers: BlockLayers, drop: float
    ) -> None:
        super().__init__()
        expanded = inputs * expansion
        self.conv_pw = layers.conv(inputs, expanded)
        self.bn1 = layers.norm(expanded)
        self.conv_dw = layers.conv(expanded, expanded, kernel, stride, groups=expanded)
        self.bn2 = layers.norm(expanded)
        self.se = layers.gate(expanded, inputs)
        self.conv_pwl = layers.conv(expanded, outputs)
        self.bn3 = layers.norm(outputs)
        self.drop = StochasticDepth(drop)
        self.act = layers.act
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))."""
        y = norm_act(self.bn1, self.act, self.conv_pw(x))
        y = self.se(norm_act(self.bn2, self.act, self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return self.drop(y).add_(x) if self.residual else y

    def for_inference(self) -> MBConv:
        """This block, with squeeze-excitation merged into the convolution after it."""
        GatedConv2d.replace(self, "conv_pwl")
        return self


def initialize(module: nn.Module) -> None:
    """Initialise as the authors' code: convolutions normal by fan-out, the linear layer uniform by its outputs."""
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
    elif isinstance(module, nn.Linear):
        bound = module.out_features**-0.5
        nn.init.uniform_(module.weight, -bound, bound)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
