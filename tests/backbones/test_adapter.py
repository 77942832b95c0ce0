"""The contract of `Backbone` for every network that the README names, and the errors for unsuitable networks."""

import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

from backbones import create_backbone, list_backbones
from backbones.__main__ import main
from backbones.adapter import UNSUITABLE_MODULES, build_backbone
from backbones.base import Backbone
from backbones.errors import UserError

ADAPTED = ["resnet18", "resnet50", "resnet101", "resnet152", "vgg16", "vgg16_bn", "inception_v3", "inception_v4"]
OTHERS = ["mobilenetv2_100", "convnext_tiny", "swin_tiny_patch4_window7_224", "hrnet_w18"]
OURS = ["efficientnet_b0", "tf_efficientnet_b0", "efficientnet_lite0", "tf_efficientnet_lite0", "tf_efficientnet_b3"]


def assert_contract(backbone: Backbone, maps: list[torch.Tensor], height: int, width: int) -> None:
    """There are four maps at strides 4, 8, 16, 32, with the channels in `levels` and sizes rounded up."""
    assert [level.stride for level in backbone.levels] == [4, 8, 16, 32]
    for level, x in zip(backbone.levels, maps, strict=True):
        assert x.shape[1:] == (level.channels, -(-height // level.stride), -(-width // level.stride))


@pytest.mark.parametrize("name", ADAPTED + OTHERS + OURS)
def test_contract(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm initialises residual branches with zero, which stops every gradient
        for rate in ("rate", "drop_prob"):  # stochastic depth, here and in timm, could drop the only image of the batch
            if hasattr(module, rate):
                setattr(module, rate, 0.0)
    maps = backbone.train()(torch.randn(1, 3, 333, 500))
    assert_contract(backbone, maps, 333, 500)
    sum(x.square().mean() for x in maps).backward()
    for parameter_name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        # Some biases have no effect: those of keys in attention, and those before batch norm.
        assert parameter_name.endswith("bias") or parameter.grad.any(), parameter_name


@pytest.mark.parametrize("name", ADAPTED + OTHERS + OURS)
def test_sizes(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name).eval()
        for height, width in ((512, 512), (320, 320), (333, 500), (97, 97)):
            assert_contract(backbone, backbone(torch.empty(2, 3, height, width)), height, width)


@pytest.mark.parametrize("name", ["resnet18", "vgg16_bn", "inception_v4", "mobilenetv2_100"])
def test_maps_equal_those_of_timm(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name, strides=(32, 8)).eval()
    theirs = timm.create_model(name, features_only=True).eval()
    own = {published: backbone.state_dict()[key] for key, published in backbone.published_names().items()}
    flat = {key.replace(".", "_", 1): value for key, value in own.items()} | own
    theirs.load_state_dict({key: flat.get(key, value) for key, value in theirs.state_dict().items()})
    images = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        expected = dict(zip(theirs.feature_info.reduction(), theirs(images), strict=True))
        for level, x in zip(backbone.levels, backbone(images), strict=True):
            side = 128 // level.stride
            resized = nn.functional.interpolate(expected[level.stride], (side, side), mode="bilinear")
            torch.testing.assert_close(x, resized)
    assert [level.stride for level in backbone.levels] == [8, 32]


def test_class_layer_and_auxiliary_heads_are_removed() -> None:
    for name in ADAPTED:
        with torch.device("meta"):
            parts = {part for key in build_backbone(name).state_dict() for part in key.split(".")}
        assert not parts & {"fc", "classifier", "head", "AuxLogits", "last_linear", "pre_logits"}


@pytest.mark.parametrize("name", ["mixer_b16_224", "volo_d1_224"])
def test_networks_without_fine_maps_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' cannot serve as a backbone: it has no feature map at stride"):
        build_backbone(name)


def test_networks_with_a_fixed_image_size_are_refused() -> None:
    with pytest.raises(UserError, match="does not accept images of any size"):
        build_backbone("hiera_tiny_224")


def test_errors_for_unknown_names_suggest_similar_names() -> None:
    with pytest.raises(UserError, match=r"unknown backbone 'resnet5o'.*resnet50"):
        create_backbone("resnet5o")
    with pytest.raises(UserError, match=r"unknown published weights 'resnet50.tv_in2k'.*resnet50.tv_in1k"):
        create_backbone("resnet50.tv_in2k")


def test_list() -> None:
    assert list_backbones("tf_efficientnet_lite*") == [f"tf_efficientnet_lite{size}" for size in range(5)]
    names = list_backbones()
    assert {*ADAPTED, *OTHERS, *OURS, "efficientnet_l2"} <= set(names)
    assert "vit_small_patch16_224" in names
    assert not {"mixer_b16_224", "hiera_tiny_224", "sedarknet21"} & set(names)
    assert set(UNSUITABLE_MODULES) <= set(timm.list_modules())
    assert list_backbones("no_such*") == []


def test_command_lists_levels_and_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tf_efficientnet_lite[01]"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "lite0" in line)
    maps, facts = ["24@4", "40@8", "112@16", "320@32"], ["2.96", "in1k", "(packaged)", "apache-2.0"]
    assert row.split() == ["tf_efficientnet_lite0", *maps, *facts]


def test_command_builds_nothing_for_a_long_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resnet*"]) == 0
    printed = capsys.readouterr().out
    assert f"{len(list_backbones('resnet*'))} networks match" in printed
    assert "@4" not in printed
    assert "a1_in1k" in printed


def test_command_without_a_match_exits_with_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resne50"]) == 2
    assert main(["mixer_b16_224"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "resnet50" in err.splitlines()[0]
    assert "only at [16]" in err.splitlines()[1]


def test_help_does_not_import_torch() -> None:
    help_only = (
        "import sys, backbones.__main__ as command\n"
        "try: command.main(['--help'])\n"
        "except SystemExit as done: assert done.code == 0\n"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", help_only], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pattern" in done.stdout
