"""EfficientNet: one baseline network, and one coefficient phi that widens, deepens and enlarges it together.

Architecture and scaling: arXiv:1905.11946, sections 3.3 and 4. Where the paper is silent (rounding, initialisation, the
Lite family, B8 and L2) the code of the authors decides: tensorflow/tpu `models/official/efficientnet`, files
`efficientnet_builder.py`, `efficientnet_model.py` and `lite/efficientnet_lite_builder.py`. Parameters are named as in
timm, so that published weights load as they are.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone, Level, select
from backbones.errors import unknown_name

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Stage:
    """One row of table 1: `repeats` blocks, of which the first has the stride."""

    expansion: int
    channels: int
    repeats: int
    stride: int
    kernel: int


STAGES = (
    Stage(1, 16, 1, 1, 3),
    Stage(6, 24, 2, 2, 3),
    Stage(6, 40, 2, 2, 5),
    Stage(6, 80, 3, 2, 3),
    Stage(6, 112, 3, 1, 5),
    Stage(6, 192, 4, 2, 5),
    Stage(6, 320, 1, 1, 3),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280


@dataclass(frozen=True)
class Scaling:
    """How one member of the family is scaled from B0.

    Attributes:
        width: factor on channels.
        depth: factor on the number of blocks of a stage.
        dropout: rate before the classifier.
        lite: without squeeze-excitation, with ReLU6, stem, head and the depth of first and last stage left unscaled.
        tensorflow: SAME padding and batch-norm epsilon 1e-3, else symmetric padding and 1e-5.
    """

    width: float
    depth: float
    dropout: float
    lite: bool = False
    tensorflow: bool = False

    def channels(self, channels: int) -> int:
        """Scaled to a multiple of 8, upwards where rounding would lose more than 10%."""
        scaled = channels * self.width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scaled else rounded

    def repeats(self, index: int) -> int:
        """Number of blocks in stage `index`, rounded up."""
        fixed = self.lite and index in (0, len(STAGES) - 1)
        return STAGES[index].repeats if fixed else math.ceil(STAGES[index].repeats * self.depth)


_FACTORS = {
    "b0": (1.0, 1.0, 0.2),
    "b1": (1.0, 1.1, 0.2),
    "b2": (1.1, 1.2, 0.3),
    "b3": (1.2, 1.4, 0.3),
    "b4": (1.4, 1.8, 0.4),
    "b5": (1.6, 2.2, 0.4),
    "b6": (1.8, 2.6, 0.5),
    "b7": (2.0, 3.1, 0.5),
    "b8": (2.2, 3.6, 0.5),
    "l2": (4.3, 5.3, 0.5),
    "lite0": (1.0, 1.0, 0.2),
    "lite1": (1.0, 1.1, 0.2),
    "lite2": (1.1, 1.2, 0.3),
    "lite3": (1.2, 1.4, 0.3),
    "lite4": (1.4, 1.8, 0.3),
}
VARIANTS: dict[str, Scaling] = {
    f"{prefix}efficientnet_{size}": Scaling(*factors, lite=size.startswith("lite"), tensorflow=bool(prefix))
    for prefix in ("", "tf_")
    for size, factors in _FACTORS.items()
}


def swish(x: Tensor) -> Tensor:
    """Multiply x by its sigmoid, in place where no gradient will ask for x."""
    return F.silu(x, inplace=not x.requires_grad)


def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6) in place; its gradient needs the output alone."""
    return F.relu6(x, inplace=True)


