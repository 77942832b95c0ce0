"""Networks for images of other channels than RGB: their first convolution, and weights of RGB in it."""

import logging
import types
from pathlib import Path

import pytest
import timm
import torch
from timm.models import adapt_input_conv
from torch import nn

from backbones import Level, create_backbone
from backbones.base import blank_images
from backbones.doctor import examine
from backbones.errors import BadInput, UserError
from backbones.inference import prepare_for_inference
from backbones.layers import early_parameters
from classification.build import create_classifier
from detection.model import create_detector
from segmentation.model import create_segmenter

LITE = "tf_efficientnet_lite0"


@pytest.mark.parametrize("channels", [1, 4])
def test_weights_of_rgb_are_adapted_as_in_timm(channels: int, caplog: pytest.LogCaptureFixture) -> None:
    rgb = create_backbone(LITE, pretrained=True)
    adapted = create_backbone(LITE, pretrained=True, channels=channels)
    assert adapted.provenance == rgb.provenance
    (record,) = caplog.records
    assert f"the first convolution is that of RGB, repeated and scaled for {channels} channels" in record.getMessage()
    theirs = timm.create_model(LITE, in_chans=channels)
    expected = rgb.state_dict()
    expected["conv_stem.weight"] = adapt_input_conv(channels, expected["conv_stem.weight"])
    assert expected["conv_stem.weight"].shape == theirs.state_dict()["conv_stem.weight"].shape
    for key, value in adapted.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["efficientnet_b0", "amoebanet_b_n3_f16", "resnet18", "test_convnext"])
def test_every_family_takes_any_channels(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        network = create_backbone(name, channels=5)
        images = blank_images(network, 64, 96)
        assert images.shape == (1, 5, 64, 96)
        assert [x.shape[1] for x in network(images)] == [level.channels for level in network.levels]
    with pytest.raises(RuntimeError), torch.device("meta"):
        network(torch.zeros(1, 3, 64, 96))


def test_a_file_of_timm_and_a_run_of_four_channels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = timm.create_model("test_resnet", num_classes=3)
    torch.save(whole.state_dict(), tmp_path / "rgb.pth")
    four = create_backbone("test_resnet", tmp_path / "rgb.pth", channels=4)
    key = next(key for key, value in four.state_dict().items() if value.ndim == 4)
    expected = adapt_input_conv(4, whole.state_dict()[four.published_names()[key]])  # type: ignore[operator]
    torch.testing.assert_close(four.state_dict()[key], expected)
    torch.save(four.state_dict(), tmp_path / "four.pth")
    caplog.clear()
    again = create_backbone("test_resnet", tmp_path / "four.pth", channels=4)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    torch.testing.assert_close(again.state_dict()[key], expected)
    for channels in (3, 5):
        with pytest.raises(BadInput, match="are for images of 4 channels: for such images, pass `channels=4`"):
            create_backbone("test_resnet", tmp_path / "four.pth", channels=channels)


def test_models_of_all_tasks_and_their_copies_for_inference() -> None:
    images = torch.randn(2, 4, 64, 64)
    models = (
        create_classifier("test_resnet", 3, channels=4),
        create_classifier("test_resnet", 3, neck="bifpn", channels=4),
        create_classifier("efficientnet_b0", 3, channels=4),
        create_segmenter("test_resnet", 3, channels=4),
        create_segmenter("test_resnet", 3, "deeplabv3plus", channels=4),
        create_detector("test_resnet", 3, channels=4),
    )
    for model in models:
        model.eval()
        assert blank_images(model, 8, 8).shape == (1, 4, 8, 8)
        with torch.inference_mode():
            expected, found = model(images), prepare_for_inference(model)(images)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert early_parameters(create_backbone("test_resnet", channels=4), 4, "test_resnet")


class Own(nn.Module):
    levels = (Level(3, 4), Level(3, 8), Level(3, 16), Level(3, 32))

    def __init__(self, in_chans: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_chans, 3, 1)
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, level.stride, 1) for level in self.levels)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(x)
        return [conv(x) for conv in self.convs]


def test_a_network_of_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("own")
    module.new, module.rgb = Own, lambda: Own()  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "own", module)
    assert create_backbone("own:new", channels=6).network.stem.in_channels == 6  # type: ignore[union-attr]
    assert create_backbone("own:rgb").input_channels == 3
    with pytest.raises(UserError, match="6 channels, but 'rgb' has no keyword `in_chans`"):
        create_backbone("own:rgb", channels=6)
    findings = examine("own:new", image_sizes=((64, 64),), channels=6)
    assert {finding.check for finding in findings if finding.state == "failed"} <= {"gradients", "alignment"}
