"""The classifier equals the published network, and loads the backbone of any run."""

import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from backbones import create_backbone
from backbones.base import Backbone
from backbones.errors import BadInput, UserError
from backbones.layers import early_parameters
from backbones.mbconv import StochasticDepth
from classification.build import create_classifier
from classification.config import TrainConfig
from classification.transforms import EvalCrop
from classification.weight_imprinting import imprint
from data.batch import collate, normalise
from data.class_dataset import ClassDataset
from detection.model import create_detector
from engine.optimization import freeze_early


def with_random_statistics(network: nn.Module) -> nn.Module:
    """Set random running statistics, so that no batch norm is the identity."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


def save(state: dict[str, Tensor], file: Path, prefix: str = "") -> Path:
    """Write a checkpoint and return its path."""
    torch.save({"state_dict": {prefix + key: value for key, value in state.items()}}, file)
    return file


PUBLISHED = [
    *("tf_efficientnet_lite0", "efficientnet_b0", "tf_efficientnet_b0", "resnet18", "mobilenetv3_small_050"),
    *("densenet121", "convnext_atto", "inception_v3", "regnetx_002"),
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_equal_timms(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = with_random_statistics(timm.create_model(name)).eval()
    ours = create_classifier(name, 1000, save(theirs.state_dict(), tmp_path / "weights.pth")).eval()
    images = torch.randn(2, 3, 96, 128)
    with torch.inference_mode():
        expected = theirs(images)
        assert (ours(images) - expected).abs().max() < 1e-4 * max(1, float(expected.std()))
    assert expected.std() > 1e-3
    assert not caplog.records
    assert ours.provenance.recipe == "timm or torchvision"
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_new_class_layer_starts_from_zero(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = save(timm.create_model("resnet18").state_dict(), tmp_path / "weights.pth")
    with caplog.at_level(logging.WARNING):
        model = create_classifier("resnet18", 7, file)
    assert "'fc.weight' dropped" in caplog.text
    assert model(torch.randn(2, 3, 64, 64)).abs().max() == 0
    assert create_classifier("tf_efficientnet_lite0", 7)(torch.randn(2, 3, 64, 64)).abs().max() == 0


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "mobilenetv2_100"])
@pytest.mark.parametrize("neck", [None, "bifpn", "fpn", "panet"])
def test_every_parameter_has_a_gradient_and_belongs_to_one_part(name: str, neck: str | None) -> None:
    model = create_classifier(name, 5, neck=neck)
    nn.init.normal_(model.head.classifier.weight)
    logits = model(torch.randn(3, 3, 65, 97))
    assert logits.shape == (3, 5)
    nn.functional.cross_entropy(logits, torch.tensor([0, 3, 4])).backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    parts = [model.backbone, model.head, *([model.neck] if neck else [])]
    assert sum(len(list(part.parameters())) for part in parts) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("name", "neck"), [("tf_efficientnet_lite0", None), ("resnet18", None), ("densenet121", None), ("resnet18", "fpn")]
)
def test_backbone_of_a_classification_run(name: str, neck: str | None, tmp_path: Path) -> None:
    model = with_random_statistics(create_classifier(name, 3, neck=neck)).eval()
    file = save(model.state_dict(), tmp_path / "last.ckpt", "model.")
    backbone = create_backbone(name, file).eval()
    assert backbone.provenance.recipe == "run checkpoint"
    probe = create_classifier(name, 3, file, neck=neck).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        first, again = (m.backbone(images) for m in (model, probe))
        assert torch.equal(first[-1], again[-1])
        if isinstance(model.backbone, Backbone):
            assert torch.equal(backbone(images)[-1], first[-1])


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "densenet121"])
def test_backbone_of_a_detection_run(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The feature extractor of timm for Densenet names its layers otherwise than the whole network."""
    detector = with_random_statistics(create_detector(name, 2))
    model = create_classifier(name, 4, save(detector.state_dict(), tmp_path / "last.ckpt", "model."))
    assert "head" in caplog.text
    theirs = {key.removeprefix("network."): value for key, value in detector.backbone.state_dict().items()}
    if name == "densenet121":
        theirs = {key.replace("features_", "features."): value for key, value in theirs.items()}
    ours = model.backbone.state_dict()
    assert len(theirs) > 50
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


def test_head_of_a_classification_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = with_random_statistics(create_classifier("tf_efficientnet_lite0", 3))
    nn.init.normal_(run.head.classifier.weight)
    file = save(run.state_dict(), tmp_path / "last.ckpt", "model.")
    same = create_classifier("tf_efficientnet_lite0", 3, file)
    assert not caplog.records
    assert all(torch.equal(value, run.state_dict()[key]) for key, value in same.state_dict().items())
    assert same.provenance.source == f"file:{file}"
    assert len(same.provenance.sha256 or "") == 64
    other = create_classifier("tf_efficientnet_lite0", 4, file)
    assert "'head.classifier.weight' is dropped" in caplog.text
    assert torch.equal(other.head.conv_head.weight, run.head.conv_head.weight)
    assert other.head.classifier.weight.abs().max() == 0
    with_neck = create_classifier("tf_efficientnet_lite0", 3, file, neck="bifpn")
    assert torch.equal(with_neck.backbone.conv_stem.weight, run.backbone.conv_stem.weight)
    with pytest.raises(BadInput, match="does not contain the network"):
        create_classifier("resnet18", 3, file)


