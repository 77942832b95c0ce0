"""EfficientNet: one baseline network, and one coefficient phi that widens, deepens and enlarges it together.

What its stages are is in `architecture.py`; here they become layers (arXiv:1905.11946, section 4, and where it is
silent tensorflow/tpu `models/official/efficientnet/efficientnet_model.py`). Parameters are named as in timm, so that
published weights load as they are.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from backbones.architecture import Architecture, architecture_of
from backbones.base import Backbone, Level, select
from backbones.mbconv import Activation, DepthwiseSeparableBlock, MBConv, Parts, initialize
from backbones.memory_efficient import norm_act, relu6, spatial_mean, swish


def _levels(architecture: Architecture) -> list[Level]:
    """Where each stage ends. Several share a stride; the last of them is that stride's level."""
    strides = itertools.accumulate((stage.stride for stage in architecture.stages), operator.mul, initial=2)
    return [Level(stage.channels, s) for stage, s in zip(architecture.stages, list(strides)[1:], strict=True)]


class EfficientNet(Backbone):
    """Stem and stages of the EfficientNet called `name`, as far as the coarsest of `strides` needs them.

    Args:
        name: as `architecture.architecture_of` knows it: `efficientnet_b0`, or STUDY#NETWORK.
        strides: strides of the maps to return, any of 2, 4, 8, 16, 32.
        stochastic_depth: rate of the last block; it grows linearly from 0 at the first. None by default, as in
            EfficientDet (google/automl, `survival_prob`): it is made for hundreds of epochs of classification.

    Raises UserError for an unknown name, ValueError for a stride that no stage has.
    """

    def __init__(self, name: str, strides: Sequence[int] = (4, 8, 16, 32), stochastic_depth: float = 0.0) -> None:
        super().__init__()
        self.name = name
        architecture = architecture_of(name)
        act: Activation = relu6 if architecture.lite else swish
        self.act = act
        parts = Parts(act, architecture.tensorflow, 1e-3 if architecture.tensorflow else 1e-5)

        channels = architecture.stem
        self.conv_stem = parts.conv(3, channels, 3, stride=2)
        self.bn1 = parts.norm(channels)
        stage_levels = _levels(architecture)
        wanted = sorted(select(stage_levels, strides))
        self._taps = frozenset(wanted)
        self.levels = tuple(stage_levels[stage] for stage in wanted)

        blocks_in_total, built = sum(stage.repeats for stage in architecture.stages), 0
        self.blocks = nn.Sequential()
        for stage in architecture.stages[: wanted[-1] + 1]:
            blocks = nn.Sequential()
            of_stage = replace(parts, squeeze=stage.squeeze)
            for repeat in range(stage.repeats):
                stride, outputs = (stage.stride if repeat == 0 else 1), stage.channels
                drop = stochastic_depth * built / blocks_in_total
                blocks.append(
                    DepthwiseSeparableBlock(channels, outputs, stage.kernel, stride, of_stage, drop)
                    if stage.expansion == 1
                    else MBConv(channels, outputs, stage.kernel, stride, stage.expansion, of_stage, drop)
                )
                channels, built = outputs, built + 1
            self.blocks.append(blocks)
        self.apply(initialize)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, channels, ceil(H / stride), ceil(W / stride)) for each level]."""
        x = norm_act(self.bn1, self.act, self.conv_stem(images))
        maps = []
        for index, blocks in enumerate(self.blocks):
            x = blocks(x)
            if index in self._taps:
                maps.append(x)
        return maps


class EfficientNetClassifier(nn.Module):
    """The published classifier: EfficientNet to stride 32, a 1x1 convolution, mean over space, dropout, linear layer.

    Args:
        name: as `architecture.architecture_of` knows it.
        num_classes: K, outputs of the last layer.
        stochastic_depth: rate of the last block.
        dropout: rate before the last layer; None takes the paper's for this member of the family.
    """

    def __init__(
        self, name: str, num_classes: int = 1000, stochastic_depth: float = 0.2, dropout: float | None = None
    ) -> None:
        super().__init__()
        network = EfficientNet(name, strides=(32,), stochastic_depth=stochastic_depth)
        architecture = architecture_of(name)
        self.name, self.levels, self.act = name, network.levels, network.act
        self.conv_stem, self.bn1, self.blocks = network.conv_stem, network.bn1, network.blocks
        features = architecture.head
        self.conv_head = nn.Conv2d(network.levels[-1].channels, features, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(features, eps=network.bn1.eps)
        self.dropout = nn.Dropout(architecture.dropout if dropout is None else dropout)
        self.classifier = nn.Linear(features, num_classes)
        for layer in (self.conv_head, self.classifier):
            initialize(layer)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, K)."""
        x = self.blocks(norm_act(self.bn1, self.act, self.conv_stem(images)))
        x = norm_act(self.bn2, self.act, self.conv_head(x))
        return self.classifier(self.dropout(spatial_mean(x).flatten(1)))
