"""AmoebaNet-B, an architecture found by evolution, in any size.

The largest size here, `amoebanet_b`, is the network that GPipe trained: 18 normal cells, 512 filters, 557M parameters.
The genotype is in arXiv:1802.01548, supplement D. Its encoding follows tensorflow/tpu `models/official/amoeba_net`,
file `model_specs.py`; the stem, the cells and their connections follow `model_builder.py` and `network_utils.py` there.
Two details differ from that code:

- Padding is symmetric, so that the maps of any image have the size ceil(size / stride). No weights are published that
  would require TensorFlow's padding.
- The 5x5 convolutions of the reduction cell are dilated, as in the genotype. That code ignores the dilation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone, Level, select
from backbones.errors import UserError
from backbones.mbconv import initialize


@dataclass(frozen=True)
class Genotype:
    """The connections of a cell: five sums of two branches each.

    Attributes:
        sums: the two branches of each sum, as (operation, input state). State 0 is the output of the previous cell,
            state 1 that of the cell before it, both projected to the cell's filters and size. State i + 2 is the result
            of sum i.
        output: the states that are concatenated. For normal cells this includes state 0, as in the code and unlike the
            paper's figure: without it GPipe's network would have 498M parameters.
    """

    sums: tuple[tuple[tuple[str, int], tuple[str, int]], ...]
    output: tuple[int, ...]


NORMAL = Genotype(
    sums=(
        (("conv_1x1", 1), ("max_3x3", 1)),
        (("identity", 1), ("separable_3x3", 0)),
        (("conv_1x1", 1), ("separable_3x3", 0)),
        (("conv_1x1", 2), ("identity", 2)),
        (("average_3x3", 1), ("conv_1x1", 5)),
    ),
    output=(0, 3, 4, 6),
)
REDUCTION = Genotype(
    sums=(
        (("max_2x2", 0), ("max_3x3", 0)),
        (("identity", 2), ("conv_3x3", 1)),
        (("dilated_5x5", 2), ("max_3x3", 2)),
        (("identity", 3), ("separable_3x3", 1)),
        (("average_3x3", 4), ("conv_1x1", 3)),
    ),
    output=(5, 6),
)
STEM_CHANNELS = 32
GPIPE = 18, 512  # normal cells and filters: arXiv:1811.06965v5, section 4
MINIMUM = 3, 16  # one cell per stride, and one filter in the narrowest layer
LISTED = ("amoebanet_b", "amoebanet_b_n6_f64")  # the names that lists of backbones show
_NAME = re.compile(r"amoebanet_b(?:_n(\d+)_f(\d+))?")

Operation = Callable[[int, int, int], nn.Module]  # (input channels, output channels, stride) -> layers


def is_amoebanet(name: str) -> bool:
    """Whether `name` is `amoebanet_b` or `amoebanet_b_nCELLS_fFILTERS`."""
    return _NAME.fullmatch(name) is not None


class AmoebaNet(Backbone):
    """The stem and cells of an AmoebaNet, up to the coarsest of `strides`.

    The map of a level is the output of the last cell at its stride, before any activation.

    Args:
        name: `amoebanet_b`, or `amoebanet_b_nCELLS_fFILTERS` for another size. As on TensorFlow Hub, CELLS is the
            number of normal cells in all three stacks together, which have strides 8, 16 and 32, and FILTERS is the
            number of filters in the first stack. Some papers state the number of cells per stack instead.
        strides: strides of the maps, any of 2, 4, 8, 16, 32.
        input_channels: number of channels of the images.

    Raises UserError for an unknown name or a size below `MINIMUM`, ValueError for another stride.
    """

    def __init__(self, name: str, strides: Sequence[int] = (4, 8, 16, 32), input_channels: int = 3) -> None:
        super().__init__()
        self.name, self.input_channels = name, input_channels
        plan = _plan(*_size(name))
        outputs = [Level(STEM_CHANNELS, 2)]
        outputs += [Level(len(genotype.output) * filters, stride) for genotype, filters, stride in plan]
        selected = sorted(select(outputs, strides))  # the last cell of each stride
        self._selected = frozenset(selected)
        self.levels = tuple(outputs[i] for i in selected)
        self.stem = nn.Sequential(*_conv(input_channels, STEM_CHANNELS, 3, 2))
        self.cells = nn.ModuleList(
            Cell(genotype, outputs[i], outputs[i - 1] if i else None, filters, stride // outputs[i].stride)
            for i, (genotype, filters, stride) in enumerate(plan[: selected[-1]])
        )
        self.apply(initialize)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> [(B, channels, ceil(H / stride), ceil(W / stride)) for each level]."""
        before = x = self.stem(images)
        maps = [x] if 0 in self._selected else []
        for index, cell in enumerate(self.cells, start=1):
            before, x = x, cell(x, before)
            if index in self._selected:
                maps.append(x)
        return maps


