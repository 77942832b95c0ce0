"""What is trained, and how: parameter groups, optimiser, learning rate schedule, and the parts that stay frozen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from backbones.base import trunk_of
from backbones.checkpointing import checkpoint_blocks
from backbones.custom import CustomBackbone
from backbones.errors import UserError
from backbones.inference import BATCH_NORMS
from backbones.layers import early_parameters, parameter_blocks, undecayed_parameters, unused_parameters
from backbones.lora import add_low_rank
from engine.config import TrainConfig

PARTS = 8  # number of different learning rates between a backbone's first and last layer


def warmup_cosine(step: int, warmup: int, steps: int) -> float:
    """Factor on the learning rate: linear from 1 / `warmup` to 1, then half a cosine down to 0 at `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup)))


def parameter_groups(model: nn.Module, lr: float, backbone_lr: float, decay: float) -> Iterator[dict[str, Any]]:
    """Group the trainable parameters by learning rate and weight decay.

    Args:
        model: has a `backbone`.
        lr: learning rate of all but the backbone.
        backbone_lr: factor on `lr` for the backbone's trunk.
        decay: weight decay of convolution and linear weights. Biases, normalisation layers and fusion weights, which
            have at most one dimension, and the backbone's tokens and position embeddings have none.
    """
    trunk = trunk_of(model.backbone)  # type: ignore[arg-type]
    backbone = {id(p) for p in trunk.parameters()}
    exempt = undecayed_parameters(trunk) if decay else set()
    undecayed = {id(p) for name, p in trunk.named_parameters() if name in exempt}
    for in_backbone in (True, False):
        for decays in (True, False):
            chosen = [
                p for p in model.parameters()
                if p.requires_grad
                and (id(p) in backbone) == in_backbone
                and (p.ndim > 1 and id(p) not in undecayed) == decays
            ]  # fmt: skip
            if chosen:
                yield {
                    "params": chosen,
                    "lr": lr * backbone_lr if in_backbone else lr,
                    "weight_decay": decay if decays else 0.0,
                }


def by_depth(groups: list[dict[str, Any]], layers: list[nn.Parameter], first: float) -> Iterator[dict[str, Any]]:
    """Split parameter groups so that learning rates decrease geometrically towards the input, in eight parts.

    The parts have equal numbers of tensors, so that networks of any depth get the same rates at stem and last layer.

    Args:
        groups: parameter groups of an optimiser. Parameters that are not in `layers` keep their learning rate.
        layers: parameters from input to output, see `by_block`.
        first: factor on the learning rate of the first part. That of the last part is 1.
    """
    part = {id(p): i * PARTS // len(layers) for i, p in enumerate(layers)}
    for group in groups:
        for step in [None, *range(PARTS)]:
            chosen = [p for p in group["params"] if part.get(id(p)) == step]
            factor = 1.0 if step is None else first ** (1 - step / (PARTS - 1))
            if chosen:
                yield group | {"params": chosen, "lr": group["lr"] * factor}


def by_block(backbone: nn.Module) -> list[nn.Parameter]:
    """The parameters of a backbone's trunk from input to output."""
    trunk = trunk_of(backbone)
    block = parameter_blocks(trunk)
    return [p for _, p in sorted(trunk.named_parameters(), key=lambda item: block[item[0]])]


def create_optimizer(name: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser "adamw", "sgd" or "rmsprop" for these parameter groups."""
    if name == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, fused=True)
    # tensorflow/tpu models/official/efficientnet/utils.py: decay 0.9, momentum 0.9, epsilon 1e-3.
    return torch.optim.RMSprop(groups, alpha=0.9, momentum=0.9, eps=1e-3)


def apply_protocol(model: nn.Module, final_layer: Iterable[nn.Module], config: TrainConfig) -> list[nn.Module]:
    """Freeze the parameters that the protocol does not train, and add those of low-rank updates.

    `linear` trains the modules of `final_layer` alone. Returns the batch norms that must stay in
    evaluation mode: those between the layers of low-rank updates.
    """
    trunk = trunk_of(model.backbone)  # type: ignore[arg-type]
    if config.protocol == "frozen":
        trunk.requires_grad_(False)
    elif config.protocol == "lora":
        add_low_rank(trunk, config.lora_rank, config.backbone)
        return [module for module in trunk.modules() if isinstance(module, BATCH_NORMS)]
    elif config.protocol == "linear":
        model.requires_grad_(False)
        for module in final_layer:
            module.requires_grad_(True)
    return []


def apply_checkpointing(backbone: nn.Module, name: str) -> None:
    """Gradient checkpointing of the blocks of a backbone. Raises UserError if it has no blocks of several layers."""
    if not checkpoint_blocks(trunk_of(backbone)):
        raise UserError(
            f"`checkpointing=True` has no effect on '{name}': it has no blocks of several layers. Leave it out.",
            settings=("checkpointing",),
        )


def freeze_unused(backbone: nn.Module) -> None:
    """Freeze parameters of a user's network that no map depends on. Several processes would wait for their gradients.

    They have no gradient in a single process either, so that they are not trained there.
    """
    if isinstance(backbone, CustomBackbone):
        for parameter in unused_parameters(backbone):
            parameter.requires_grad_(False)


def freeze_early(backbone: nn.Module, config: TrainConfig) -> list[nn.Module]:
    """Freeze the stem and the stages up to `config.freeze_stride` in fine-tuning. Returns the frozen modules.

    Raises UserError if the backbone has no map with this stride.
    """
    if config.protocol != "finetune" or not config.pretrained or not config.freeze_stride:
        return []
    try:
        early = {id(p) for p in early_parameters(backbone, config.freeze_stride, config.backbone)}
    except ValueError as error:
        stride = config.freeze_stride
        raise UserError(f"`freeze_stride={stride}` is not possible: {error}", settings=("freeze_stride",)) from error
    for parameter in backbone.parameters():
        parameter.requires_grad_(id(parameter) not in early)
    owned = {module: list(module.parameters(recurse=False)) for module in backbone.modules()}
    return [module for module, own in owned.items() if own and all(id(p) in early for p in own)]
