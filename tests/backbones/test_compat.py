"""Every function of `backbones.compat`, against what this package relies on.

If one fails after an update, the failure message says which part of torch or timm has changed.
"""

import ast
import inspect
from collections import namedtuple
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import backbones
from backbones import compat

PACKAGE = Path(backbones.__file__).parent


def test_every_function_has_a_test_and_a_docstring():
    functions = {
        name: f for name, f in vars(compat).items() if inspect.isfunction(f) and f.__module__ == compat.__name__
    }
    tests = Path(__file__).read_text()
    for name, function in functions.items():
        assert function.__doc__, name
        assert f"compat.{name}(" in tests, f"{name} has no test here"


def test_no_other_module_imports_private_names():
    """Also none reads an attribute with a leading underscore from anything but `self`, `cls` or itself."""
    for file in PACKAGE.glob("*.py"):
        if file.name == "compat.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [part for alias in node.names for part in alias.name.split(".")]
            elif isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
                names = [node.attr]
            else:
                continue
            private = [name for name in names if name.startswith("_") and not name.endswith("__")]
            assert not private, f"{file.name}, line {node.lineno}: {private} belongs into compat.py"


def test_containers():
    Pair = namedtuple("Pair", "a b")
    one, two, three = torch.zeros(1), torch.zeros(2), torch.zeros(3)
    values = [Pair(one, "text"), {"key": (two, None, 4)}, three]
    message = "look at torch.utils._pytree: tree_leaves and tree_map_only walk through tuples, lists and dicts"
    assert [len(x) for x in compat.tensors_in(values)] == [1, 2, 3], message
    assert compat.tensors_in(one)[0] is one, message
    changed = compat.map_tensors(lambda x: x + 1, values)
    assert isinstance(changed[0], Pair), message
    assert (changed[0].b, changed[1]["key"][1:]) == ("text", (None, 4)), message
    assert all(x.eq(1).all() for x in compat.tensors_in(changed)), message
    assert one.eq(0).all(), message


def test_multiply_adds():
    message = "look at torch.utils.flop_counter.FlopCounterMode: get_total_flops counts 2 operations per multiply-add"
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 5))
        counted = compat.multiply_adds(network, torch.empty(1, 3, 4, 4))
    assert counted == 3 * 8 * 9 * 16 + 8 * 16 * 5, message


def test_relu6_backward():
    x = torch.tensor([-1.0, 0.5, 5.5, 7.0], requires_grad=True)
    output = F.relu6(x)
    output.backward(torch.full((4,), 2.0))
    found = compat.relu6_backward(torch.full((4,), 2.0), output.detach())
    assert torch.equal(found, x.grad), "look at aten.hardtanh_backward(grad_output, self, min_val, max_val)"


def test_silu_backward():
    torch.manual_seed(0)
    x, gradient = torch.randn(9, requires_grad=True), torch.randn(9)
    F.silu(x).backward(gradient)
    found = compat.silu_backward(gradient, x.detach())
    torch.testing.assert_close(found, x.grad, msg=lambda m: f"look at aten.silu_backward(grad_output, self): {m}")


def batch_norm_arguments():
    torch.manual_seed(0)
    return torch.randn(4, 6, 5, 3), torch.randn(6), torch.randn(6), torch.randn(6), torch.rand(6)


def test_batch_norm():
    x, weight, bias, mean, var = batch_norm_arguments()
    own_mean, own_var = mean.clone(), var.clone()
    y, batch_mean, inverse_std = compat.batch_norm(x, weight, bias, own_mean, own_var, 0.1, 1e-3)
    expected = F.batch_norm(x, mean, var, weight, bias, True, 0.1, 1e-3)

    def message(difference):
        return f"look at torch.native_batch_norm: it returns the output, mean and 1 / std of the batch: {difference}"

    torch.testing.assert_close(y, expected, msg=message)
    torch.testing.assert_close((own_mean, own_var), (mean, var), msg=message)
    torch.testing.assert_close(batch_mean, x.mean((0, 2, 3)), msg=message)
    torch.testing.assert_close(inverse_std, (x.var((0, 2, 3), correction=0) + 1e-3).rsqrt(), msg=message)


