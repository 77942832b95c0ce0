"""Networks of the user's own: the README's example in every task, and errors for networks that break the contract."""

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from backbones import Level, create_backbone
from backbones.__main__ import main
from backbones.errors import BadInput, UserError
from classification.build import create_classifier
from detection.model import create_detector
from experiments.compare.cells import check_backbones
from segmentation.model import create_segmenter

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The README's `mine.py` in a folder where Python finds modules."""
    code = re.search(r"```python\n# mine\.py\n(.*?)```", README.read_text(), re.S).group(1)
    assert len([line for line in code.splitlines() if line]) <= 10
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield "mine:Small"
    sys.modules.pop("mine", None)


def test_the_readmes_network_serves_every_task(example):
    images = torch.randn(2, 3, 97, 130)
    assert create_classifier(example, 3)(images).shape == (2, 3)
    assert create_classifier(example, 3, neck="bifpn")(images).shape == (2, 3)
    assert create_segmenter(example, 4)(images).shape == (2, 4, 97, 130)
    assert create_segmenter(example, 4, "fpn")(images).shape == (2, 4, 97, 130)
    logits, deltas = create_detector(example, 5)(images)
    assert logits.shape[-1] == 5
    assert deltas.shape[-1] == 4
    assert create_backbone(example).provenance.source == "random"
    check_backbones([example])


def test_the_list_of_backbones_shows_it(example, capsys):
    assert main([example]) == 0
    assert "32@4 64@8 128@16 256@32" in capsys.readouterr().out
    assert main(["mine:Absent"]) == 2
    assert "has no 'Absent'" in capsys.readouterr().err


def test_weights_load_from_a_file(example, tmp_path):
    backbone = create_backbone(example)
    torch.save(backbone.state_dict(), tmp_path / "own.pth")
    loaded = create_backbone(example, tmp_path / "own.pth", strides=(8, 16, 32))
    assert loaded.provenance.source.startswith("file:")
    for a, b in zip(loaded.state_dict().values(), backbone.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(BadInput, match="no weights are published"):
        create_backbone(example, pretrained=True)


class Wrong(nn.Module):
    levels = (Level(3, 4), Level(3, 8), Level(3, 16), Level(3, 32))

    def forward(self, images):
        return [images[..., ::stride, ::stride] for stride in (4, 8, 8, 32)]


class Short(Wrong):
    levels = (Level(3, 4),)


class Raising(Wrong):
    def forward(self, images):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:f", "cannot be imported"),
        (":f", "cannot be imported"),
        ("torch:no_such_function", "has no 'no_such_function'"),
        ("builtins:dict", "returns a dict"),
        ("custom_networks:plain", "has the `levels` None"),
        ("custom_networks:wrong", r"shape \(1, 3, 13, 17\) at stride 16.*require \(1, 3, 7, 9\)"),
        ("custom_networks:short", "no level at stride"),
        ("custom_networks:raising", "fails on an image"),
    ],
)
def test_errors_name_what_breaks_the_contract(monkeypatch, name, message):
    module = type(sys)("custom_networks")
    module.plain = nn.Identity
    module.wrong = Wrong
    module.short = Short
    module.raising = Raising
    monkeypatch.setitem(sys.modules, "custom_networks", module)
    with pytest.raises(UserError, match=message):
        create_backbone(name)
