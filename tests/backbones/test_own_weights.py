"""Networks of the user's own with weight files: names of the wrapped network, strict loading, and metadata."""

import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from backbones import Level, create_backbone
from backbones.checks import normalisation
from backbones.errors import BadInput, UserError, with_flags
from backbones.pretraining import group_of_text
from backbones.weight_facts import weight_facts

LAYERS = (1, 1, 1, 2)  # of resnet10t, with one block more in its last stage
EXTRACTORS = ("convnext_atto", "swin_tiny_patch4_window7_224", "mobilenetv2_035")
METADATA = {
    "source": "a test", "license": "MIT", "pretraining": "supervised, ImageNet",
    "architecture": "ResNet-10 with one block more", "input": "RGB, 0-1, mean 0.1 0.2 0.3, std 0.4 0.5 0.6",
}  # fmt: skip


class Wrapped(nn.Module):
    """A network as an attribute."""

    levels = Level(64, 4), Level(128, 8), Level(256, 16), Level(512, 32)

    def __init__(self) -> None:
        super().__init__()
        self.net = timm.create_model("resnet10t", layers=LAYERS, num_classes=0)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return self.net.forward_intermediates(images, indices=[1, 2, 3, 4], intermediates_only=True)


@pytest.fixture(autouse=True)
def networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of networks."""
    module: Any = type(sys)("my_networks")
    module.longer = lambda: timm.create_model("resnet10t", layers=LAYERS, features_only=True)
    module.Wrapped = Wrapped
    for name in EXTRACTORS:
        options = {"strict_img_size": False} if "swin" in name else {}
        setattr(module, name.partition("_")[0], partial(timm.create_model, name, features_only=True, **options))
    monkeypatch.setitem(sys.modules, "my_networks", module)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Weights of the longer ResNet-10 under timm's names, as files without a class layer have them."""
    torch.manual_seed(0)
    state = timm.create_model("resnet10t", layers=LAYERS, num_classes=0).state_dict()
    state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "a=b.safetensors", METADATA)
    return tmp_path / "a=b.safetensors"


@pytest.mark.parametrize("name", ["my_networks:longer", "my_networks:Wrapped"])
def test_a_file_with_timms_names_loads_into_a_wrapped_network(name: str, file: Path) -> None:
    whole = timm.create_model("resnet10t", layers=LAYERS, num_classes=0).eval()
    backbone = create_backbone(name, pretrained=file).eval()
    state = {key.removeprefix("network.").removeprefix("net."): value for key, value in backbone.state_dict().items()}
    whole.load_state_dict(state, strict=True)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(backbone(images)[-1], whole.forward_features(images))
    assert torch.equal(state["layer4.1.conv2.weight"], load_file(file)["layer4.1.conv2.weight"])


