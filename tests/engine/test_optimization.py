"""Learning rates and weight decays of parameter groups."""

import pytest
import timm
import torch

from backbones.errors import UserError
from detection.config import TrainConfig
from detection.model import create_detector
from engine.optimization import by_block, by_depth, parameter_groups


def test_learning_rates_decrease_towards_the_input():
    layers = [torch.nn.Parameter(torch.zeros(1)) for _ in range(16)]
    head = torch.nn.Parameter(torch.zeros(1))
    groups = [{"params": [*layers[::2]], "lr": 0.1, "weight_decay": 1.0}, {"params": [*layers[1::2], head], "lr": 0.2}]
    split = list(by_depth(groups, layers, 0.01))
    rate = {id(p): group["lr"] for group in split for p in group["params"]}
    assert len(rate) == 17
    assert rate[id(head)] == 0.2
    assert rate[id(layers[0])] == pytest.approx(0.001)
    assert rate[id(layers[14])] == pytest.approx(0.1)
    assert rate[id(layers[15])] == pytest.approx(0.2)
    assert rate[id(layers[8])] == pytest.approx(0.1 * 0.01 ** (3 / 7))
    assert {group.get("weight_decay") for group in split} == {1.0, None}


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "swin_tiny_patch4_window7_224"])
def test_registered_order_is_the_order_of_blocks(name):
    """So that learning rates by depth are those of earlier versions, which used the registered order."""
    with torch.device("meta"):
        backbone = create_detector(name, 2).backbone
    assert list(map(id, by_block(backbone))) == list(map(id, backbone.parameters()))


def test_tokens_and_tables_of_a_backbone_have_no_weight_decay():
    with torch.device("meta"):
        model = torch.nn.Module()
        model.backbone = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=0)
        model.head = torch.nn.Linear(192, 2)
    groups = list(parameter_groups(model, 0.1, 0.5, 0.05))
    settings = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    found = {name: settings[id(p)] for name, p in model.named_parameters()}
    assert found["backbone.pos_embed"] == found["backbone.cls_token"] == (0.05, 0.0)
    assert found["backbone.blocks.0.norm1.weight"] == found["backbone.blocks.0.attn.qkv.bias"] == (0.05, 0.0)
    assert found["backbone.blocks.0.attn.qkv.weight"] == (0.05, 0.05)
    assert (found["head.weight"], found["head.bias"]) == ((0.1, 0.05), (0.1, 0.0))


@pytest.mark.parametrize(("name", "value"), [("first_layer_lr", 0), ("first_layer_lr", 2), ("stochastic_depth", 1)])
def test_values_out_of_range(name, value):
    with pytest.raises(UserError, match=f"--{name} {value} is out of range"):
        TrainConfig(**{name: value}).check()