@pytest.mark.parametrize("needed", [(True, True, True), (True, False, False), (False, True, True)])
def test_batch_norm_backward(needed):
    x, weight, bias, mean, var = batch_norm_arguments()
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    y = F.batch_norm(leaves[0], mean.clone(), var.clone(), leaves[1], leaves[2], True, 0.1, 1e-3)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    _, batch_mean, inverse_std = compat.batch_norm(x, weight, bias, mean, var, 0.1, 1e-3)
    found = compat.batch_norm_backward(gradient, x, weight, batch_mean, inverse_std, 1e-3, needed)
    for value, leaf, need in zip(found, leaves, needed, strict=True):
        assert (value is not None) == need
        if value is not None:
            torch.testing.assert_close(
                value, leaf.grad, msg=lambda m: f"look at the arguments of aten.native_batch_norm_backward: {m}"
            )


def test_create_features():
    message = "look at strict_img_size in timm: networks with fixed_input_size need it to accept images of other sizes"
    name = "swin_tiny_patch4_window7_224"
    assert compat.pretrained_config(name).fixed_input_size, message
    with torch.device("meta"):
        maps = compat.create_features(name).eval()(torch.empty(1, 3, 320, 256))
    assert [tuple(x.shape[1:3]) for x in maps] == [(80, 64), (40, 32), (20, 16), (10, 8)], message
    # Networks without a fixed input size do not have the option.
    with torch.device("meta"):
        assert compat.create_features("resnet18", out_indices=(1,)).feature_info.channels() == [64]


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "hrnet_w18", "swin_tiny_patch4_window7_224"])
def test_feature_indices(name):
    message = "look at feature_info.out_indices in timm.models._features: create_model must accept them again"
    with torch.device("meta"):
        complete = compat.create_features(name)
        indices = compat.feature_indices(complete)
        assert len(indices) == len(complete.feature_info.reduction()), message
        last = compat.create_features(name, out_indices=indices[-2:])
    assert last.feature_info.reduction() == complete.feature_info.reduction()[-2:], message
    assert compat.feature_indices(last) == indices[-2:], message


def test_returns_channels_last():
    message = "look at output_fmt of timm's feature extractors and at timm.layers.Format"
    for name, expected in (("swin_tiny_patch4_window7_224", True), ("resnet18", False), ("convnext_atto", False)):
        with torch.device("meta"):
            extractor = compat.create_features(name).eval()
            shape = extractor(torch.empty(1, 3, 224, 224))[-1].shape
        assert compat.returns_channels_last(extractor) == expected, message
        assert shape[3 if expected else 1] == extractor.feature_info.channels()[-1], message


@pytest.mark.parametrize("name", ["resnet18", "vgg16_bn", "hrnet_w18", "swin_tiny_patch4_window7_224", "inception_v4"])
def test_whole_network_keys(name):
    message = "look at timm.models._features: its extractors rename the keys of the network in a new way"
    with torch.device("meta"):
        extractor, whole = compat.create_features(name).state_dict(), timm.create_model(name).state_dict()
    keys = compat.whole_network_keys(extractor, whole)
    assert list(keys) == list(extractor)
    assert len(set(keys.values())) == len(keys), message
    for key, name_in_whole in keys.items():
        assert name_in_whole in whole, f"{message}: {key}"
        assert whole[name_in_whole].shape == extractor[key].shape, f"{message}: {key}"


def test_activation_of():
    message = "look at the children of timm.layers.BatchNormAct2d: a dropout and an activation"
    norm = timm.create_model("mobilenetv2_100").bn1.eval()
    x = 5 * torch.randn(2, norm.num_features, 3, 3)
    plain = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    torch.testing.assert_close(compat.activation_of(norm)(plain.clone()), norm(x), msg=lambda m: f"{message}: {m}")
    assert not torch.equal(norm(x), plain), message
    assert isinstance(compat.activation_of(nn.BatchNorm2d(3)), nn.Identity)


def test_pretrained_config():
    message = "look at the fields of timm.models.PretrainedCfg"
    config = compat.pretrained_config("resnet50.tv_in1k")
    assert (config.tag, config.hf_hub_id) == ("tv_in1k", "timm/resnet50.tv_in1k"), message
    assert config.has_weights, message
    assert (config.license, config.fixed_input_size) == ("bsd-3-clause", False), message
    assert (config.input_size, config.interpolation, config.crop_pct) == ((3, 224, 224), "bilinear", 0.875), message
    assert (config.mean, config.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), message
    assert str(config.url).endswith(".pth"), message
    assert not compat.pretrained_config("efficientnet_b8").has_weights, message
    assert compat.pretrained_config("no_such_network") is None, "look at timm.get_pretrained_cfg for unknown names"


def test_weights_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    message = "look at timm.models._hub.get_cache_dir: an error message names this folder to users"
    assert compat.weights_folder() == tmp_path / "hub" / "checkpoints", message
    assert compat.weights_folder().is_dir(), message


