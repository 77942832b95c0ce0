"""Low-rank adaptation (LoRA, arXiv:2106.09685): fine-tune a network by small updates of its linear layers.

The weights of a layer are frozen. Training learns two matrices of a low rank, whose product is added to them. There is
no factor alpha / rank, as with alpha = rank in the paper: the learning rate has the same effect.

The layers are parametrised by torch. The library PEFT wraps them instead. The attention of EVA, BEiT and Swin v2 reads
`qkv.weight` and never calls the layer: there, a wrapped layer would not be trained, without an error. torch also merges
the updates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from backbones.errors import UserError

SHARE = 0.25  # the smallest part of a network's parameters in layers with updates; ResNet-18 has 2%, ResNet-50 51%
# Names of a parametrised weight and of its update in a state dict.
_ORIGINAL, _DOWN, _UP = (f".parametrizations.weight.{name}" for name in ("original", "0.down", "0.up"))
_PARAMETRISED = re.compile(r"\.parametrizations\.(\w+)\.(?:original|\d+\.\w+)$")


class LowRank(nn.Module):
    """Adds `up @ down` to a weight (outputs, inputs). The sum equals the weight at first, because `up` starts from 0.

    Args:
        weight: the weight of a linear layer, or of a 1x1 convolution, (outputs, inputs, 1, 1).
        rank: number of rows of `down` (rank, inputs) and of columns of `up` (outputs, rank).
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        outputs, inputs = weight.flatten(1).shape
        self.down = nn.Parameter(weight.new_empty(rank, inputs))
        self.up = nn.Parameter(weight.new_zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as the authors' code, microsoft/LoRA `loralib/layers.py`

    def forward(self, weight: Tensor) -> Tensor:
        """(outputs, inputs) or (outputs, inputs, 1, 1) -> the same shape."""
        return _sum(weight, self.up, self.down)


def add_low_rank(network: nn.Module, rank: int, name: str) -> list[str]:
    """Freeze a network and add trainable updates of `rank` to its linear layers, in place.

    In transformers these are the layers of attention and MLPs: qkv, proj, fc1 and fc2 in timm. A 1x1 convolution is a
    linear layer over channels: it counts, so that ConvNeXt, EfficientNet and ResNet-50 can be compared with them.
    Layers with no more than `rank` inputs or outputs are left out.

    Args:
        network: a backbone, or the transformer in it.
        rank: rank of the updates.
        name: name of the backbone, for the error message.

    Returns the names of the layers. Raises UserError if they have less than `SHARE` of the network's parameters.
    """
    layers: dict[str, Any] = {key: module for key, module in network.named_modules() if _is_linear(module, rank)}
    share = sum(module.weight.numel() for module in layers.values()) / sum(p.numel() for p in network.parameters())
    if share < SHARE:
        raise UserError(
            f"`protocol='lora'` updates linear layers and 1x1 convolutions with more than {rank} channels, which have "
            f"{100 * share:.0f}% of the parameters of '{name}'; it needs {100 * SHARE:.0f}%. Transformers, ConvNeXt, "
            "EfficientNet and resnet50 have more. To train a part of any backbone, use `protocol='finetune'` with "
            "`freeze_stride`.",
            settings=("protocol", "freeze_stride"),
        )
    network.requires_grad_(False)
    for module in layers.values():
        parametrize.register_parametrization(module, "weight", LowRank(module.weight, rank))
    return list(layers)


def _is_linear(module: nn.Module, rank: int) -> bool:
    """Whether a module is a linear layer over channels, with more than `rank` inputs and outputs."""
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1 and min(module.weight.shape[:2]) > rank
    return isinstance(module, nn.Linear) and min(module.weight.shape) > rank


def _sum(weight: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return weight + (up @ down).view_as(weight)


def merge_low_rank(network: nn.Module) -> None:
    """Add the updates of `add_low_rank` to the weights and remove them, in place. Other networks are left unchanged."""
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight") and isinstance(module.parametrizations.weight[0], LowRank):  # type: ignore[index, union-attr]
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def merged_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict that a network with updates has after `merge_low_rank`, from the one before."""
    merged = {}
    for key, value in state.items():
        if key.endswith(_ORIGINAL):
            layer = key.removesuffix(_ORIGINAL)
            merged[f"{layer}.weight"] = _sum(value, state[layer + _UP], state[layer + _DOWN])
        elif not key.endswith((_UP, _DOWN)):
            merged[key] = value
    return merged


def unparametrised(name: str) -> str:
    """The name of the weight that a parameter belongs to: `fc1.parametrizations.weight.0.up` -> `fc1.weight`."""
    return _PARAMETRISED.sub(r".\1", name)
