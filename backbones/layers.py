"""The blocks of a backbone from input to output, and the parameters of the first ones and without weight decay.

Layer-wise learning rates, freezing of early layers and gradient checkpointing need the order of the parameters. timm
states it for its own networks. For all others, it follows from the names of the parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatch

import torch
from torch import nn

from backbones.adapter import TimmBackbone
from backbones.base import Backbone, blank_images, select, trunk_of
from backbones.compat import layer_groups, undecayed_names, whole_network_keys
from backbones.custom import CustomBackbone
from backbones.lora import unparametrised
from backbones.names import split_tag

# Tokens and position tables that some networks of timm do not list in `no_weight_decay`, such as `rel_pos_h` of SAM.
POSITIONS = re.compile(r"(?:^|\.)(?:(?:cls|reg|dist)_token|pos_embed|rel_pos|relative_position)\w*$")
THIRDS = {4: 1, 8: 2, 16: 3, 32: 3}  # of the blocks of a plain transformer, by stride
_NUMBERS = re.compile(r"^(.*?)((?:\.\d+)+)\.(.+)$")


def parameter_blocks(network: nn.Module) -> dict[str, int]:
    """The block of each parameter by name: 0 is the stem or the patch embedding, the highest number the last block.

    Args:
        network: a Backbone, or a whole network of timm.
    """
    whole, names = _published(network)
    groups = layer_groups(whole)
    own = list(names)
    if groups is None:
        return _by_name(own)
    found = {name: groups[names[name]] for name in own if names[name] in groups}
    last = max(found.values(), default=0) + 1  # layers that the published network does not have, such as a pyramid
    used = sorted({found.get(name, last) for name in own})
    return {name: used.index(found.get(name, last)) for name in own}


def undecayed_parameters(network: nn.Module) -> set[str]:
    """Names of the position embeddings, tokens and position tables of a network, which have no weight decay.

    They are those that timm lists for its networks, and any with a usual name. Biases and the parameters of
    normalisation layers are not included.
    """
    whole, names = _published(network)
    patterns = undecayed_names(whole)
    return {
        name
        for name, published in names.items()
        if POSITIONS.search(name) or any(fnmatch(published, pattern) for pattern in patterns)
    }


def early_parameters(network: nn.Module, stride: int, name: str) -> list[nn.Parameter]:
    """The trainable parameters of the first layers of a network: those that the map at `stride` depends on.

    They are found by computing a gradient. All maps of a plain transformer depend on all of its blocks. There, stride 4
    stands for the patch embedding and the first third of the blocks, 8 for two thirds, and 16 and 32 for all.

    Args:
        network: a Backbone, or a whole network of timm.
        stride: a stride of its maps.
        name: name of the backbone.

    Raises ValueError if the network has no map at that stride.
    """
    trunk = trunk_of(network)
    from backbones.plain import is_plain  # imports timm

    if is_plain(split_tag(name)[0]):
        early = _thirds(trunk, stride)
        return [p for key, p in trunk.named_parameters() if key in early and p.requires_grad]
    if not isinstance(network, Backbone):  # its maps are those of timm's extractor, with other names
        with torch.device("meta"):
            extractor = TimmBackbone(split_tag(name)[0])
        keys, published = _early_keys(extractor, stride), extractor.published_names()
        early = {published[key] for key in keys}
    else:
        early = _early_keys(network, stride)
    return [p for key, p in network.named_parameters() if key in early]


def unused_parameters(backbone: Backbone) -> list[nn.Parameter]:
    """The trainable parameters that no map depends on, such as those of a classifier that a network still has."""
    used = _used_keys(backbone, range(len(backbone.levels)))
    return [p for name, p in backbone.named_parameters() if p.requires_grad and name not in used]


def _early_keys(backbone: Backbone, stride: int) -> set[str]:
    """Names of the trainable parameters that the map at `stride` depends on."""
    return _used_keys(backbone, select(backbone.levels, [stride]))


def _used_keys(backbone: Backbone, indices: Iterable[int]) -> set[str]:
    """Names of the trainable parameters that any of these maps depends on."""
    parameters = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
    if not parameters:
        return set()
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    device = next(p.device for p in parameters.values())
    with torch.enable_grad():
        maps = backbone(blank_images(backbone, 128, 128, device=device))
        total = torch.stack([maps[i].sum() for i in indices]).sum()
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    for module, mode in modes.items():
        module.training = mode
    return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _thirds(transformer: nn.Module, stride: int) -> set[str]:
    """Names of the parameters before the end of a third, two thirds or all of the blocks of a plain transformer."""
    if stride not in THIRDS:
        raise ValueError(f"no level at stride [{stride}]; the strides are {list(THIRDS)}")
    blocks = parameter_blocks(transformer)
    numbers = sorted({block for name, block in blocks.items() if name.startswith("blocks.")})
    last = numbers[round(THIRDS[stride] * len(numbers) / 3) - 1]
    return {name for name, block in blocks.items() if block <= last}


def _published(network: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """The network as timm publishes it, and the names of `network`'s parameters there."""
    own = {name: unparametrised(name) for name, _ in network.named_parameters()}
    if isinstance(network, CustomBackbone):  # possibly a network of timm
        return network.network, {name: key.removeprefix("network.") for name, key in own.items()}
    if not isinstance(network, TimmBackbone):
        return network, own
    import timm

    with torch.device("meta"):
        whole = timm.create_model(network.name)
    inner = {name: key.removeprefix("network.") for name, key in own.items()}
    published = whole_network_keys(inner.values(), whole.state_dict())
    return whole, {name: published[key] for name, key in inner.items()}


def _by_name(names: Iterable[str]) -> dict[str, int]:
    """Blocks by the numbers in the names of parameters: `blocks.2.0.conv.weight` belongs to the block `blocks.2.0`.

    A number of a single layer, as in `stages.0.1.weight`, does not count if there is another. Layers without a number
    are part of the block before them; those before the first block are the stem. If no name has a number, each layer is
    a block.
    """
    names = list(names)
    found = {name: _numbered(name) for name in names}
    if not any(found.values()):
        found = {name: name.rpartition(".")[0] for name in names}
    blocks: dict[str, int] = {}
    result: dict[str, int] = {}
    current = 0
    for name in names:
        if (block := found[name]) is not None:
            if not blocks and result:  # after a stem
                blocks[""] = 0
            current = blocks.setdefault(block, len(blocks))
        result[name] = current
    return result


def _numbered(name: str) -> str | None:
    """The block in a name with numbers, see `_by_name`."""
    if (match := _NUMBERS.match(name)) is None:
        return None
    numbers = match[2].split(".")[1:]
    if "." not in match[3] and len(numbers) > 1:
        numbers.pop()
    return ".".join([match[1], *numbers])