def test_stochastic_depth() -> None:
    model = create_classifier("tf_efficientnet_lite0", 2, stochastic_depth=0.4)
    rates = [module.rate for module in model.modules() if isinstance(module, StochasticDepth)]
    assert rates == sorted(rates)
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.4 * 15 / 16)  # the last of 16 blocks
    off = create_classifier("tf_efficientnet_lite0", 2, stochastic_depth=0.0)
    assert not any(module.rate for module in off.modules() if isinstance(module, StochasticDepth))
    deep = create_classifier("resnet18", 2, stochastic_depth=0.3)
    drops = [m.drop_prob for m in deep.modules() if isinstance(m, timm.layers.DropPath)]
    assert max(drops) == pytest.approx(0.3)
    pyramid = create_classifier("resnet18", 2, neck="fpn", stochastic_depth=0.3)
    drops = [m.drop_prob for m in pyramid.modules() if isinstance(m, timm.layers.DropPath)]
    assert max(drops) == pytest.approx(0.3)
    for name, neck in (("vgg11", None), ("vgg11", "fpn")):
        with pytest.raises(UserError, match=r"`stochastic_depth=.*` cannot be set for 'vgg11'"), torch.device("meta"):
            create_classifier(name, 2, neck=neck, stochastic_depth=0.3)
        with torch.device("meta"):
            create_classifier(name, 2, neck=neck, stochastic_depth=0.0)


def test_early_parameters_of_an_efficientnet() -> None:
    """`freeze_stride=4` needs them."""
    backbone = create_classifier("tf_efficientnet_lite0", 2).backbone
    assert isinstance(backbone, Backbone)
    early = early_parameters(backbone, 4, "tf_efficientnet_lite0")
    assert 0 < len(early) < len(list(backbone.parameters())) / 2


@pytest.mark.parametrize(
    ("name", "stride", "last"),
    [
        ("resnet18", 4, "layer1.1.bn2.bias"),
        ("resnet18", 8, "layer2.1.bn2.bias"),
        ("vit_tiny_patch16_224", 4, "blocks.3.mlp.fc2.bias"),
        ("vit_tiny_patch16_224", 8, "blocks.7.mlp.fc2.bias"),
        ("vit_tiny_patch16_224", 16, "norm.bias"),  # all
    ],
)
def test_early_parameters_of_a_whole_network_of_timm(name, stride, last) -> None:
    with torch.device("meta"):
        backbone = create_classifier(name, 2).backbone
    early = {id(p) for p in early_parameters(backbone, stride, name)}
    names = [key for key, _ in backbone.named_parameters()]
    assert [key for key, p in backbone.named_parameters() if id(p) in early] == names[: names.index(last) + 1]


def test_unknown_and_unsuitable_names() -> None:
    with pytest.raises(UserError, match="resnet50"):
        create_classifier("resnet51", 3)
    with pytest.raises(UserError, match="bifpn"):
        create_classifier("resnet18", 3, neck="bifp")
    with pytest.raises(UserError, match="no feature map at stride"):
        create_classifier("mixer_s16_224", 3)
    with pytest.raises(UserError, match="`neck='bifpn'`"):
        create_classifier("dla34", 3)


def test_weight_imprinting(tmp_path: Path) -> None:
    """Weights of each new class are published weights, mixed by the mean probabilities of its images."""
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(20):
            pixels = random.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "train" / name / f"{i:02d}.png")
    dataset = ClassDataset.open(tmp_path, "train")
    model = with_random_statistics(create_classifier("resnet18", 9))
    nn.init.normal_(model.head.classifier.weight)
    nn.init.normal_(model.head.classifier.bias)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    settings = {"mean": [0.4] * 3, "std": [0.3] * 3}
    crop = EvalCrop((32, 32), 1.0, "bilinear")
    chosen = [label * 20 + i for label in range(2) for i in np.linspace(0, 19, 16).round().astype(int)]
    with torch.inference_mode():
        images = collate([crop(dataset[int(i)], 0) for i in chosen]).images
        probabilities = model.eval()(normalise(images, **settings)).softmax(1).view(2, 16, 9).mean(1)
    imprint(model.train(), dataset, crop, settings)
    assert model.training
    weight, bias = (before[f"head.classifier.{name}"] for name in ("weight", "bias"))
    assert torch.allclose(model.head.classifier.weight, probabilities @ weight, atol=1e-5)
    assert torch.allclose(model.head.classifier.bias, probabilities @ bias, atol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if not k.startswith("head."))
    assert dataset.transform is None


def test_stages_of_a_network_of_ones_own_can_be_frozen(monkeypatch):
    """Its head needs only the coarsest map, but the backbone returns the maps that the stages end with."""
    module = type(sys)("own_networks")
    module.small = lambda: timm.create_model("resnet10t", features_only=True)
    monkeypatch.setitem(sys.modules, "own_networks", module)
    backbone = create_classifier("own_networks:small", 2).backbone
    config = TrainConfig(backbone="own_networks:small", freeze_stride=4)
    assert 0 < len(freeze_early(backbone, config)) < len(list(backbone.modules())) / 2
    with pytest.raises(UserError, match="`freeze_stride=5` is not possible: no level at stride"):
        freeze_early(backbone, replace(config, freeze_stride=5))
