"""EfficientNet against the independent implementation in timm, with the same weights."""

from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from backbones import create_backbone
from backbones.architecture import B0, VARIANTS, architecture_of, counts, round_channels, save, scaled
from backbones.efficientnet import EfficientNet, EfficientNetClassifier
from backbones.errors import BadInput, UserError
from backbones.mbconv import SameConv2d
from classification.build import create_classifier
from experiments.costs.counts import classifier_counts

# Parameters in millions, arXiv:1905.11946v5 table 2.
PAPER = {"b0": 5.3, "b1": 7.8, "b2": 9.2, "b3": 12.0, "b4": 19.0, "b5": 30.0, "b6": 43.0, "b7": 66.0}
SMALL = [name for name in VARIANTS if not name.endswith(("b5", "b6", "b7", "b8", "l2"))]
LARGE = [name for name in VARIANTS if name not in SMALL]


def randomise(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """Random batch norms, with statistics near those of `images`, so that the signal reaches the last layer."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.2)
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(images)
    for norm in norms:
        norm.running_mean.add_(0.05 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt())
        norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(1.0, 1.5))
    return network.eval()


def compare(name: str, height: int, width: int) -> None:
    """The logits of both implementations agree within 1e-4, and those of two images differ by more."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, height, width)
    theirs = randomise(timm.create_model(name), images)
    with torch.device("meta"):
        ours = EfficientNetClassifier(name).eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    with torch.inference_mode():
        expected, actual = theirs(images), ours(images)
    effect = (expected[0] - expected[1]).std().item()
    assert 5e-4 < effect < 1e3, "the logits barely depend on the image, or overflow"
    assert (actual - expected).abs().max() < 1e-4 * max(1.0, effect)


@pytest.mark.parametrize("name", SMALL)
def test_logits_equal_those_of_timm(name: str) -> None:
    compare(name, 97, 120)


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.slow
def test_logits_of_the_largest_networks_equal_those_of_timm(name: str) -> None:
    compare(name, 64, 64)


@pytest.mark.parametrize("name", VARIANTS)
def test_state_dict_equals_that_of_timm(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = EfficientNetClassifier(name).state_dict(), timm.create_model(name).state_dict()
    assert [(key, value.shape) for key, value in ours.items()] == [(key, value.shape) for key, value in theirs.items()]


@pytest.mark.parametrize(("size", "millions"), PAPER.items())
def test_parameter_counts_equal_the_papers(size: str, millions: float) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in EfficientNetClassifier(f"efficientnet_{size}").parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.02)


def test_channels_round_to_multiples_of_eight_and_lose_at_most_ten_percent() -> None:
    assert round_channels(1.1 * 16) == 16  # 17.6 -> 16, which loses 9%
    assert round_channels(1.4 * 32) == 48  # 44.8, to nearest
    assert round_channels(0.35 * 32) == 16  # 11.2 -> 8 would lose 29%
    assert [stage.repeats for stage in scaled(B0, depth=1.1).stages] == [2, 3, 3, 4, 4, 5, 2]
    assert [stage.repeats for stage in scaled(B0, depth=1.1, lite=True).stages] == [1, 3, 3, 4, 4, 5, 1]


@pytest.mark.parametrize("name", ["efficientnet_b0", "tf_efficientnet_b3", "tf_efficientnet_lite2", "efficientnet_b7"])
def test_counts_from_the_architecture_equal_those_of_the_network(name: str) -> None:
    assert dict(zip(("params", "macs"), counts(VARIANTS[name], 225), strict=True)) == classifier_counts(name, 225)


def test_networks_of_a_study_are_built_by_name(tmp_path) -> None:
    """A stored network can be built by its name as backbone and classifier; other names are errors."""
    half = scaled(B0, 0.5)
    found = replace(half, stages=(*half.stages[:6], replace(half.stages[6], squeeze=0.0, kernel=5)))
    name = save(tmp_path / "study.1", "17", found)
    assert name.endswith("study.1#17")
    assert architecture_of(name) == found
    backbone = create_backbone(name)
    assert [level.stride for level in backbone.levels] == [4, 8, 16, 32]
    assert "blocks.6.0.se.conv_reduce.weight" not in backbone.state_dict()
    classifier = create_classifier(name, 3)
    assert classifier(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
    with pytest.raises(BadInput, match="published"):
        create_backbone(name, pretrained=True)
    with pytest.raises(BadInput, match="another study"):
        save(tmp_path / "study.1", "17", B0)
    for wrong, message in (("#18", "17"), ("#../17", "unknown"), ("s#1", "no study")):
        with pytest.raises(UserError, match=message):
            create_backbone(str(tmp_path / "study.1") + wrong)


@pytest.mark.parametrize(
    "damage", ["[1]", "{}", '{"stages": [], "stem": 1e9}', '{"stages": []}', '{"stages": [{"kernel": 9999}]}', "\0"]
)
def test_damaged_architecture_files_are_refused(tmp_path, damage) -> None:
    save(tmp_path, "a", B0)
    (tmp_path / "networks" / "a.json").write_text(damage)
    with pytest.raises(BadInput, match="does not describe a network"):
        create_backbone(f"{tmp_path}#a")


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("kernel", [3, 5])
def test_same_padding_by_hand(kernel: int, learning: bool) -> None:
    conv = SameConv2d(1, 1, kernel, 2, bias=False)
    nn.init.ones_(conv.weight)
    with torch.set_grad_enabled(learning):
        even, odd = conv(torch.ones(1, 1, 8, 8))[0, 0], conv(torch.ones(1, 1, 7, 7))[0, 0]
    # 8 pixels: with kernel 3, windows start at 0, 2, 4, 6 and the last has two pixels; with kernel 5, at -1, 1, 3, 5.
    seen = {3: ([3, 3, 3, 2], [2, 3, 3, 2]), 5: ([4, 5, 5, 3], [3, 5, 5, 3])}[kernel]
    for out, windows in zip((even, odd), seen, strict=True):
        torch.testing.assert_close(out, torch.outer(*2 * [torch.tensor(windows, dtype=torch.float)]))


@pytest.mark.parametrize("size", [(16, 12), (15, 12), (15, 11)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_same_padding_equals_padding_the_input(kernel: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = SameConv2d(6, 6, kernel, 2, groups=6, bias=False)
    images, weight = torch.randn(2, 6, *size, requires_grad=True), conv.weight.detach().clone().requires_grad_()
    padded_by = [max((-(-side // 2) - 1) * 2 + kernel - side, 0) for side in size]
    (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in padded_by)
    expected = F.conv2d(F.pad(images, (left, right, top, bottom)), weight, None, 2, groups=6)
    found = conv(images)
    with torch.no_grad():
        torch.testing.assert_close(conv(images), expected)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (images, weight), gradient)
    torch.testing.assert_close(torch.autograd.grad(found, (images, conv.weight), gradient), wanted)


@pytest.mark.parametrize("name", ["efficientnet_b0", "tf_efficientnet_b0", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (8, 16), (2, 4, 8, 16, 32), (32,)])
def test_maps_equal_those_of_timm(name: str, strides: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 65, 90)
    theirs = randomise(timm.create_model(name, features_only=True), images)
    ours = EfficientNet(name, strides).eval()
    ours.load_state_dict({key: theirs.state_dict()[key] for key in ours.state_dict()})
    with torch.inference_mode():
        expected = [x for x, s in zip(theirs(images), theirs.feature_info.reduction(), strict=True) if s in strides]
        for x, y in zip(ours(images), expected, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


def test_gradients_equal_those_of_timm() -> None:
    """Operations in place must not change tensors that the backward pass needs."""
    torch.manual_seed(0)
    theirs = timm.create_model("tf_efficientnet_b0")
    ours = EfficientNetClassifier("tf_efficientnet_b0", stochastic_depth=0.0, dropout=0.0)
    ours.load_state_dict(theirs.state_dict())
    ours, theirs = ours.double(), theirs.double()
    images = torch.randn(4, 3, 64, 64, dtype=torch.double)
    for network in (ours, theirs):
        network.train()(images).square().mean().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, msg=name)


def test_stochastic_depth_grows_over_blocks_drops_whole_samples_and_is_off_in_evaluation() -> None:
    network = EfficientNet("efficientnet_b0", stochastic_depth=0.2)
    rates = [block.drop.rate for stage in network.blocks for block in stage]
    assert rates == pytest.approx([0.2 * index / 16 for index in range(16)])
    drop = network.blocks[5][3].drop
    torch.manual_seed(0)
    dropped = drop(torch.ones(4000, 2, 1, 1))
    values = dropped.unique()
    assert values.tolist() == pytest.approx([0.0, 1 / (1 - drop.rate)])
    assert (dropped[:, 0] == dropped[:, 1]).all()
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.03)
    assert (drop.eval()(torch.ones(100, 1, 1, 1)) == 1).all()


def test_initial_weights_have_the_standard_deviation_of_the_authors_code() -> None:
    torch.manual_seed(0)
    network = EfficientNetClassifier("efficientnet_b0")
    assert network.conv_head.weight.std().item() == pytest.approx((2 / 1280) ** 0.5, rel=0.02)
    assert network.blocks[5][1].conv_dw.weight.std().item() == pytest.approx((2 / 25) ** 0.5, rel=0.03)
    assert network.classifier.weight.abs().max().item() == pytest.approx(1000**-0.5, rel=0.01)
    assert network.blocks[1][0].se.conv_expand.bias.eq(0).all()
