"""Compound scaling: its arithmetic by hand and against the published family, and the command on a tiny data set."""

import csv
import json
import math
from dataclasses import replace

import pytest

from backbones import create_backbone
from backbones.architecture import B0, VARIANTS, architecture_of, counts
from experiments import cells, family, scaling
from experiments.cells import Outcome
from experiments.engine.published import classifier_of
from experiments.growth import DIMENSIONS, PUBLISHED, Coefficients, at_cost, candidates, fits
from tests.classification.conftest import write_folders
from tests.commands import fails, run


def test_resolution_follows_from_depth_and_width() -> None:
    found = list(candidates([1.0, 1.2, 2.0], [1.0, 1.1]))
    assert [(c.depth, c.width) for c in found] == [(1.0, 1.0), (1.0, 1.1), (1.2, 1.0), (1.2, 1.1), (2.0, 1.0)]
    assert [c.resolution for c in found] == pytest.approx(
        [math.sqrt(2), math.sqrt(2 / 1.21), math.sqrt(2 / 1.2), math.sqrt(2 / 1.452), 1.0]
    )


def test_members_by_hand() -> None:
    """Phi 2 of (1.2, 1.1, 1.15): depth 1.44, width 1.21, resolution 1.3225."""
    member = PUBLISHED.of(B0, 2)
    assert [stage.repeats for stage in member.stages] == [2, 3, 3, 5, 5, 6, 2]
    assert [stage.channels for stage in member.stages] == [24, 32, 48, 96, 136, 232, 384]
    assert (member.stem, member.head, member.image_size) == (40, 1552, 296)
    assert PUBLISHED.of(B0, 0) == B0


@pytest.mark.parametrize("times", [2, 4])
@pytest.mark.parametrize("coefficients", [*DIMENSIONS.values(), PUBLISHED], ids=[*DIMENSIONS, "all"])
def test_equal_multiply_adds(coefficients: Coefficients, times: int) -> None:
    base = replace(B0, image_size=80)
    macs = counts(base, 80)[1]
    grown = at_cost(base, coefficients, times * macs)
    assert counts(grown, grown.image_size)[1] == pytest.approx(times * macs, rel=0.06)
    if coefficients.resolution == 1:
        assert grown.image_size == 80


def test_published_coefficients_give_the_published_family() -> None:
    """Powers of (1.2, 1.1, 1.15) meet B2 and B3 at phi 1 and 2 within 1%, and every other within 7%."""
    found = {fit.name: fit for fit in fits(B0, PUBLISHED)}
    for name, phi in (("efficientnet_b0", 0), ("efficientnet_b2", 1), ("efficientnet_b3", 2)):
        assert found[name].phi == pytest.approx(phi)
        assert (found[name].params, found[name].macs) == pytest.approx((1, 1), rel=0.01)
    assert all(fit.params == pytest.approx(1, abs=0.07) for fit in found.values())
    assert all(fit.macs == pytest.approx(1, abs=0.07) for fit in found.values())
    assert found["efficientnet_b7"].phi == pytest.approx(7, abs=0.2)


def test_the_family_as_published_has_the_papers_sizes() -> None:
    """Its factors, rounded to tenths as the authors have them: parameters of table 2 within 2% and its rounding."""
    for name in (f"efficientnet_b{phi}" for phi in range(8)):
        known = classifier_of(name)
        assert known is not None
        assert known.params is not None
        assert VARIANTS[name].image_size == known.image_size
        assert not known.params.disagrees(counts(VARIANTS[name], known.image_size)[0])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("scaling"), train=10, val=4)


def command(root, output):
    return [
        *("--data.root", root, "--output", output, "--image_size", 32, "--epochs", 1, "--batch_size", 4),
        *("--device", "cpu", "--depths", 1, 1.2, "--widths", 1.1, "--phis", 1),
    ]


def test_a_real_training(root, tmp_path, monkeypatch) -> None:
    """With coefficients given and no comparison, the base is all that is trained; and once only."""
    output = tmp_path / "study"
    arguments = [*command(root, output)[:-7], "--coefficients", 1.2, 1.1, 1.15, "--phis"]
    run(scaling, *arguments)
    told = json.loads((output / "scaling.json").read_text())
    assert told["coefficients"] == {"depth": 1.2, "width": 1.1, "resolution": 1.15}
    (base,) = told["dimensions"]
    assert 0 <= base["score"] <= 1
    record = json.loads(next((output / "cells").glob("*/record.json")).read_text())
    assert record["config"]["protocol"] == "scratch"
    assert base["macs"] == record["macs"]

    def trained(*arguments):
        raise AssertionError("what is finished is not trained again")

    monkeypatch.setattr(cells.subprocess, "Popen", trained)
    run(scaling, *arguments)
    assert json.loads((output / "scaling.json").read_text()) == told


@pytest.fixture
def pretended(monkeypatch):
    """Cells that end at once: deeper networks score better, and the widest fail."""
    held_out = {}

    def train(cell, folder, lock, tell):
        network = architecture_of(cell.config.backbone)
        held_out[cell.config.backbone.partition("#")[2]] = cell.config.data.holdout
        if network.stem > 32:
            return Outcome(1.0, "too wide", 3)
        params, macs = counts(network, network.image_size)
        folder.mkdir(parents=True, exist_ok=True)
        score = sum(stage.repeats for stage in network.stages) / 100
        record = {"params": params, "macs": macs, "metrics": {"top1": score}}
        (folder / "record.json").write_text(json.dumps(record))
        return Outcome(1.0)

    monkeypatch.setattr(family, "run", train)
    return held_out


def test_the_grid_decides(root, tmp_path, pretended) -> None:
    output = tmp_path / "study"
    run(scaling, *command(root, output))
    told = json.loads((output / "scaling.json").read_text())
    assert [(row["depth"], row["error"]) for row in told["grid"]] == [(1.0, ""), (1.2, "")]
    assert told["coefficients"]["depth"] == 1.2
    assert [row["group"] for row in told["dimensions"]] == ["base", "depth", "width", "resolution", "all three"]
    assert [row["error"] for row in told["dimensions"]] == ["", "", "too wide", "", ""]  # told, and left in the table
    assert {name: held for name, held in pretended.items() if held} == {"grid-d1-w1.1": 0.2, "grid-d1.2-w1.1": 0.2}
    assert (output / "scaling.png").stat().st_size > 10_000
    rows = list(csv.DictReader((output / "family.csv").open()))
    assert [row["backbone"] for row in rows] == [f"{output}#phi{phi}" for phi in range(8)]
    assert create_backbone(rows[3]["backbone"]).levels[-1].stride == 32


def test_wrong_usage(root, tmp_path, capsys) -> None:
    assert "three" in fails(capsys, 2, scaling, "--coefficients", 1.2, 1.1)
    assert "--depths" in fails(capsys, 2, scaling, "--depths", 0.5)
    assert "unknown EfficientNet" in fails(capsys, 2, scaling, "--base", "resnet50")
    assert "holdout" in fails(capsys, 2, scaling, *command(root, tmp_path / "s"), "--data.holdout", 0.5)
    assert "nothing" in fails(capsys, 3, scaling, *command(root, tmp_path / "t")[:-6], "--depths", 2, "--widths", 2)
