"""Blocks of networks, checked against timm's own layers and against names that were written by hand."""

from collections import Counter

import pytest
import timm
import torch
from timm.models import group_parameters
from torch.overrides import TorchFunctionMode

from backbones.adapter import build_backbone
from backbones.layers import early_parameters, parameter_blocks, undecayed_parameters, unused_parameters


def on_meta(build, *arguments, **options):
    with torch.device("meta"):
        return build(*arguments, **options)


def first_names(blocks):
    """The first parameter of each block, by block."""
    return [next(name for name, block in blocks.items() if block == index) for index in range(max(blocks.values()) + 1)]


def test_blocks_of_an_efficientnet_and_an_amoebanet():
    blocks = parameter_blocks(on_meta(build_backbone, "efficientnet_b0"))
    assert first_names(blocks)[:3] == ["conv_stem.weight", "blocks.0.0.conv_dw.weight", "blocks.1.0.conv_pw.weight"]
    assert max(blocks.values()) == 16  # as many as the network has
    assert blocks["bn1.weight"] == 0
    blocks = parameter_blocks(on_meta(build_backbone, "amoebanet_b_n3_f16"))
    assert max(blocks.values()) == 8  # convolution and norm of the stem, its two cells, three more, two reductions


def test_an_extractor_has_the_blocks_of_the_whole_network():
    for name in ("resnet18", "swin_tiny_patch4_window7_224", "mobilenetv3_small_050", "vgg11"):
        backbone = on_meta(build_backbone, name)
        whole = on_meta(timm.create_model, name)
        layers = group_parameters(whole, whole.group_matcher(), reverse=True)
        names = backbone.published_names()
        blocks = parameter_blocks(backbone)
        assert blocks == {key: layers[names[key]] for key, _ in backbone.named_parameters()}
        assert set(blocks.values()) == set(range(max(blocks.values()) + 1))


def test_blocks_of_a_whole_transformer():
    network = on_meta(timm.create_model, "vit_tiny_patch16_224", depth=3, num_classes=0)
    blocks = parameter_blocks(network)
    assert [blocks[name] for name in ("cls_token", "pos_embed", "patch_embed.proj.bias")] == [0, 0, 0]
    assert [blocks[f"blocks.{index}.attn.qkv.weight"] for index in range(3)] == [1, 2, 3]
    assert blocks["norm.weight"] == 3


def test_blocks_follow_the_computation_where_parameters_are_registered_in_another_order():
    blocks = parameter_blocks(on_meta(timm.create_model, "twins_svt_small"))
    assert list(blocks).index("patch_embeds.3.proj.weight") < list(blocks).index("blocks.0.0.attn.qkv.weight")
    assert blocks["patch_embeds.3.proj.weight"] > blocks["blocks.0.0.attn.qkv.weight"]


def test_blocks_of_other_networks_are_read_from_names():
    def conv():
        return torch.nn.Conv2d(3, 3, 1)

    network = torch.nn.Sequential()
    network.stem, network.norm = conv(), torch.nn.BatchNorm2d(3)
    network.layer1 = torch.nn.Sequential(torch.nn.Sequential(), torch.nn.Sequential())
    for block in network.layer1:
        block.conv = conv()
    network.stages = torch.nn.ModuleList([torch.nn.Sequential(conv(), conv()), torch.nn.Sequential(conv())])
    network.last = conv()
    blocks = parameter_blocks(network)
    assert [blocks[f"{name}.weight"] for name in ("stem", "norm", "layer1.0.conv", "layer1.1.conv")] == [0, 0, 1, 2]
    assert [blocks[f"stages.{name}.weight"] for name in ("0.0", "0.1", "1.0")] == [3, 3, 4]
    assert blocks["last.bias"] == 4
    assert list(parameter_blocks(torch.nn.ModuleDict({"a": conv(), "b": conv()})).values()) == [0, 0, 1, 1]


def test_tokens_and_position_tables_are_not_decayed():
    def without(name, **options):
        return undecayed_parameters(on_meta(timm.create_model, name, num_classes=0, **options))

    tokens = {"cls_token", "reg_token", "pos_embed"}
    assert without("vit_small_patch14_reg4_dinov2", depth=2) == tokens
    assert {"blocks.0.attn.relative_position_bias_table", "cls_token"} <= without("beit_base_patch16_224", depth=2)
    assert {"blocks.1.attn.rel_pos_h", "pos_embed"} <= without("samvit_base_patch16", depth=2)
    tables = undecayed_parameters(on_meta(build_backbone, "swin_tiny_patch4_window7_224"))
    assert len(tables) == 12
    assert all(name.endswith("relative_position_bias_table") for name in tables)
    for name in ("resnet18", "tf_efficientnet_lite0", "convnext_atto"):
        assert undecayed_parameters(on_meta(build_backbone, name)) == set()


def test_a_third_of_a_transformer_is_early():
    with torch.device("meta"):
        backbone = build_backbone("vit_tiny_patch16_224")
    for stride, last in ((4, 3), (8, 7), (16, 11), (32, 11)):
        early = {id(p) for p in early_parameters(backbone, stride, "vit_tiny_patch16_224")}
        names = {key for key, p in backbone.named_parameters() if id(p) in early}
        blocks = {int(name.split(".")[2]) for name in names if name.startswith("network.blocks.")}
        assert blocks == set(range(last + 1))
        assert {"network.cls_token", "network.pos_embed", "network.patch_embed.proj.weight"} <= names
        assert not any(name.startswith("pyramid.") for name in names)
    with pytest.raises(ValueError, match="no level at stride"):
        early_parameters(backbone, 2, "vit_tiny_patch16_224")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "beit_base_patch16_224"])
def test_attention_is_fused_in_training(name):
    """One call of torch's scaled dot product attention for each block, and no softmax beside it."""
    calls = Counter()

    class Calls(TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), options=None):
            calls[getattr(function, "__name__", "")] += 1
            return function(*arguments, **(options or {}))

    with torch.device("meta"):
        backbone = build_backbone(name).train()
        with Calls():
            backbone(torch.empty(1, 3, 64, 64))
    assert calls["scaled_dot_product_attention"] == 12  # the number of blocks of each of these networks
    assert calls["softmax"] == 0


def test_stochastic_depth_of_a_plain_transformer():
    with torch.device("meta"):
        backbone = build_backbone("vit_tiny_patch16_224", stochastic_depth=0.1)
        plain = build_backbone("vit_tiny_patch16_224")
    rates = [m.drop_prob for m in backbone.modules() if isinstance(m, timm.layers.DropPath)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.1)
    assert not any(isinstance(m, timm.layers.DropPath) for m in plain.modules())


def test_parameters_that_no_map_depends_on():
    backbone = build_backbone("test_resnet").train()
    backbone.network.bn1.eval()
    assert not unused_parameters(backbone)
    backbone.fc = torch.nn.Linear(8, 2)
    assert unused_parameters(backbone) == list(backbone.fc.parameters())
    assert backbone.network.layer1.training
    assert not backbone.network.bn1.training
    assert not unused_parameters(backbone.requires_grad_(False))
