"""Gradient checkpointing changes what is stored in memory and nothing else."""

import copy

import pytest
import timm
import torch

from backbones import create_backbone
from backbones.checkpointing import block_modules, checkpoint_blocks


def step(network, images):
    """Outputs, gradients and buffers after a step in training mode, and the bytes kept for the backward pass."""
    torch.manual_seed(1)  # of stochastic depth
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept = {}  # the tensors, so that no storage is used again

    def pack(tensor):
        place = tensor.untyped_storage().data_ptr()
        if place not in parameters:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = network(images)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    torch.stack([x.pow(2).mean() for x in outputs]).sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return outputs, gradients, dict(network.named_buffers()), size


def compare(network, images):
    """Assert that checkpointing computes the same. Returns the factor by which it lowers memory."""
    network.train()
    other = copy.deepcopy(network)
    assert checkpoint_blocks(other)
    expected, found = step(network, images), step(other, images)
    for theirs, ours in zip(expected[0], found[0], strict=True):
        assert torch.equal(ours, theirs)
    for theirs, ours in zip(expected[1:3], found[1:3], strict=True):
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    return expected[3] / found[3]


@pytest.mark.parametrize(
    ("name", "drop", "least"),
    [
        ("tf_efficientnet_lite0", 0.3, 5),
        ("efficientnet_b0", 0.3, 5),  # batch norm and swish in one function
        ("resnet18", 0.3, 1.5),
        ("convnext_atto", 0.3, 4),
        ("hrnet_w18_small", None, 2),  # changes a list of maps in place
    ],
)
def test_outputs_gradients_and_statistics_are_the_same(name, drop, least):
    torch.manual_seed(0)
    network = create_backbone(name, stochastic_depth=drop)
    assert compare(network, torch.randn(2, 3, 64, 64)) > least


def test_a_transformer_and_a_copy_of_it():
    torch.manual_seed(0)
    network = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, depth=3, embed_dim=48, num_heads=3, drop_path_rate=0.3, num_classes=0
    )
    assert block_modules(network)[-3:] == ["blocks.0", "blocks.1", "blocks.2"]
    assert compare(network, torch.randn(4, 3, 64, 64)) > 3
    checkpoint_blocks(network)
    copied = copy.deepcopy(network.eval())
    with torch.no_grad():
        copied.blocks[0].mlp.fc2.bias.add_(1.0)
    images = torch.randn(1, 3, 64, 64)
    assert not torch.allclose(copied(images), network(images))  # each computes with its own weights


def test_batch_norms_keep_the_mode_of_the_first_pass():
    """`engine.single_values` puts norms in evaluation mode for the forward pass of a batch, and then back."""
    torch.manual_seed(0)
    network = create_backbone("resnet18").train()
    other = copy.deepcopy(network)
    checkpoint_blocks(other)
    gradients = []
    for model in (network, other):
        norm = model.get_submodule("network.layer4.1.bn2")
        norm.training = False
        loss = model(torch.ones(2, 3, 64, 64))[-1].sum()
        norm.training = True
        loss.backward()
        assert int(norm.num_batches_tracked) == 0
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*gradients, strict=True))


def test_a_network_without_blocks():
    with torch.device("meta"):
        assert block_modules(create_backbone("vgg11")) == []