class SameConv2d(nn.Conv2d):
    """Strided convolution padded as TensorFlow does: enough for ceil(size / stride) outputs, the odd pixel last.

    Where one side needs a pixel more than the other, both get a whole stride more than the smaller one, and the first
    output, which sees mostly padding, is cut off: padding the input itself would copy it, in training even twice.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""
        (rows, top, skip_rows), (columns, left, skip_columns) = (self._axis(x.shape[2 + axis], axis) for axis in (0, 1))
        x = F.conv2d(x, self.weight, self.bias, self.stride, (top, left), 1, self.groups)
        if not (skip_rows or skip_columns):
            return x
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        x = x[:, :, skip_rows : skip_rows + rows, skip_columns : skip_columns + columns]
        return x.contiguous(memory_format=layout)  # operators that follow are slow on strided views

    def _axis(self, size: int, axis: int) -> tuple[int, int, int]:
        """Outputs along one axis, padding of both its ends, and how many outputs to skip."""
        stride, kernel = self.stride[axis], self.kernel_size[axis]
        outputs = -(-size // stride)
        missing = max((outputs - 1) * stride + kernel - size, 0)
        uneven = missing % 2
        return outputs, missing // 2 + uneven * stride, uneven


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from the means of all channels (arXiv:1709.01507)."""

    def __init__(self, channels: int, reduced: int, act: Activation) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.conv_expand = nn.Conv2d(reduced, channels, 1)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        gate = self.act(self.conv_reduce(x.mean((2, 3), keepdim=True)))
        return x * self.conv_expand(gate).sigmoid()


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
    squeeze: bool

    def conv(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
        """Convolution without bias whose output measures ceil(input / stride)."""
        if self.same_padding and stride > 1:
            return SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)

    def norm(self, channels: int) -> nn.BatchNorm2d:
        """Batch norm; the momentum stays torch's 0.1, which suits runs shorter than TensorFlow's 0.99 was set for."""
        return nn.BatchNorm2d(channels, eps=self.epsilon)

    def gate(self, channels: int, inputs: int) -> nn.Module:
        """Squeeze-excitation to a quarter of the block's input channels, or nothing."""
        return SqueezeExcite(channels, inputs // 4, self.act) if self.squeeze else nn.Identity()


class SeparableConv(nn.Module):
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
        y = self.se(self.act(self.bn1(self.conv_dw(x))))
        y = self.bn2(self.conv_pw(y))
        return self.drop(y).add_(x) if self.residual else y


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
        y = self.act(self.bn1(self.conv_pw(x)))
        y = self.se(self.act(self.bn2(self.conv_dw(y))))
        y = self.bn3(self.conv_pwl(y))
        return self.drop(y).add_(x) if self.residual else y


def _levels(scaling: Scaling) -> list[Level]:
    """Where each stage ends. Several share a stride; the last of them is that stride's level."""
    strides = itertools.accumulate((stage.stride for stage in STAGES), operator.mul, initial=2)
    return [Level(scaling.channels(stage.channels), s) for stage, s in zip(STAGES, list(strides)[1:], strict=True)]


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


class EfficientNet(Backbone):
    """Stem and stages of the EfficientNet called `name`, as far as the coarsest of `strides` needs them.

    Args:
        name: a key of VARIANTS.
        strides: strides of the maps to return, any of 2, 4, 8, 16, 32.
        stochastic_depth: rate of the last block; it grows linearly from 0 at the first.

    Raises UserError for an unknown name, ValueError for a stride that no stage has.
    """

    def __init__(self, name: str, strides: Sequence[int] = (4, 8, 16, 32), stochastic_depth: float = 0.2) -> None:
        super().__init__()
        if name not in VARIANTS:
            raise unknown_name("EfficientNet", name, VARIANTS)
        self.name = name
        scaling = VARIANTS[name]
        act: Activation = relu6 if scaling.lite else swish
        self.act = act
        parts = Parts(act, scaling.tensorflow, 1e-3 if scaling.tensorflow else 1e-5, squeeze=not scaling.lite)

        channels = STEM_CHANNELS if scaling.lite else scaling.channels(STEM_CHANNELS)
        self.conv_stem = parts.conv(3, channels, 3, stride=2)
        self.bn1 = parts.norm(channels)
        stage_levels = _levels(scaling)
        wanted = sorted(select(stage_levels, strides))
        self._taps = frozenset(wanted)
        self.levels = tuple(stage_levels[stage] for stage in wanted)

        blocks_in_total, built = sum(map(scaling.repeats, range(len(STAGES)))), 0
        self.blocks = nn.Sequential()
        for index, stage in enumerate(STAGES[: wanted[-1] + 1]):
            blocks = nn.Sequential()
            for repeat in range(scaling.repeats(index)):
                stride, outputs = (stage.stride if repeat == 0 else 1), stage_levels[index].channels
                drop = stochastic_depth * built / blocks_in_total
                blocks.append(
                    SeparableConv(channels, outputs, stage.kernel, stride, parts, drop)
                    if stage.expansion == 1
                    else MBConv(channels, outputs, stage.kernel, stride, stage.expansion, parts, drop)
                )
                channels, built = outputs, built + 1
            self.blocks.append(blocks)
        self.apply(initialize)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, channels, ceil(H / stride), ceil(W / stride)) for each level]."""
        x = self.act(self.bn1(self.conv_stem(images)))
        maps = []
        for index, blocks in enumerate(self.blocks):
            x = blocks(x)
            if index in self._taps:
                maps.append(x)
        return maps


class EfficientNetClassifier(nn.Module):
    """The published classifier: EfficientNet to stride 32, a 1x1 convolution, mean over space, dropout, linear layer.

    Args:
        name: a key of VARIANTS.
        num_classes: K, outputs of the last layer.
        stochastic_depth: rate of the last block.
        dropout: rate before the last layer; None takes the paper's for this member of the family.
    """

    def __init__(
        self, name: str, num_classes: int = 1000, stochastic_depth: float = 0.2, dropout: float | None = None
    ) -> None:
        super().__init__()
        network = EfficientNet(name, strides=(32,), stochastic_depth=stochastic_depth)
        scaling = VARIANTS[name]
        self.name, self.levels, self.act = name, network.levels, network.act
        self.conv_stem, self.bn1, self.blocks = network.conv_stem, network.bn1, network.blocks
        features = HEAD_CHANNELS if scaling.lite else scaling.channels(HEAD_CHANNELS)
        self.conv_head = nn.Conv2d(network.levels[-1].channels, features, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(features, eps=network.bn1.eps)
        self.dropout = nn.Dropout(scaling.dropout if dropout is None else dropout)
        self.classifier = nn.Linear(features, num_classes)
        for layer in (self.conv_head, self.classifier):
            initialize(layer)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, K)."""
        x = self.blocks(self.act(self.bn1(self.conv_stem(images))))
        x = self.act(self.bn2(self.conv_head(x)))
        return self.classifier(self.dropout(x.mean((2, 3))))
