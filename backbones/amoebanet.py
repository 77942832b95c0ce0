"""AmoebaNet-B, found by evolution, and the network that GPipe trained: 18 normal cells, 512 filters, 557M parameters.

Genotype: arXiv:1802.01548, supplement D, as encoded in tensorflow/tpu `models/official/amoeba_net`, `model_specs.py`;
stem, cells and what joins them: `model_builder.py` and `network_utils.py` there. Two things differ. Padding is
symmetric, the stem's included, so that maps of any image measure ceil(size / stride); no published weights ask for
TensorFlow's. And the reduction cell's 5x5 convolutions are dilated, as the genotype says: that code ignores the word.
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
    """How a cell is wired: five sums of two branches each.

    Attributes:
        sums: the branches, as (operation, state). State 0 is the map from the cell before, 1 that from the one before
            it, both brought to the cell's filters and size; what sum i gives is state i + 2.
        output: the states that are concatenated. That code puts state 0 among a normal cell's, the paper's figure does
            not; without it GPipe's network would have 498M parameters.
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
LEAST = 3, 16  # one cell a stride, and one filter in the narrowest layer
LISTED = ("amoebanet_b", "amoebanet_b_n6_f64")  # of the endless family
_NAME = re.compile(r"amoebanet_b(?:_n(\d+)_f(\d+))?")

Operation = Callable[[int, int, int], nn.Module]  # from channels in, channels out and stride


def is_amoebanet(name: str) -> bool:
    """Whether `name` is `amoebanet_b`, or `amoebanet_b_nCELLS_fFILTERS` for another size of it."""
    return _NAME.fullmatch(name) is not None


class AmoebaNet(Backbone):
    """Stem and cells of the AmoebaNet called `name`, as far as the coarsest of `strides` needs them.

    A level is what the last cell of its stride gives, before any activation.

    Args:
        name: `amoebanet_b`, or `amoebanet_b_nCELLS_fFILTERS`, counted as on TensorFlow Hub: normal cells in all, in
            three stacks at strides 8, 16 and 32, and filters of the first stack. (Papers also count cells by stack.)
        strides: strides of the maps to return, any of 2, 4, 8, 16, 32.

    Raises UserError for another name and for a network too small, ValueError for a stride that there is not.
    """

    def __init__(self, name: str, strides: Sequence[int] = (4, 8, 16, 32)) -> None:
        super().__init__()
        self.name = name
        plan = _plan(*_size(name))
        outputs = [Level(STEM_CHANNELS, 2)]
        outputs += [Level(len(genotype.output) * filters, stride) for genotype, filters, stride in plan]
        wanted = sorted(select(outputs, strides))  # the last of each stride
        self._taps = frozenset(wanted)
        self.levels = tuple(outputs[i] for i in wanted)
        self.stem = nn.Sequential(*_conv(3, STEM_CHANNELS, 3, 2))
        self.cells = nn.ModuleList(
            Cell(genotype, outputs[i], outputs[i - 1] if i else None, filters, stride // outputs[i].stride)
            for i, (genotype, filters, stride) in enumerate(plan[: wanted[-1]])
        )
        self.apply(initialize)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, channels, ceil(H / stride), ceil(W / stride)) for each level]."""
        before = x = self.stem(images)
        maps = [x] if 0 in self._taps else []
        for index, cell in enumerate(self.cells, start=1):
            before, x = x, cell(x, before)
            if index in self._taps:
                maps.append(x)
        return maps


class Cell(nn.Module):
    """A cell wired as `genotype` says.

    Args:
        genotype: NORMAL or REDUCTION.
        inputs: the map from the cell before.
        before: the map from the one before it; None where there is none: then it is `inputs` once more, as it is.
        filters: channels of every state.
        stride: 2 halves height and width, rounding up.
    """

    def __init__(self, genotype: Genotype, inputs: Level, before: Level | None, filters: int, stride: int) -> None:
        super().__init__()
        self.genotype = genotype
        self.current = _relu_conv(inputs.channels, filters)
        self.before: nn.Module = nn.Identity()
        if before is not None and before.stride != inputs.stride:
            self.before = Halving(before.channels, filters)
        elif before is not None and before.channels != filters:
            self.before = _relu_conv(before.channels, filters)
        channels = {1: inputs.channels if before is None else filters}
        self.branches = nn.ModuleList(
            OPERATIONS[operation](channels.get(state, filters), filters, stride if state < 2 else 1)
            for branches in genotype.sums
            for operation, state in branches
        )

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """Maps from the last cell and the one before it -> (B, filters * len(genotype.output), H, W)."""
        states = [self.current(x), self.before(before)]
        branches = iter(self.branches)
        for (_, left), (_, right) in self.genotype.sums:
            states.append(next(branches)(states[left]) + next(branches)(states[right]))
        return torch.cat([states[i] for i in self.genotype.output], dim=1)


class Halving(nn.Module):
    """Factorised reduction: the even pixels and those diagonally below, each to half of the channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs - outputs // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H / 2), ceil(W / 2))."""
        x = x.relu()
        diagonal = F.pad(x, (-1, 1, -1, 1))  # one row and column off the start, zeros at the end
        return self.norm(torch.cat([self.even(x), self.odd(diagonal)], dim=1))


