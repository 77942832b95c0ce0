"""Plain transformers as backbones: maps as timm computes them, weights as timm stores them, and ViTDet's pyramid."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.plain import PlainBackbone
from backbones.positions import resample_table
from backbones.pyramid import SimpleFeaturePyramid
from backbones.weights import load_weights

SMALL = {"depth": 2, "embed_dim": 64, "num_heads": 2}
# Networks of each family, with the options that make them small.
NETWORKS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": SMALL,
    "vit_small_patch16_224": SMALL,
    "vit_base_patch16_224": SMALL,
    "vit_base_patch32_224": SMALL,
    "vit_base_patch16_clip_224": SMALL,
    "vit_base_patch16_siglip_224": SMALL,
    "vit_small_patch14_dinov2": SMALL,
    "vit_small_patch14_reg4_dinov2": SMALL,
    "vit_small_patch16_dinov3": SMALL,
    "eva02_tiny_patch14_224": SMALL,
    "deit_tiny_distilled_patch16_224": SMALL,
    "deit3_small_patch16_224": SMALL,
    "beit_base_patch16_224": SMALL,
    "samvit_base_patch16_224": SMALL | {"global_attn_indexes": (1,)},
    "vit_relpos_small_patch16_224": SMALL,
    "vit_relpos_base_patch16_clsgap_224": SMALL,
    "cait_xxs24_224": SMALL | {"depth_token_only": 1},
    "xcit_nano_12_p16_224": SMALL,
    "xcit_nano_12_p8_224": SMALL,
}
SIZES = (512, 512), (320, 320), (333, 500)
# Parts of timm's networks that come after the last map.
AFTER = (
    "norm",
    "fc_norm",
    "head",
    "head_dist",
    "attn_pool",
    "neck",
    "cls_token",
    "blocks_token_only",
    "cls_attn_blocks",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def native(name: str) -> nn.Module:
    """The small network of timm itself with random weights that make a difference, at its native image size."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=5, **NETWORKS[name]).eval()
    for parameter in network.parameters():  # layer scale and position tables may start as zero
        nn.init.normal_(parameter, std=0.2)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_contract_maps_and_weights(name: str, folder: Path) -> None:
    theirs = native(name)
    state = theirs.state_dict()
    torch.save(state, folder / f"{name}.pth")
    backbone = PlainBackbone(name, options=NETWORKS[name]).eval()
    load_weights(backbone, name, folder / f"{name}.pth")

    loaded = {published: backbone.state_dict()[key] for key, published in backbone.published_names().items()}
    assert {key.split(".")[0] for key in state.keys() - loaded.keys()} <= set(AFTER)
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())
    assert len(loaded) == len(backbone.network.state_dict())

    pyramid = copy.deepcopy(backbone.pyramid).to("meta")  # its values are the subject of another test
    for height, width in SIZES:
        images = torch.randn(1, 3, height, width)
        with torch.no_grad():
            found = backbone.map(images)
            expected = timms_map(name, theirs, backbone.scaled(images))
            exact = not hasattr(theirs, "rel_pos_bias")  # timm resamples BEiT's tables in single precision
            torch.testing.assert_close(found, expected, rtol=0, atol=0 if exact else 1e-4)
            levels = pyramid(found.to("meta"), (height, width))
        for level, x in zip(backbone.levels, levels, strict=True):
            assert x.shape == (1, 256, -(-height // level.stride), -(-width // level.stride))
    assert [level.stride for level in backbone.levels] == [4, 8, 16, 32]


def timms_map(name: str, network: nn.Module, images: Tensor) -> Tensor:
    """The last map by timm alone: of a network whose position embeddings timm resampled for these images."""
    size = images.shape[-2], images.shape[-1]
    network = copy.deepcopy(network)
    if hasattr(network, "set_input_size"):
        network.set_input_size(size)
    elif name.startswith("cait"):
        state = network.state_dict()
        grid = [side // 16 for side in size]
        state["pos_embed"] = timm.layers.resample_abs_pos_embed(state["pos_embed"], grid, num_prefix_tokens=0)
        network = timm.create_model(name, num_classes=5, img_size=size, **NETWORKS[name]).eval()
        network.load_state_dict(state)
    return network.forward_intermediates(images, indices=1, norm=False, intermediates_only=True)[0]


def test_pyramid_equals_a_hand_written_one() -> None:
    """ViTDet's pyramid for a map of stride 16, in functions of torch."""
    torch.manual_seed(0)
    pyramid = SimpleFeaturePyramid(32, 16, width=8)
    for parameter in pyramid.parameters():
        nn.init.normal_(parameter, std=0.3)
    weights = pyramid.state_dict()
    x = torch.randn(2, 32, 6, 8)

    def norm(x: Tensor, key: str) -> Tensor:
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
        scale, shift = (weights[f"{key}.{name}"][:, None, None] for name in ("weight", "bias"))
        return (x - mean) / (variance + 1e-6).sqrt() * scale + shift

    def double(x: Tensor, key: str) -> Tensor:
        return F.conv_transpose2d(x, weights[f"{key}.weight"], weights[f"{key}.bias"], stride=2)

    def outputs(x: Tensor, key: str, first: int) -> Tensor:
        x = norm(F.conv2d(x, weights[f"{key}.{first}.weight"]), f"{key}.{first + 1}")
        return norm(F.conv2d(x, weights[f"{key}.{first + 2}.weight"], padding=1), f"{key}.{first + 3}")

    x_normed = norm(x, "norm")
    finest = F.gelu(norm(double(x_normed, "branches.4.0"), "branches.4.1"))
    expected = [
        outputs(double(finest, "branches.4.3"), "branches.4", 4),
        outputs(double(x_normed, "branches.8.0"), "branches.8", 1),
        outputs(x_normed, "branches.16", 0),
        outputs(F.max_pool2d(x_normed, 2), "branches.32", 1),
    ]
    for level, wanted in zip(pyramid(x, (96, 128)), expected, strict=True):
        torch.testing.assert_close(level, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stride", [8, 32])
def test_pyramid_from_other_strides(stride: int) -> None:
    pyramid = SimpleFeaturePyramid(32, stride, width=8)
    x = torch.randn(1, 32, -(-97 // stride), -(-130 // stride))
    assert [tuple(level.shape[2:]) for level in pyramid(x, (97, 130))] == [(25, 33), (13, 17), (7, 9), (4, 5)]


def test_tables_are_resampled_as_in_timm() -> None:
    torch.manual_seed(0)
    table = torch.randn(13 * 9 + 3, 2)
    expected = timm.layers.resize_rel_pos_bias_table(table, (5, 11), (9 * 21 + 3, 2), old_window_size=(7, 5))
    torch.testing.assert_close(resample_table(table, (7, 5), (5, 11)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224"])
def test_attention_is_scaled_dot_product_attention(name: str) -> None:
    backbone = PlainBackbone(name, (16,), NETWORKS[name])
    fused = [module.fused_attn for module in backbone.modules() if hasattr(module, "fused_attn")]
    assert fused == [True, True]
