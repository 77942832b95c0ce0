"""EfficientNet (arXiv:1905.11946): a baseline network and its scaled family, as a backbone and as a classifier.

This module builds the layers of the stages in `architecture.py`. For what section 4 of the paper does not state, it
follows tensorflow/tpu `models/official/efficientnet/efficientnet_model.py`. Parameters have the same names as in timm,
so that published weights load unchanged.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from backbones.architecture import Architecture, architecture_of
from backbones.base import Backbone, Level, select
from backbones.mbconv import Activation, BlockLayers, DepthwiseSeparableBlock, MBConv, initialize
from backbones.memory_efficient import norm_act, relu6, spatial_mean, swish


def _levels(architecture: Architecture) -> list[Level]:
    """The output level of each stage. Several stages can have the same stride; `select` chooses the last one."""
    strides = itertools.accumulate((stage.stride for stage in architecture.stages), operator.mul, initial=2)
    return [Level(stage.channels, s) for stage, s in zip(architecture.stages, list(strides)[1:], strict=True)]


class EfficientNet(Backbone):
    """The stem and stages of an EfficientNet, up to the coarsest of `strides`.

    Args:
        name: a name that `architecture.architecture_of` accepts: `efficientnet_b0`, or `STUDY#NETWORK`.
        strides: strides of the maps, any of 2, 4, 8, 16, 32.
        stochastic_depth: drop rate of the last block; it grows linearly from 0 at the first block. The default 0
            follows EfficientDet (google/automl, `survival_prob`): stochastic depth is meant for classification
            trainings of hundreds of epochs.
        input_channels: number of channels of the images.

    Raises UserError for an unknown name, ValueError for a stride that no stage has.
    """

    def __init__(
        self, name: str, strides: Sequence[int] = (4, 8, 16, 32), stochastic_depth: float = 0.0, input_channels: int = 3
    ) -> None:
        super().__init__()
        self.name, self.input_channels = name, input_channels
        architecture = architecture_of(name)
        act: Activation = relu6 if architecture.lite else swish
        self.act = act
        layers = BlockLayers(act, architecture.tensorflow, 1e-3 if architecture.tensorflow else 1e-5)

        channels = architecture.stem
        self.conv_stem = layers.conv(input_channels, channels, 3, stride=2)
        self.bn1 = layers.norm(channels)
        stage_levels = _levels(architecture)
        selected = sorted(select(stage_levels, strides))
        self._selected = frozenset(selected)
        self.levels = tuple(stage_levels[stage] for stage in selected)

        total_blocks, built = sum(stage.repeats for stage in architecture.stages), 0
        self.blocks = nn.Sequential()
        for stage in architecture.stages[: selected[-1] + 1]:
            blocks = nn.Sequential()
            stage_layers = replace(layers, squeeze=stage.squeeze)
            for repeat in range(stage.repeats):
                stride, outputs = (stage.stride if repeat == 0 else 1), stage.channels
                drop = stochastic_depth * built / total_blocks
                blocks.append(
                    DepthwiseSeparableBlock(channels, outputs, stage.kernel, stride, stage_layers, drop)
                    if stage.expansion == 1
                    else MBConv(channels, outputs, stage.kernel, stride, stage.expansion, stage_layers, drop)
                )
                channels, built = outputs, built + 1
            self.blocks.append(blocks)
        self.apply(initialize)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> [(B, channels, ceil(H / stride), ceil(W / stride)) for each level]."""
        x = norm_act(self.bn1, self.act, self.conv_stem(images))
        maps = []
        for index, blocks in enumerate(self.blocks):
            x = blocks(x)
            if index in self._selected:
                maps.append(x)
        return maps


class EfficientNetClassifier(nn.Module):
    """The published classifier: EfficientNet, a 1x1 convolution, the mean over all pixels, dropout and a linear layer.

    Args:
        name: a name that `architecture.architecture_of` accepts.
        num_classes: K, the number of classes.
        stochastic_depth: drop rate of the last block, see `EfficientNet`.
        dropout: rate before the linear layer; None for the published rate of this network.
        input_channels: number of channels of the images.

    Raises UserError for an unknown name.
    """

    def __init__(
        self,
        name: str,
        num_classes: int = 1000,
        stochastic_depth: float = 0.2,
        dropout: float | None = None,
        input_channels: int = 3,
    ) -> None:
        super().__init__()
        network = EfficientNet(name, (32,), stochastic_depth, input_channels)
        self.input_channels = input_channels
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
        """(B, C, H, W) -> logits (B, K)."""
        x = self.blocks(norm_act(self.bn1, self.act, self.conv_stem(images)))
        x = norm_act(self.bn2, self.act, self.conv_head(x))
        return self.classifier(self.dropout(spatial_mean(x).flatten(1)))