class Cell(nn.Module):
    """One cell with the connections of `genotype`.

    Args:
        genotype: NORMAL or REDUCTION.
        inputs: the level of the previous cell's output.
        before: the level of the output before that; None for the first cell, which reads the stem's output twice.
        filters: channels of every state.
        stride: 1, or 2 to halve height and width, rounded up.
    """

    def __init__(self, genotype: Genotype, inputs: Level, before: Level | None, filters: int, stride: int) -> None:
        super().__init__()
        self.genotype = genotype
        self.current = _relu_conv(inputs.channels, filters)
        self.before: nn.Module = nn.Identity()
        if before is not None and before.stride != inputs.stride:
            self.before = FactorizedReduction(before.channels, filters)
        elif before is not None and before.channels != filters:
            self.before = _relu_conv(before.channels, filters)
        channels = {1: inputs.channels if before is None else filters}
        self.branches = nn.ModuleList(
            OPERATIONS[operation](channels.get(state, filters), filters, stride if state < 2 else 1)
            for branches in genotype.sums
            for operation, state in branches
        )

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """Outputs of the previous cell and of the cell before it -> (B, filters * len(genotype.output), H, W)."""
        states = [self.current(x), self.before(before)]
        branches = iter(self.branches)
        for (_, left), (_, right) in self.genotype.sums:
            states.append(next(branches)(states[left]) + next(branches)(states[right]))
        return torch.cat([states[i] for i in self.genotype.output], dim=1)


class FactorizedReduction(nn.Module):
    """Halves height and width: half of the output channels read the even pixels, the other half the odd ones."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs - outputs // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H / 2), ceil(W / 2))."""
        x = x.relu()
        diagonal = F.pad(x, (-1, 1, -1, 1))  # drops the first row and column, appends zeros
        return self.norm(torch.cat([self.even(x), self.odd(diagonal)], dim=1))


def _size(name: str) -> tuple[int, int]:
    """Normal cells and filters from a name. Raises UserError for an unknown name or a network that is too small."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise UserError(f"unknown AmoebaNet '{name}': use amoebanet_b, or amoebanet_b_n6_f64 for another size")
    cells, filters = (int(n) for n in found.groups()) if found[1] else GPIPE
    if cells < MINIMUM[0] or filters < MINIMUM[1]:
        raise UserError(f"'{name}' is too small: it needs at least {MINIMUM[0]} cells and {MINIMUM[1]} filters")
    return cells, filters


def _plan(cells: int, filters: int) -> list[tuple[Genotype, int, int]]:
    """Genotype, filters and stride of every cell.

    The first two reduction cells belong to the stem. Two more separate the three stacks of normal cells.
    """
    plan = [(REDUCTION, filters // 4, 4), (REDUCTION, filters // 2, 8)]
    stride = 8
    for cell in range(cells):
        if cell in (cells // 3, 2 * cells // 3):
            filters, stride = 2 * filters, 2 * stride
            plan.append((REDUCTION, filters, stride))
        plan.append((NORMAL, filters, stride))
    return plan


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    """Convolution without bias, with output size ceil(input size / stride), and batch norm."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)


def _relu_conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), *_conv(inputs, outputs, kernel, stride))


def _identity(inputs: int, outputs: int, stride: int) -> nn.Module:
    unchanged = inputs == outputs and stride == 1
    return nn.Identity() if unchanged else _relu_conv(inputs, outputs, 1, stride)


def _conv_1x1(inputs: int, outputs: int, stride: int) -> nn.Module:
    return _relu_conv(inputs, outputs, 1, stride)


def _conv_3x3(inputs: int, outputs: int, stride: int) -> nn.Module:
    """A bottleneck: 1x1 to a quarter of the filters, 3x3, and 1x1 back."""
    narrow = outputs // 4
    return nn.Sequential(
        *_relu_conv(inputs, narrow), *_relu_conv(narrow, narrow, 3, stride), *_relu_conv(narrow, outputs)
    )


def _separable(kernel: int, dilation: int = 1) -> Operation:
    """ReLU, depthwise convolution, pointwise convolution and batch norm, twice."""

    def build(inputs: int, outputs: int, stride: int) -> nn.Module:
        layers: list[nn.Module] = []
        for channels, step in ((inputs, stride), (outputs, 1)):
            padding = dilation * (kernel // 2)
            depthwise = nn.Conv2d(channels, channels, kernel, step, padding, dilation, groups=channels, bias=False)
            layers += [nn.ReLU(), depthwise, *_conv(channels, outputs)]
        return nn.Sequential(*layers)

    return build


def _pooled(pool: Callable[[int], nn.Module]) -> Operation:
    """Pooling, with a 1x1 convolution after it where the number of channels changes."""

    def build(inputs: int, outputs: int, stride: int) -> nn.Module:
        return pool(stride) if inputs == outputs else nn.Sequential(pool(stride), *_conv(inputs, outputs))

    return build


OPERATIONS: dict[str, Operation] = {
    "identity": _identity,
    "conv_1x1": _conv_1x1,
    "conv_3x3": _conv_3x3,
    "separable_3x3": _separable(3),
    "dilated_5x5": _separable(5, dilation=2),
    "max_2x2": _pooled(lambda stride: nn.MaxPool2d(2, stride, ceil_mode=True)),
    "max_3x3": _pooled(lambda stride: nn.MaxPool2d(3, stride, padding=1)),
    "average_3x3": _pooled(lambda stride: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)),
}