def test_python_3_name():
    message = "look at the tables of _compat_pickle, with which pickle writes Python 2's names in protocol 2"
    assert compat.python_3_name("commands", "Popen") == "subprocess.Popen", message
    assert compat.python_3_name("__builtin__", "long") == "builtins.int", message
    assert compat.python_3_name("copy_reg", "_reconstructor") == "copyreg._reconstructor", message
    assert compat.python_3_name("argparse", "Namespace") == "argparse.Namespace", message


@pytest.mark.parametrize("fused", [True, False])
def test_multiply_adds_of_attention_by_hand(fused):
    """A ViT at 512 px: 1,024 patches and the class token, width 192, 12 layers of 3 heads."""
    network = timm.create_model("vit_tiny_patch16_224", img_size=512, num_classes=10).eval()
    for block in network.blocks:
        block.attn.fused_attn = fused
    tokens, width = 1025, 192
    layer = 4 * tokens * width**2 + 2 * tokens**2 * width + 8 * tokens * width**2  # projections, attention, MLP
    expected = 1024 * width * 3 * 16 * 16 + 12 * layer + 10 * width
    for device in ("cpu", "meta"):
        counted = compat.multiply_adds(network.to(device), torch.zeros(1, 3, 512, 512, device=device))
        assert counted == pytest.approx(expected, rel=0.002)


def test_multiply_adds_of_torchs_own_attention_layer():
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval()
    expected = 4 * 100 * 64 * 64 + 2 * 100 * 100 * 64 + 2 * 100 * 64 * 128
    assert compat.multiply_adds(layer, torch.zeros(1, 100, 64)) == expected
    assert torch.backends.mha.get_fastpath_enabled()


def test_names_of_extractors():
    message = "look at timm.models._features and _builder: extractors keep `pretrained_cfg` and flatten names of layers"
    with torch.device("meta"):
        extractor = timm.create_model("vgg11", features_only=True)
    assert compat.architecture_of_extractor(extractor) == "vgg11", message
    assert compat.architecture_of_extractor(nn.Identity()) is None
    assert next(iter(extractor.state_dict())) == "features_0.weight", message
    assert compat.unflattened("features_0.weight") == "features.0.weight"
    assert compat.unflattened("layer1.0.conv1.weight") == "layer1.0.conv1.weight"


def test_create_dynamic():
    with torch.device("meta"):
        network = compat.create_dynamic("vit_tiny_patch16_224", depth=1, num_classes=0)
        assert network is not None, "VisionTransformer no longer takes `dynamic_img_size` and `dynamic_img_pad`"
        assert network(torch.empty(1, 3, 97, 130)).shape == (1, 192)
        assert compat.create_dynamic("beit_base_patch16_224", depth=1) is None, "BEiT takes `dynamic_img_size` now"


def test_converted_by_timm():
    """Position embeddings for another number of patches, and the names of DINOv2's authors."""
    with torch.device("meta"):
        network = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0)
    state = {"pos_embed": torch.ones(1, 1 + 7 * 7, 192), "mask_token": torch.zeros(1, 192)}
    converted = compat.converted_by_timm(network, state)
    assert converted is not None
    assert set(converted) == {"pos_embed"}
    torch.testing.assert_close(converted["pos_embed"], torch.ones(1, 1 + 14 * 14, 192))
    assert compat.converted_by_timm(network, {"encoder": 0}) is None


def test_relative_log_coordinates():
    found = compat.relative_log_coordinates((2, 3), (0, 0), "cr")
    assert found.shape == (3, 5, 2)
    torch.testing.assert_close(found[-1, -1], torch.tensor([2.0, 3.0]).log())


def test_layers_and_undecayed_parameters_of_a_timm_network():
    with torch.device("meta"):
        vit, caformer = timm.create_model("test_vit"), timm.create_model("caformer_s18")
    groups = compat.layer_groups(vit)
    assert groups is not None, "timm's `group_matcher` has another form: see timm.models.group_parameters"
    assert [groups[name] for name in ("patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.5.norm1.weight")] == [
        0, 1, 6,
    ]  # fmt: skip
    assert compat.layer_groups(torch.nn.Linear(2, 2)) is None
    assert compat.layer_groups(caformer) is None, "timm knows the layers of CAFormer now: mend the docstring"
    assert {"pos_embed", "cls_token"} <= compat.undecayed_names(vit)
    assert compat.undecayed_names(torch.nn.Linear(2, 2)) == set()
