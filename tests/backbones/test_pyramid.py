"""Plain transformers as backbones: maps as timm computes them, weights as timm stores them, and ViTDet's pyramid."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import create_backbone, prepare_for_inference
from backbones.adapter import build_backbone
from backbones.dilation import create_dilated
from backbones.errors import BadInput, UserError
from backbones.plain import PlainBackbone
from backbones.positions import resample_table
from backbones.pyramid import STRIDES, SimpleFeaturePyramid
from backbones.weights import load_weights
from classification import create_classifier
from detection import create_detector
from engine.config import TrainConfig
from engine.optimization import apply_protocol, parameter_groups

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
    "naflexvit_base_patch16_gap": SMALL,
    "qwen3_vit_88m_enc": SMALL,
    "deepseek_vit_412m_enc": SMALL,
}
SIZES = (512, 512), (320, 320), (333, 500)
# Parts of timm's networks that come after the last map.
AFTER = (
    "aligner",
    "merger",
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
            found = backbone.trunk_maps(images)[0]
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
    backbone = PlainBackbone(name, (16,), options=NETWORKS[name])
    fused = [module.fused_attn for module in backbone.modules() if hasattr(module, "fused_attn")]
    assert fused == [True, True]


def small(name: str, strides: tuple[int, ...] = STRIDES) -> PlainBackbone:
    torch.manual_seed(0)
    return PlainBackbone(name, strides, options=NETWORKS[name]).eval()


def test_weights_of_a_run_include_the_pyramid(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run that lacks a level, as one of detection does, starts this level from random weights."""
    trained, backbone = small("vit_tiny_patch16_224", (8, 16, 32)), small("vit_tiny_patch16_224")
    for parameter in trained.parameters():
        nn.init.normal_(parameter)
    torch.save({f"model.backbone.{key}": x for key, x in trained.state_dict().items()}, tmp_path / "run.pth")
    load_weights(backbone, "vit_tiny_patch16_224", tmp_path / "run.pth")
    own = backbone.state_dict()
    assert all(own[key].equal(value) for key, value in trained.state_dict().items())
    assert "12 of 34 tensors of the feature pyramid" in caplog.text
    caplog.clear()
    backbone.keep_levels((8, 16, 32))
    load_weights(backbone, "vit_tiny_patch16_224", tmp_path / "run.pth")
    assert not caplog.records


