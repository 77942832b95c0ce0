"""Learning rates and weight decay of the parts of a joint network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.optimization import by_block, by_depth, parameter_groups
from experiments.joint.config import JointTrainConfig
from experiments.joint.network import JointNetwork


def joint_groups(
    network: JointNetwork, config: JointTrainConfig, heads: Mapping[str, Any], pretrained: bool
) -> tuple[list[dict[str, Any]], float]:
    """Parameter groups of an optimiser, and the learning rate of the neck.

    A head has the learning rate of its own settings. Those of backbone and neck are the means over the heads, weighted
    by the heads' loss weights.

    Args:
        network: the network.
        config: settings of the training.
        heads: settings of each head.
        pretrained: whether the backbone has pretrained weights, for which `backbone_lr` is meant.
    """
    weights = config.weights

    def mean(values: Mapping[str, float]) -> float:
        return sum(weights[name] * values[name] for name in weights) / sum(weights.values())

    shared = mean({name: own.lr for name, own in heads.items()})
    factor = mean({name: own.lr * own.backbone_lr for name, own in heads.items()}) / shared
    used = [name for name, weight in weights.items() if weight]
    if len(used) == 1:
        factor = heads[used[0]].backbone_lr  # without the rounding of the quotient
    rates = {
        id(p): own.lr for name, own in heads.items() for part in network.own_parts(name).values()
        for p in part.parameters()
    }  # fmt: skip
    groups = []
    for group in parameter_groups(network, shared, factor if pretrained else 1.0, config.weight_decay):
        found: dict[float, list[Any]] = {}
        for parameter in group["params"]:
            found.setdefault(rates.get(id(parameter), group["lr"]), []).append(parameter)
        groups += [group | {"params": params, "lr": rate} for rate, params in found.items()]
    if config.first_layer_lr != 1:
        groups = list(by_depth(groups, by_block(network.backbone), config.first_layer_lr))
    return groups, shared
