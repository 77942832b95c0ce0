"""Tests the profile: counts by hand and without hooks, parts against the whole, and the command."""

import csv

import pytest
import torch
from torch import nn

from detection.model import create_detector
from engine.record import cost
from experiments.profile import __main__ as profile
from experiments.profile.config import ProfileConfig
from experiments.profile.runner import measure_parts
from tests.commands import fails, run

CPU = torch.device("cpu")


class Toy(nn.Module):
    """A convolution as backbone and another as head, with a nonlinearity whose output is stored for backward."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid())
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, images):
        return self.head(self.backbone(images))


def test_costs_by_hand():
    config = ProfileConfig(image_size=32, batch_size=2, repeats=3)
    backbone, head, whole = measure_parts(Toy(), "detection", "toy", config, CPU)
    assert [c.part for c in (backbone, head, whole)] == ["backbone", "head", "whole"]
    assert (backbone.params, head.params, whole.params) == (8 * 27 + 8, 8 * 4 + 4, 8 * 27 + 8 + 36)
    assert (backbone.macs, head.macs) == (32 * 32 * 8 * 27, 32 * 32 * 8 * 4)
    assert whole.macs == backbone.macs + head.macs
    # Sigmoid stores its output for backward. It is also the head's input, and counts once, for the backbone.
    assert backbone.activations_mb == pytest.approx(2 * 8 * 32 * 32 * 4 / 2**20)
    assert whole.activations_mb == backbone.activations_mb
    assert whole.p50_ms >= backbone.p50_ms > 0
    assert whole.p95_ms >= whole.p50_ms
    assert whole.images_per_second == pytest.approx(2000 / whole.p50_ms)


def test_parts_make_up_the_detector():
    model = create_detector("tf_efficientnet_lite0", 3)
    *parts, whole = measure_parts(model, "detection", "lite0", ProfileConfig(image_size=64, repeats=1), CPU)
    assert [part.part for part in parts] == ["backbone", "neck", "head"]
    assert sum(part.params for part in parts) == whole.params
    assert sum(part.macs for part in parts) == whole.macs
    assert sum(part.activations_mb for part in parts) == pytest.approx(whole.activations_mb, rel=0.05)
    expected = cost(model, (64, 64), CPU)
    assert (whole.params, whole.macs) == (expected["params"], expected["macs"])


def test_command(capsys, tmp_path):
    run(profile, "--backbones", "efficientnet_b0", "mobilenetv2_050", "--tasks", "classification", "segmentation",
        "--image_size", "32x64", "--repeats", "1", "--output", tmp_path)  # fmt: skip
    output = capsys.readouterr().out
    assert "32x64 px, batch 1, fp32, cpu" in output
    assert "parameters 5.29 M, published 5.30 M: agrees" in output
    rows = list(csv.DictReader((tmp_path / "profile.csv").open()))
    assert len(rows) == 2 * (3 + 4)
    assert (tmp_path / "profile.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "pose"], "there are classification"),
        (["--repeats", "0"], "at least 1"),
        (["--backbones", "resnet51"], "Did you mean"),
        (["--image_size", "7"], "must be N or HxW"),
    ],
)
def test_wrong_usage(capsys, tmp_path, arguments, message):
    assert message in fails(capsys, 2, profile, *arguments, "--output", tmp_path)
