"""The doctor on networks with one mistake each, and on networks that the README names."""

import sys

import pytest
import torch
from torch import nn

from backbones import Level
from backbones.doctor import examine, main

NAMED = ["efficientnet_b0", "tf_efficientnet_lite0", "resnet18", "mobilenetv2_100"]
LARGE = ["inception_v3", "resnet50", "vgg16", "inception_v4"]


class Correct(nn.Module):
    """Four plain stages."""

    levels = tuple(Level(8, stride) for stride in (4, 8, 16, 32))

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.stages = nn.ModuleList(nn.Conv2d(8, 8, 3, 2, 1) for _ in range(4))

    def forward(self, images):
        x, maps = self.stem(images), []
        for stage in self.stages:
            maps.append(x := stage(x.relu()))
        return maps


class Detached(Correct):
    def forward(self, images):
        *maps, last = super().forward(images)
        return [*maps, last.detach()]


class Shifted(Correct):
    def forward(self, images):
        return [torch.roll(x, 3, dims=-1) for x in super().forward(images)]


class Constant(Correct):
    def forward(self, images):
        first, *maps = super().forward(images)
        return [first * 0 + 1, *maps]


class NotFinite(Correct):
    def forward(self, images):
        return [x.sqrt() for x in super().forward(images)]


class Mixing(Correct):
    def forward(self, images):
        return [x - x.mean(0) for x in super().forward(images)]


class Layout(Correct):
    def forward(self, images):
        if images.is_contiguous():
            return super().forward(images)
        return [x.flip(1) for x in super().forward(images)]


class Idle(Correct):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(4, 4)


class Normed(Correct):
    def __init__(self, **options):
        super().__init__()
        self.norm = nn.BatchNorm2d(8, **options)

    def forward(self, images):
        first, *maps = super().forward(images)
        return [self.norm(first), *maps]


class Restless(Normed):
    def forward(self, images):
        self.norm.train()
        return super().forward(images)


class Frozen(Normed):
    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self


class Forgetful(Normed):
    def __init__(self):
        super().__init__(track_running_stats=False)


class Concrete(Correct):
    def forward(self, images):
        return [x * images.max().item() ** 0 for x in super().forward(images)]


class SquareOnly(Correct):
    def forward(self, images):
        maps = super().forward(images)
        return [x[..., : x.shape[-2]] if x.shape[-1] > 50 else x for x in maps]


@pytest.mark.parametrize(
    ("network", "check", "state", "message"),
    [
        (Detached, "gradients", "failed", "stride 32 is detached"),
        (Shifted, "alignment", "failed", "cells from"),
        (Constant, "values at stride 4", "failed", "the same for every image"),
        (NotFinite, "values at stride 4", "failed", "not a number"),
        (Mixing, "images of a batch", "failed", "other images of the batch"),
        (Layout, "channels-last", "failed", "the maps differ"),
        (Idle, "gradients", "warning", "2 parameters never learn: network.spare.bias"),
        (Restless, "batch norm", "failed", "network.norm changes its statistics in evaluation"),
        (Frozen, "batch norm", "warning", "1 of 1 do not update their statistics in training mode: network.norm"),
        (Forgetful, "batch norm", "failed", "network.norm has no running statistics"),
        (Concrete, "cost", "warning", "does not run on the meta device"),
        (SquareOnly, "maps of 333x500", "failed", "but `levels` require"),
    ],
)
def test_each_mistake_is_found(monkeypatch, capsys, network, check, state, message):
    module = type(sys)("custom_network")
    module.network = network
    monkeypatch.setitem(sys.modules, "custom_network", module)
    found = {finding.check: finding for finding in examine("custom_network:network")}
    assert found[check].state == state
    assert message in found[check].message
    assert main(["custom_network:network"]) == (3 if state == "failed" else 0)
    assert message.split()[0] in capsys.readouterr().out


@pytest.mark.parametrize("name", [*NAMED, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_named_networks_pass(name):
    found = examine(name)
    assert [(f.check, f.message) for f in found if f.state == "failed"] == []
    warned = {f.check for f in found if f.state == "warning"}
    assert warned <= ({"alignment"} if name.startswith("inception") else set())


def test_a_correct_custom_network_passes(monkeypatch, capsys):
    module = type(sys)("custom_network")
    module.network = Correct
    monkeypatch.setitem(sys.modules, "custom_network", module)
    assert main(["custom_network:network", "custom_network:network"]) == 0
    assert capsys.readouterr().out.count("alignment") == 2
    assert main(["resnet51"]) == 2
    assert "Did you mean" in capsys.readouterr().err


def test_batch_norms_are_restored(monkeypatch):
    network = Normed()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    module = type(sys)("custom_network")
    module.network = lambda: network
    monkeypatch.setitem(sys.modules, "custom_network", module)
    assert {f.check: f.state for f in examine("custom_network:network")}["batch norm"] == "ok"
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_costs_up_to_each_map():
    """ResNet-18 by hand at 256x256: stem and two blocks of 64 channels at stride 4, multiply-adds of convolutions."""
    stem, block = 3 * 64 * 49 * 128**2, 2 * 64 * 64 * 9 * 64**2
    params = 3 * 64 * 49 + 4 * 64 * 64 * 9 + 5 * 2 * 64
    messages = {f.check: f.message for f in examine("resnet18", image_sizes=[(64, 64)])}
    assert f"{params / 1e6:.3g}M and {(stem + 2 * block) / 1e9:.3g}B to stride 4" in messages["cost"]
    assert messages["maps"].endswith("correct sizes for images of 64x64")


def test_image_sizes_of_the_command(capsys):
    assert main(["resnet18", "--image_size", "64", "65x97"]) == 0
    assert "64x64, 65x97" in capsys.readouterr().out
    with pytest.raises(SystemExit) as done:
        main(["resnet18", "--image_size", "0"])
    assert done.value.code == 2


def test_normalisation_of_packaged_weights():
    found = {f.check: f for f in examine("tf_efficientnet_lite0", True)}
    assert "mean 0.500" in found["normalisation"].message
    assert {f.state for f in found.values()} == {"ok"}
