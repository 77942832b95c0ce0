"""Necks with any number of levels and image size; FPN against torchvision. BiFPN is compared in tests/detection."""

from collections import OrderedDict

import pytest
import torch
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from backbones import create_backbone, create_neck
from backbones.base import Level, select
from backbones.bifpn import BiFPN, Fusion, MaxPool, SeparableConv
from backbones.errors import UserError
from backbones.fpn import FPN
from backbones.layers import early_parameters
from backbones.necks import NECKS
from detection.head import Head
from segmentation.model import create_segmenter

LEVELS = (Level(24, 8), Level(40, 16), Level(112, 32))


def maps(size, levels=LEVELS, batch=2):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, level.channels, -(-size[0] // level.stride), -(-size[1] // level.stride),
                    generator=generator)
        for level in levels
    ]  # fmt: skip


@pytest.mark.parametrize("name", NECKS)
@pytest.mark.parametrize(("outputs", "inputs"), [(3, 3), (5, 3), (6, 3), (6, 4)])
@pytest.mark.parametrize("size", [(256, 256), (333, 500), (97, 129)])
def test_contract(name, outputs, inputs, size):
    """Every level has the size ceil(size / stride), and every parameter gets a gradient."""
    levels = (Level(16, 4), *LEVELS)[-inputs:]
    neck = create_neck(name, levels, channels=32, num_levels=outputs)
    assert [level.stride for level in neck.levels] == [levels[0].stride * 2**i for i in range(outputs)]
    out = neck(maps(size, levels))
    for x, level in zip(out, neck.levels, strict=True):
        assert x.shape == (2, 32, -(-size[0] // level.stride), -(-size[1] // level.stride))
    sum(x.square().mean() for x in out).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in neck.parameters())


def test_fpn_equals_torchvision():
    ours = FPN(LEVELS, 32)
    theirs = FeaturePyramidNetwork([24, 40, 112], 32, extra_blocks=LastLevelP6P7(112, 32))
    state = {}
    for i in range(3):
        for kind in ("weight", "bias"):
            state[f"inner_blocks.{i}.0.{kind}"] = getattr(ours.lateral[i], kind)
            state[f"layer_blocks.{i}.0.{kind}"] = getattr(ours.smooth[i], kind)
    for i, name in enumerate(("p6", "p7")):
        state |= {f"extra_blocks.{name}.{k}": v for k, v in ours.coarser[i].state_dict().items()}
    theirs.load_state_dict(state)
    features = maps((333, 500))
    # torchvision computes P6 from C5 if the two have different widths. This package's FPN always does.
    expected = theirs(OrderedDict((str(i), x) for i, x in enumerate(features))).values()
    for a, b in zip(ours(features), expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [("fast", (1 * 2 + 3 * 10) / (4 + 1e-4)), ("sum", 12.0), ("softmax", 2 * 0.1192029 + 10 * 0.8807971)],
)
def test_fusion_by_hand(fusion, expected):
    """Weights 1 and 3 on maps of 2 and 10, before activation and convolution."""
    node = Fusion(2, 4, fusion, torch.nn.Identity, bias=False)
    node.conv = node.norm = torch.nn.Identity()
    if fusion != "sum":
        node.weights.data = torch.tensor([1.0, 3.0])
    out = node([torch.full((1, 4, 2, 2), 2.0), torch.full((1, 4, 2, 2), 10.0)])
    torch.testing.assert_close(out, torch.full((1, 4, 2, 2), expected))


@pytest.mark.parametrize("fusion", ["fast", "sum", "softmax"])
def test_fixed_fusion_returns_the_same(fusion):
    """Weights as plain numbers change no sum of two or three maps."""
    for inputs in (2, 3):
        node = Fusion(inputs, 4, fusion, torch.nn.SiLU, bias=False).eval()
        if fusion != "sum":
            node.weights.data = torch.tensor([0.5, 3.0, 1.5])[:inputs]
        features = [torch.randn(1, 4, 5, 6) for _ in range(inputs)]
        with torch.inference_mode():
            torch.testing.assert_close(node.for_inference()(features), node(features))


def test_new_separable_convolutions_keep_positions():
    """A bright pixel stays the brightest of its neighbourhood in at least 90% of the channels of neck and heads."""
    torch.manual_seed(0)
    point = torch.zeros(1, 64, 5, 5)
    point[..., 2, 2] = 1
    modules = [BiFPN(LEVELS, num_levels=5), Head(64, 4, 9), create_segmenter("resnet18", 3).decoder]
    convs = [m for module in modules for m in module.modules() if isinstance(m, SeparableConv)]
    assert len(convs) > 40
    for conv in convs:
        channels = conv.depthwise.in_channels
        out = conv.depthwise(point[:, :1].expand(1, channels, 5, 5))
        assert (out.abs().flatten(2).argmax(2) == 12).float().mean() > 0.9


def test_negative_weights_exclude_an_input():
    node = Fusion(2, 4, "fast", torch.nn.Identity, bias=False)
    node.conv = node.norm = torch.nn.Identity()
    node.weights.data = torch.tensor([1.0, -5.0])
    out = node([torch.ones(1, 4, 1, 1), torch.full((1, 4, 1, 1), 100.0)])
    torch.testing.assert_close(out, torch.full((1, 4, 1, 1), 1 / 1.0001))


@pytest.mark.parametrize("same_padding", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (5, 6), (6, 5), (7, 7)])
def test_pooling_halves_sizes_and_rounds_up(same_padding, size):
    out = MaxPool(same_padding)(torch.randn(1, 2, *size))
    assert out.shape[-2:] == (-(-size[0] // 2), -(-size[1] // 2))
    assert torch.isfinite(out).all()


def test_same_pooling_by_hand():
    """TensorFlow pads an even side at its end only: windows start at 0 and 2."""
    x = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    assert MaxPool(same_padding=True)(x)[0, 0, 0].tolist() == [2, 3]
    assert MaxPool(same_padding=False)(x)[0, 0, 0].tolist() == [1, 3]


def test_errors():
    with pytest.raises(UserError, match="bifpn"):
        create_neck("bifp", LEVELS)
    with pytest.raises(ValueError, match="levels"):
        BiFPN(LEVELS, num_levels=2)
    with pytest.raises(ValueError, match="fusion"):
        BiFPN(LEVELS, fusion="mean")
    with pytest.raises(ValueError, match="stride"):
        select(LEVELS, [4])


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "vgg16"])
def test_early_parameters_are_the_first_ones(name):
    """They are the first parameters in order, and not all; buffers and gradients are unchanged."""
    backbone = create_backbone(name)
    before = {n: b.clone() for n, b in backbone.named_buffers()}
    early = {id(p) for p in early_parameters(backbone, 4, name)}
    names = [n for n, p in backbone.named_parameters() if id(p) in early]
    assert names == [n for n, _ in backbone.named_parameters()][: len(names)]  # the first ones, in order
    assert 0 < len(names) < len(list(backbone.parameters()))
    assert all(torch.equal(before[n], b) for n, b in backbone.named_buffers())
    assert all(p.grad is None for p in backbone.parameters())
    with pytest.raises(ValueError, match="stride"):
        early_parameters(backbone, 64, name)
