"""Low-rank updates: the same function at first, the same function when merged, and nothing else is trained."""

import copy

import pytest
import timm
import torch

from backbones import create_backbone, prepare_for_inference
from backbones.errors import UserError
from backbones.layers import parameter_blocks
from backbones.lora import add_low_rank, merge_low_rank, merged_state

TINY = {"img_size": 32, "depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": 0}
NETWORKS = {
    "vit": ("vit_tiny_patch16_224", TINY),
    "eva": ("eva02_tiny_patch14_224", TINY | {"img_size": 28}),  # its attention reads weights and calls no layer
    "beit": ("beit_base_patch16_224", TINY),
}


def trained(network, images):
    """The network after three steps of training, so that both matrices differ from their initial values."""
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 0.05)
    for _ in range(3):
        optimizer.zero_grad()
        network(images).pow(2).mean().backward()
        optimizer.step()
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_updates_of_a_transformer(name):
    torch.manual_seed(0)
    architecture, options = NETWORKS[name]
    base = timm.create_model(architecture, **options).eval()
    images = torch.randn(2, 3, options["img_size"], options["img_size"])
    network = copy.deepcopy(base)
    layers = add_low_rank(network, 4, architecture)
    assert {key.rpartition(".")[2] for key in layers} >= {"qkv", "proj"}
    assert torch.equal(network(images), base(images))

    before = {key: value.clone() for key, value in network.state_dict().items()}
    trained(network, images)
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    updates = {f"{layer}.parametrizations.weight.0.{part}" for layer in layers for part in ("up", "down")}
    assert changed == updates
    outputs = network(images)
    assert not torch.allclose(outputs, base(images), atol=1e-3)

    loaded = copy.deepcopy(base)
    loaded.load_state_dict(merged_state(network.state_dict()))
    torch.testing.assert_close(loaded(images), outputs, rtol=1e-5, atol=1e-5)
    merge_low_rank(network)
    assert network.state_dict().keys() == base.state_dict().keys()
    torch.testing.assert_close(network(images), outputs, rtol=1e-5, atol=1e-5)


def test_inference_folds_the_updates_of_a_pyramid():
    torch.manual_seed(0)
    backbone = create_backbone("convnext_atto").eval()
    assert len(add_low_rank(backbone, 8, "convnext_atto")) == 24  # two layers in each of 12 blocks
    for name, parameter in backbone.named_parameters():
        if name.endswith(".up"):
            torch.nn.init.normal_(parameter, std=0.1)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = backbone(images)
        folded = prepare_for_inference(backbone)
        for ours, theirs in zip(folded(images), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not any("parametrizations" in name for name in folded.state_dict())


def test_an_update_belongs_to_the_block_of_its_layer():
    with torch.device("meta"):
        backbone = create_backbone("swin_tiny_patch4_window7_224")
        before = parameter_blocks(backbone)
        add_low_rank(backbone, 4, "swin")
    after = parameter_blocks(backbone)
    layer = "network.layers_2.blocks.3.mlp.fc1"
    parts = {after[f"{layer}.parametrizations.weight.{part}"] for part in ("original", "0.up", "0.down")}
    assert parts == {before[f"{layer}.weight"]}


def test_a_network_of_3x3_convolutions_is_refused():
    with torch.device("meta"):
        network = create_backbone("resnet18")
        other = create_backbone("resnet50")
    with pytest.raises(UserError, match="have 2% of the parameters of 'resnet18'") as error:
        add_low_rank(network, 8, "resnet18")
    assert "freeze_stride" in error.value.settings
    assert len(add_low_rank(other, 8, "resnet50")) == 36  # two in each of 16 blocks, and four shortcuts
