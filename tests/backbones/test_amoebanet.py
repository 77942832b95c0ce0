"""AmoebaNet against published sizes: GPipe's, and those of AmoebaNet-A and D with the same stem and connections."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from backbones import amoebanet, create_backbone, list_backbones
from backbones.__main__ import main
from backbones.amoebanet import NORMAL, REDUCTION, AmoebaNet, Cell, FactorizedReduction, Genotype
from backbones.base import Level
from backbones.doctor import examine
from backbones.errors import BadInput, UserError
from classification.build import create_classifier
from detection.model import create_detector
from segmentation.model import create_segmenter

SMALL = "amoebanet_b_n3_f16"

# The other two networks with published sizes, tensorflow/tpu `amoeba_net/model_specs.py`.
NORMAL_A = Genotype(
    (
        (("average_3x3", 0), ("max_3x3", 0)),
        (("separable_3x3", 1), ("identity", 1)),
        (("identity", 0), ("average_3x3", 1)),
        (("separable_3x3", 0), ("separable_5x5", 2)),
        (("average_3x3", 5), ("separable_3x3", 0)),
    ),
    output=(1, 3, 4, 6),
)
REDUCTION_A = Genotype(
    (
        (("separable_3x3", 1), ("average_3x3", 0)),
        (("max_3x3", 0), ("separable_7x7", 2)),
        (("max_3x3", 1), ("max_3x3", 0)),
        (("separable_3x3", 4), ("conv_7x7", 0)),
        (("average_3x3", 1), ("separable_7x7", 0)),
    ),
    output=(2, 3, 4, 5, 6),
)
NORMAL_D = Genotype(
    (
        (("conv_1x1", 1), ("max_3x3", 1)),
        (("identity", 1), ("conv_7x7", 0)),
        (("conv_1x1", 0), ("conv_7x7", 0)),
        (("max_3x3", 2), ("identity", 2)),
        (("average_3x3", 1), ("conv_1x1", 5)),
    ),
    output=(0, 3, 4, 6),
)
REDUCTION_D = Genotype(
    (
        (("max_2x2", 0), ("max_3x3", 0)),
        (("identity", 2), ("conv_3x3", 1)),
        (("conv_7x7", 2), ("max_3x3", 2)),
        (("identity", 3), ("max_2x2", 1)),
        (("average_3x3", 2), ("conv_1x1", 3)),
    ),
    output=(4, 5, 6),
)


def conv_7x7(inputs: int, outputs: int, stride: int) -> nn.Module:
    """A bottleneck: 1x1 to a quarter of the filters, 1x7, 7x1, and 1x1 back."""
    narrow = outputs // 4
    row = nn.Conv2d(narrow, narrow, (1, 7), (1, stride), (0, 3), bias=False)
    column = nn.Conv2d(narrow, narrow, (7, 1), (stride, 1), (3, 0), bias=False)
    return nn.Sequential(
        *(nn.ReLU(), nn.Conv2d(inputs, narrow, 1, bias=False), nn.BatchNorm2d(narrow)),
        *(nn.ReLU(), row, nn.BatchNorm2d(narrow), nn.ReLU(), column, nn.BatchNorm2d(narrow)),
        *(nn.ReLU(), nn.Conv2d(narrow, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
    )


def cost(name: str, size: int) -> tuple[float, float]:
    """Parameters and multiply-adds in millions, with a class layer for 1000 classes and "background"."""
    with torch.device("meta"), torch.no_grad():
        model = create_classifier(name, 1001).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, size, size))
    return sum(p.numel() for p in model.parameters()) / 1e6, counter.get_total_flops() / 2e6


def test_gpipes_network_has_557_million_parameters() -> None:
    params, _ = cost("amoebanet_b", 64)
    assert params == pytest.approx(557, abs=0.5)  # arXiv:1811.06965v5, abstract
    assert cost("amoebanet_b_n18_f512", 64)[0] == params


@pytest.mark.parametrize(
    ("cells", "size", "params", "macs"),
    [
        # arXiv:1802.01548, table 2: A (N=6, F=190), with multiply-adds at 331 px, and A (N=6, F=448).
        ((NORMAL_A, REDUCTION_A), (18, 190), 86.7, 23.1e3),
        ((NORMAL_A, REDUCTION_A), (18, 448), 469, None),
        # arXiv:1811.06965, table 1: AmoebaNet-D by cells and filters.
        ((NORMAL_D, REDUCTION_D), (18, 416), 318, None),
        ((NORMAL_D, REDUCTION_D), (36, 544), 1050, None),
    ],
)
def test_other_cells_have_their_published_sizes(monkeypatch, cells, size, params, macs) -> None:
    """Stem, widths, strides and connections are correct for cells of other architectures too."""
    more = {"separable_5x5": amoebanet._separable(5), "separable_7x7": amoebanet._separable(7), "conv_7x7": conv_7x7}
    monkeypatch.setattr(amoebanet, "OPERATIONS", amoebanet.OPERATIONS | more)
    monkeypatch.setattr(amoebanet, "NORMAL", cells[0])
    monkeypatch.setattr(amoebanet, "REDUCTION", cells[1])
    measured = cost("amoebanet_b_n{}_f{}".format(*size), 331 if macs else 64)
    assert measured[0] == pytest.approx(params, rel=0.005)
    assert macs is None or measured[1] == pytest.approx(macs, rel=0.005)


def test_the_normal_cell_of_the_papers_figure_has_fewer_parameters_than_gpipes(monkeypatch) -> None:
    monkeypatch.setattr(amoebanet, "NORMAL", Genotype(NORMAL.sums, output=(3, 4, 6)))
    assert cost("amoebanet_b", 64)[0] == pytest.approx(498, abs=0.5)


@pytest.mark.parametrize("genotype", [NORMAL, REDUCTION])
def test_every_state_is_used_after_it_is_computed(genotype: Genotype) -> None:
    inputs = [state for branches in genotype.sums for _, state in branches]
    assert set(inputs) | set(genotype.output) == set(range(7))
    assert all(state < 2 + index for index, pair in enumerate(genotype.sums) for _, state in pair)


@pytest.mark.parametrize(("genotype", "expected"), [(NORMAL, [1, 11, 11, 50]), (REDUCTION, [22, 16])])
def test_connections_by_hand(genotype: Genotype, expected: list[int]) -> None:
    """With 1 from the previous cell, 10 from the cell before it, and identities as branches."""
    cell = Cell(genotype, Level(4, 8), Level(4, 8), filters=4, stride=1)
    cell.current, cell.branches = nn.Identity(), nn.ModuleList(nn.Identity() for _ in cell.branches)
    one = torch.ones(1, 1, 2, 2)
    assert cell(one, 10 * one)[0, :, 0, 0].tolist() == expected


def test_reduction_cells_separate_three_stacks() -> None:
    with torch.device("meta"):
        network = AmoebaNet("amoebanet_b_n7_f64", (2, 4, 8, 16, 32))
    kinds = "".join("N" if cell.genotype is NORMAL else "R" for cell in network.cells)
    assert kinds == "RR" + "NN" + "R" + "NN" + "R" + "NNN"  # 7 / 3 and 14 / 3, rounded down
    assert network.levels == (Level(32, 2), Level(32, 4), Level(256, 8), Level(512, 16), Level(1024, 32))
    halved = [isinstance(cell.before, FactorizedReduction) for cell in network.cells]
    assert halved == [False] + [kind == "R" for kind in kinds[:-1]]


def test_cells_after_the_last_map_are_not_built() -> None:
    with torch.device("meta"):
        whole, part = AmoebaNet(SMALL), AmoebaNet(SMALL, (4, 8))
    assert [level.stride for level in part.levels] == [4, 8]
    assert len(part.cells) == 3
    assert {key: value.shape for key, value in part.state_dict().items()}.items() <= {
        key: value.shape for key, value in whole.state_dict().items()
    }.items()
    with pytest.raises(ValueError, match="no level at stride"):
        AmoebaNet(SMALL, (64,))


def test_factorized_reduction_by_hand() -> None:
    reduction = FactorizedReduction(1, 3).eval()
    nn.init.ones_(reduction.even.weight)
    nn.init.ones_(reduction.odd.weight)
    image = torch.arange(-1.0, 8.0).reshape(1, 1, 3, 3)  # the ReLU turns its -1 into 0
    first, second, third = reduction(image)[0] * math.sqrt(1 + 1e-5)
    torch.testing.assert_close(first, torch.tensor([[0.0, 1.0], [5.0, 7.0]]))
    torch.testing.assert_close(second, torch.tensor([[3.0, 0.0], [0.0, 0.0]]))  # row 1, column 1, then beyond the edge
    torch.testing.assert_close(third, second)


@pytest.mark.parametrize("size", [(64, 64), (97, 130), (33, 500)])
def test_map_sizes_agree_with_levels(size: tuple[int, int]) -> None:
    with torch.device("meta"):
        backbone = create_backbone(SMALL, strides=(2, 4, 8, 16, 32)).eval()
        maps = backbone(torch.zeros(2, 3, *size))
    assert [tuple(x.shape) for x in maps] == [
        (2, v.channels, *(math.ceil(side / v.stride) for side in size)) for v in backbone.levels
    ]


def test_the_doctor_finds_no_problem() -> None:
    assert [(f.check, f.message) for f in examine("amoebanet_b_n6_f32") if f.state != "ok"] == []


def test_every_task_has_gradients() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    classifier = create_classifier(SMALL, 3)
    # The class layer is initialised with zero, which would stop every gradient.
    nn.init.normal_(classifier.head.classifier.weight, std=0.1)
    losses = [(classifier, nn.functional.cross_entropy(classifier(images), torch.tensor([0, 2])))]
    segmenter = create_segmenter(SMALL, 4)
    losses.append((segmenter, nn.functional.cross_entropy(segmenter(images), torch.randint(0, 4, (2, 64, 64)))))
    detector = create_detector(SMALL, 5)
    logits, deltas = detector(images)
    losses.append((detector, logits.square().mean() + deltas.square().mean()))
    for model, loss in losses:
        loss.backward()
        missing = [n for n, p in model.backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert missing == []
        assert model.backbone.stem[0].weight.grad.any()


def test_weights_load_from_a_file(tmp_path) -> None:
    classifier = create_classifier(SMALL, 3)
    torch.save({"state_dict": {f"model.{key}": v for key, v in classifier.state_dict().items()}}, tmp_path / "run.ckpt")
    backbone = create_backbone(SMALL, tmp_path / "run.ckpt")
    assert backbone.provenance.source.startswith("file:")
    for key, value in backbone.state_dict().items():
        torch.testing.assert_close(value, classifier.backbone.state_dict()[key])
    with pytest.raises(BadInput, match="no weights are published for 'amoebanet_b_n3_f16'"):
        create_backbone(SMALL, pretrained=True)
    with pytest.raises(BadInput, match="does not fit"):
        create_backbone("amoebanet_b_n3_f32", tmp_path / "run.ckpt")


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_backbones("amoebanet*") == ["amoebanet_b", "amoebanet_b_n6_f64"]
    assert list_backbones("amoebanet_b_n9_f62") == ["amoebanet_b_n9_f62"]
    assert main(["amoebanet_b"]) == 0
    assert "256@4 2048@8 4096@16 8192@32" in capsys.readouterr().out
    for name, message in (
        ("amoebanet_b_n2_f64", "too small"),
        ("amoebanet_b_n6_f8", "too small"),
        ("amoebanet_b_n6", r"unknown backbone 'amoebanet_b_n6'.*amoebanet_b_n6_f64"),
        ("amoebanet_b.aa_in1k", "unknown published weights"),
    ):
        with pytest.raises(UserError, match=message), torch.device("meta"):
            create_backbone(name)
