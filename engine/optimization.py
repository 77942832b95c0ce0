"""What is trained, and how: parameter groups, optimiser, learning rate schedule, and the parts that stay frozen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from backbones.base import Backbone, early_parameters, trunk_of
from backbones.errors import UserError
from engine.config import TrainConfig


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
            have at most one dimension, have none.
    """
    backbone = {id(p) for p in trunk_of(model.backbone).parameters()}  # type: ignore[arg-type]
    for in_backbone in (True, False):
        for decays in (True, False):
            chosen = [
                p for p in model.parameters()
                if p.requires_grad and (id(p) in backbone) == in_backbone and (p.ndim > 1) == decays
            ]  # fmt: skip
            if chosen:
                yield {
                    "params": chosen,
                    "lr": lr * backbone_lr if in_backbone else lr,
                    "weight_decay": decay if decays else 0.0,
                }


def create_optimizer(name: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser "adamw", "sgd" or "rmsprop" for these parameter groups."""
    if name == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, fused=True)
    # tensorflow/tpu models/official/efficientnet/utils.py: decay 0.9, momentum 0.9, epsilon 1e-3.
    return torch.optim.RMSprop(groups, alpha=0.9, momentum=0.9, eps=1e-3)


def apply_protocol(model: nn.Module, final_layer: Iterable[nn.Module], protocol: str) -> None:
    """Freeze the parameters that the protocol does not train. `linear` trains the modules of `final_layer` alone."""
    if protocol == "frozen":
        trunk_of(model.backbone).requires_grad_(False)  # type: ignore[arg-type]
    elif protocol == "linear":
        model.requires_grad_(False)
        for module in final_layer:
            module.requires_grad_(True)


def freeze_early(backbone: Backbone, config: TrainConfig) -> list[nn.Module]:
    """Freeze the stem and the stages up to `config.freeze_stride` in fine-tuning. Returns the frozen modules.

    Raises UserError if the backbone has no map with this stride.
    """
    if config.protocol != "finetune" or not config.pretrained or not config.freeze_stride:
        return []
    try:
        early = {id(p) for p in early_parameters(backbone, config.freeze_stride)}
    except ValueError as error:
        stride = config.freeze_stride
        raise UserError(f"`freeze_stride={stride}` is not possible: {error}", settings=("freeze_stride",)) from error
    for parameter in backbone.parameters():
        parameter.requires_grad_(id(parameter) not in early)
    owned = {module: list(module.parameters(recurse=False)) for module in backbone.modules()}
    return [module for module, own in owned.items() if own and all(id(p) in early for p in own)]