def _size(name: str) -> tuple[int, int]:
    """Normal cells and filters. Raises UserError."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise UserError(f"'{name}' is no AmoebaNet known here: amoebanet_b is, or amoebanet_b_n6_f64 for another size")
    cells, filters = (int(n) for n in found.groups()) if found[1] else GPIPE
    if cells < LEAST[0] or filters < LEAST[1]:
        raise UserError(f"'{name}' is too small: it takes {LEAST[0]} cells and {LEAST[1]} filters at least")
    return cells, filters


def _plan(cells: int, filters: int) -> list[tuple[Genotype, int, int]]:
    """Genotype, filters and stride of every cell: two reductions as stem, and two more that part three stacks."""
    plan = [(REDUCTION, filters // 4, 4), (REDUCTION, filters // 2, 8)]
    stride = 8
    for cell in range(cells):
        if cell in (cells // 3, 2 * cells // 3):
            filters, stride = 2 * filters, 2 * stride
            plan.append((REDUCTION, filters, stride))
        plan.append((NORMAL, filters, stride))
    return plan


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    """Convolution without bias whose output measures ceil(input / stride), and batch norm."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)


def _relu_conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), *_conv(inputs, outputs, kernel, stride))


def _identity(inputs: int, outputs: int, stride: int) -> nn.Module:
    same = inputs == outputs and stride == 1
    return nn.Identity() if same else _relu_conv(inputs, outputs, 1, stride)


def _conv_1x1(inputs: int, outputs: int, stride: int) -> nn.Module:
    return _relu_conv(inputs, outputs, 1, stride)


def _conv_3x3(inputs: int, outputs: int, stride: int) -> nn.Module:
    """In between two 1x1 convolutions, with a quarter of the filters."""
    narrow = outputs // 4
    return nn.Sequential(
        *_relu_conv(inputs, narrow), *_relu_conv(narrow, narrow, 3, stride), *_relu_conv(narrow, outputs)
    )


def _separable(kernel: int, dilation: int = 1) -> Operation:
    """Twice: ReLU, depthwise and pointwise convolution, batch norm."""

    def build(inputs: int, outputs: int, stride: int) -> nn.Module:
        layers: list[nn.Module] = []
        for channels, step in ((inputs, stride), (outputs, 1)):
            padding = dilation * (kernel // 2)
            depthwise = nn.Conv2d(channels, channels, kernel, step, padding, dilation, groups=channels, bias=False)
            layers += [nn.ReLU(), depthwise, *_conv(channels, outputs)]
        return nn.Sequential(*layers)

    return build


def _pooled(pool: Callable[[int], nn.Module]) -> Operation:
    """What `pool` makes of a stride; a convolution behind it where channels differ."""

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