def test_runs_of_other_tasks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From detection to classification with the published head, and back."""
    detector = create_detector("test_vit", 2)
    trained = detector.backbone.network.state_dict()
    torch.save({f"model.{key}": x for key, x in detector.state_dict().items()}, tmp_path / "detection.pth")
    classifier = create_classifier("test_vit", 3, tmp_path / "detection.pth")
    assert all(classifier.backbone.state_dict()[key].equal(value) for key, value in trained.items())
    assert "contains only a backbone" in caplog.text
    assert "pyramid" not in caplog.text
    torch.save({f"model.{key}": x for key, x in classifier.state_dict().items()}, tmp_path / "classification.pth")
    backbone = create_backbone("test_vit", tmp_path / "classification.pth")
    assert all(backbone.network.state_dict()[key].equal(value) for key, value in trained.items())
    assert "34 of 34 tensors of the feature pyramid" in caplog.text


def test_weights_for_another_image_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = timm.create_model("vit_tiny_patch16_384", **SMALL)
    torch.save(theirs.state_dict(), tmp_path / "384.pth")
    backbone = small("vit_tiny_patch16_224")
    load_weights(backbone, "vit_tiny_patch16_224", tmp_path / "384.pth")
    assert "1 tensors resampled for the image size of the network, such as pos_embed from (1, 577, 64)" in caplog.text
    theirs.set_input_size((224, 224))
    assert backbone.network.state_dict()["pos_embed"].equal(theirs.pos_embed)


def test_weights_with_the_names_of_their_authors(tmp_path: Path) -> None:
    """DINOv2 with registers: a position embedding for the class token, another name of the registers, a mask token."""
    name = "vit_small_patch14_reg4_dinov2"
    state = native(name).state_dict()
    first = torch.randn(1, 1, 64)
    published = {key: value for key, value in state.items() if key not in ("head.weight", "head.bias", "reg_token")}
    published["register_tokens"], published["mask_token"] = state["reg_token"], torch.zeros(1, 64)
    published["cls_token"] = state["cls_token"] - first
    published["pos_embed"] = torch.cat([first, state["pos_embed"]], dim=1)
    torch.save(published, tmp_path / "dinov2.pth")
    backbone = small(name)
    load_weights(backbone, name, tmp_path / "dinov2.pth")
    for key, value in backbone.network.state_dict().items():
        torch.testing.assert_close(value, state[key])


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(BadInput, match="does not contain the network"):
        load_weights(small("vit_tiny_patch16_224"), "vit_tiny_patch16_224", tmp_path / "resnet.pth")


@pytest.mark.parametrize("name", ["test_vit", "test_vit_relpos"])  # timm's smallest
def test_classifier_at_another_image_size(name: str, tmp_path: Path) -> None:
    """The published network with its own head, at a size that is no multiple of the patch."""
    theirs = timm.create_model(name, num_classes=3).eval()
    nn.init.normal_(theirs.get_classifier().weight, std=0.1)
    torch.save(theirs.state_dict(), tmp_path / "whole.pth")
    model = create_classifier(name, 3, tmp_path / "whole.pth").eval()
    images = torch.randn(1, 3, 97, 130)
    theirs.set_input_size((112, 144))
    with torch.no_grad():
        torch.testing.assert_close(model(images), theirs(F.pad(images, (0, 14, 0, 15))), rtol=1e-4, atol=1e-4)


def test_classifier_from_weights_without_a_class_layer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    torch.save(state, tmp_path / "self-supervised.pth")
    model = create_classifier("test_vit", 3, tmp_path / "self-supervised.pth")
    assert "no class layer" in caplog.text
    assert all(model.backbone.state_dict()[key].equal(value) for key, value in state.items())


def test_protocols() -> None:
    """`frozen` trains the pyramid, and a lower learning rate of the backbone applies to the transformer alone."""
    model = create_detector(small("vit_tiny_patch16_224"), 2)
    groups = parameter_groups(model, 1.0, 0.1, 0.0)
    slow = {id(p) for group in groups if group["lr"] == 0.1 for p in group["params"]}
    assert slow == {id(p) for p in model.backbone.network.parameters()}
    apply_protocol(model, (), TrainConfig(protocol="frozen"))
    trained = {name.split(".")[0] for name, p in model.backbone.named_parameters() if p.requires_grad}
    assert trained == {"pyramid"}


def test_detector_has_no_unused_level() -> None:
    """EfficientDet starts at stride 8."""
    with torch.device("meta"):
        detector = create_detector("vit_tiny_patch16_224", 2)
        assert [level.stride for level in detector.backbone.levels] == [8, 16, 32]
        assert set(detector.backbone.pyramid.branches) == {"8", "16", "32"}
        assert detector(torch.empty(1, 3, 97, 130))[0].shape[2] == 2


def test_dilated_backbone() -> None:
    with torch.device("meta"):
        levels = create_dilated("vit_tiny_patch16_224", strides=(4,)).levels
    assert [level.stride for level in levels] == [4, 16]


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "beit_base_patch16_224"])
def test_copy_for_inference_computes_the_same(name: str) -> None:
    backbone = small(name)
    copy_ = prepare_for_inference(backbone)
    images = torch.randn(1, 3, 97, 130)
    with torch.no_grad():
        for level, x in zip(backbone(images), copy_(images), strict=True):
            torch.testing.assert_close(x, level, rtol=1e-4, atol=1e-4)
        for level, x in zip(backbone(images), prepare_for_inference(backbone, "bf16")(images), strict=True):
            torch.testing.assert_close(x, level, rtol=0, atol=0.1)


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "beit_base_patch16_224"])
def test_export_leaves_the_network_usable(name: str) -> None:
    backbone, images = small(name, (16,)), torch.randn(1, 3, 64, 96)
    exported = torch.export.export(backbone, (images,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(images)[0], backbone(images)[0])


def test_tables_are_trained_at_any_size() -> None:
    backbone = small("beit_base_patch16_224", (16,))
    backbone(torch.randn(1, 3, 48, 80))[0].square().sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_other_strides_are_refused() -> None:
    with pytest.raises(UserError, match=r"no feature map at stride \[2\]"):
        build_backbone("vit_tiny_patch16_224", (2, 4))


@pytest.mark.parametrize("name", NETWORKS)
def test_other_input_channels(name: str) -> None:
    with torch.device("meta"):
        backbone = PlainBackbone(name, (16,), input_channels=4, options=NETWORKS[name])
        assert backbone(torch.empty(1, 4, 97, 130))[0].shape == (1, 256, 7, 9)


def test_adaptation_names_the_scaling() -> None:
    assert small("vit_tiny_patch16_224").adaptation() == "simple feature pyramid from stride 16"
    assert small("eva02_tiny_patch14_224").adaptation().endswith("images scaled by 14/16")