def test_loading_names_the_blocks_that_are_left_over_or_missing(file: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        create_backbone("resnet10t", pretrained=file)
    assert with_flags(caught.value).endswith(
        "does not fit 'resnet10t': layer4.1 (10 tensors) is not part of the network. Choose the --backbone that these "
        "weights belong to. The file describes its network as: ResNet-10 with one block more."
    )
    save_file(timm.create_model("resnet10t").state_dict(), tmp_path / "short.safetensors")
    with pytest.raises(BadInput, match=r"layer4\.1 \(10 tensors\) is missing\. Choose"):
        create_backbone("my_networks:longer", pretrained=tmp_path / "short.safetensors")
    save_file(load_file(file) | {"layer9.weight": torch.ones(1)}, file)
    with pytest.raises(BadInput, match=r"layer9\.weight is not part of the network"):
        create_backbone("my_networks:longer", pretrained=file)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_an_extractor_of_timm_is_the_same_backbone_as_by_its_name(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Renamed layers (ConvNeXt), channels last and padding (Swin), and a file with layers after the last map."""
    state = timm.create_model(name, num_classes=2).state_dict()
    torch.save(state, tmp_path / "w.pth")
    own = create_backbone(f"my_networks:{name.partition('_')[0]}", tmp_path / "w.pth", strides=(8, 32)).eval()
    named = create_backbone(name, tmp_path / "w.pth", strides=(8, 32)).eval()
    images = torch.randn(1, 3, 65, 70)
    with torch.no_grad():
        assert own.levels == named.levels
        assert all(torch.equal(a, b) for a, b in zip(own(images), named(images), strict=True))
    run = {f"model.backbone.{key}": value for key, value in own.state_dict().items()}
    torch.save({"state_dict": run}, tmp_path / "r.pth")
    again = create_backbone(own.name, tmp_path / "r.pth")
    assert all(torch.equal(a, b) for a, b in zip(own.state_dict().values(), again.state_dict().values(), strict=True))
    assert "contains the network as" not in caplog.text


def test_metadata_become_the_provenance(file: Path) -> None:
    backbone = create_backbone("my_networks:longer", pretrained=file)
    found = backbone.provenance
    assert (found.group, found.method, found.data) == ("supervised, ImageNet-1k", "supervised", "ImageNet")
    assert (found.license, found.origin, found.source) == ("MIT", "a test", f"file:{file}")
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert next(iter(normalisation(backbone))).state == "ok"
    save_file(load_file(file), file)
    backbone = create_backbone("my_networks:longer", pretrained=file)
    assert (backbone.provenance.group, backbone.provenance.license) == ("unknown", None)
    assert "does not state" in next(iter(normalisation(backbone))).message
    assert create_backbone("my_networks:longer").provenance.group == "random"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"mean": "0.5 0.5"}, "'mean' is '0.5 0.5', not 3 numbers"),
        ({"std": "a b c"}, "'std' is 'a b c', not 3 numbers"),
        ({"std": "0 1 1"}, "must be positive"),
        ({"crop_pct": "nan"}, "'crop_pct' is 'nan', not 1 number"),
    ],
)
def test_metadata_that_cannot_be_read(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "w.safetensors", metadata)
    with pytest.raises(BadInput, match=message):
        weight_facts(tmp_path / "w.safetensors")


def test_other_metadata(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    metadata = {"format": "pt", "mean": "[0.5, 0.5, 0.5]", "input_size": "96x128", "input": "BGR, 0-255"}
    save_file({"x": torch.ones(1)}, tmp_path / "w.safetensors", metadata)
    with caplog.at_level(logging.WARNING):
        assert weight_facts(tmp_path / "w.safetensors").known == {"mean": (0.5,) * 3, "input_size": (96, 128)}
    assert 'expects the input "BGR, 0-255"' in caplog.text


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("supervised, ImageNet", "supervised, ImageNet-1k"),
        ("Supervised, ILSVRC 2012", "supervised, ImageNet-1k"),
        ("supervised, ImageNet-22k", "supervised, ImageNet-21k"),
        ("supervised, ImageNet-12k, ImageNet-1k", "supervised, ImageNet-21k"),
        ("supervised, Places365", "supervised, other data"),
        ("supervised", "supervised, other data"),
        ("DINOv2, LVD-142M", "self-supervised"),
        ("self-supervised (MAE), ImageNet-1k", "self-supervised"),
        ("CLIP, LAION-2B", "image-text"),
        ("SAM, SA-1B", "segmentation"),
        ("distilled from DINOv3 ViT-7B", "distilled"),
        ("random", "unknown"),
        ("ImageNet", "unknown"),
        ("", "unknown"),
    ],
)
def test_groups_of_descriptions(text: str, group: str) -> None:
    assert group_of_text(text) == group


def test_a_network_that_timm_made_without_features_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["my_networks"], "plain", lambda: timm.create_model("resnet10t"), raising=False)
    with pytest.raises(UserError, match=r"has the `levels` None.*`features_only=True`"):
        create_backbone("my_networks:plain")
