"""Tests compound scaling: arithmetic by hand and against the published family, and the command on a tiny data set."""

import csv
import json
import math
import subprocess
import sys
from dataclasses import astuple, replace

import pytest

from backbones import create_backbone
from backbones.architecture import B0, VARIANTS, architecture_of, counts, scaled
from engine.published import classifier_of
from engine.schema import SCHEMA
from experiments.costs.coefficients import (
    DIMENSIONS,
    PUBLISHED,
    Coefficients,
    candidates,
    fits,
    member_at_cost,
    scaled_to_cost,
)  # fmt: skip
from experiments.jobs import local
from experiments.jobs import runner as jobs
from experiments.jobs.local import Outcome
from experiments.scaling import __main__ as scaling
from experiments.scaling import runner
from experiments.scaling.config import ScalingConfig
from experiments.scaling.demo import DEMO, sized_for_demo
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
    network = member_at_cost(base, coefficients, times * macs)
    assert counts(network, network.image_size)[1] == pytest.approx(times * macs, rel=0.06)
    if coefficients.resolution == 1:
        assert network.image_size == 80


@pytest.mark.parametrize("times", [0.5, 0.8, 1, 2])
def test_base_at_another_cost(times: float) -> None:
    macs = times * counts(B0, 48)[1]
    member = scaled_to_cost(B0, macs, 48)
    assert counts(member, 48)[1] == pytest.approx(macs, rel=0.06)
    assert member.image_size == B0.image_size
    assert (member == B0) == (times == 1)


def test_published_coefficients_fit_the_published_family() -> None:
    """Powers of (1.2, 1.1, 1.15) fit B2 and B3 at phi 1 and 2 within 1%, and all others within 7%."""
    found = {fit.name: fit for fit in fits(B0, PUBLISHED)}
    for name, phi in (("efficientnet_b0", 0), ("efficientnet_b2", 1), ("efficientnet_b3", 2)):
        assert found[name].phi == pytest.approx(phi)
        assert (found[name].params, found[name].macs) == pytest.approx((1, 1), rel=0.01)
    assert all(fit.params == pytest.approx(1, abs=0.07) for fit in found.values())
    assert all(fit.macs == pytest.approx(1, abs=0.07) for fit in found.values())
    assert found["efficientnet_b7"].phi == pytest.approx(7, abs=0.2)


def test_the_published_factors_are_powers_up_to_b3() -> None:
    """Up to B3 they are powers at phi 0, 1/2, 1 and 2, rounded to tenths; sizes are rounded to 10 px, or up to 260.

    From B4 on no phi fits all three: the phi of depth is below those of width and resolution by up to 1.1.
    """
    for n, phi in enumerate((0, 0.5, 1, 2)):
        network = VARIANTS[f"efficientnet_b{n}"]
        powers = scaled(B0, round(PUBLISHED.width**phi, 1), round(PUBLISHED.depth**phi, 1))
        assert (network.stages, network.stem, network.head) == (powers.stages, powers.stem, powers.head)
        assert network.image_size == pytest.approx(224 * PUBLISHED.resolution**phi, abs=4)
    for n, (width, depth) in enumerate(((1.4, 1.8), (1.6, 2.2), (1.8, 2.6), (2.0, 3.1)), start=4):
        network = VARIANTS[f"efficientnet_b{n}"]
        assert network.stages == scaled(B0, width, depth).stages
        factors = zip((depth, width, network.image_size / 224), astuple(PUBLISHED), strict=True)
        deep, wide, fine = (math.log(factor) / math.log(coefficient) for factor, coefficient in factors)
        assert deep < wide < deep + 1.1
        assert deep < fine < deep + 1.1


def test_the_family_as_published_has_the_papers_sizes() -> None:
    """Parameters of table 2 within 2% and its rounding; multiply-adds, which the paper counts otherwise, within 5%."""
    for name in (f"efficientnet_b{phi}" for phi in range(8)):
        known = classifier_of(name)
        assert known is not None
        assert known.params is not None
        assert known.macs is not None
        params, macs = counts(VARIANTS[name], known.image_size)
        assert VARIANTS[name].image_size == known.image_size
        assert not known.params.disagrees(params)
        assert macs == pytest.approx(known.macs.value, rel=0.05)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("scaling"), train=10, val=4)


def command(root, output):
    return [
        *("--data.root", root, "--output", output, "--image_size", 52, "--epochs", 1, "--batch_size", 4),
        *("--device", "cpu", "--depths", 1, 1.2, "--widths", 1.1, "--phis", 1),
    ]


@pytest.mark.slow
def test_a_real_training(root, tmp_path, monkeypatch) -> None:
    """With coefficients and without a comparison, only the base is trained, and only once."""
    output = tmp_path / "study"
    arguments = [*command(root, output)[:-7], "--coefficients", 1.2, 1.1, 1.15, "--phis"]
    run(scaling, *arguments)
    stored = json.loads((output / "scaling.json").read_text())
    assert stored["coefficients"] == {"depth": 1.2, "width": 1.1, "resolution": 1.15}
    (base,) = stored["dimensions"]
    assert 0 <= base["score"] <= 1
    record = json.loads(next((output / "cells").glob("*/record.json")).read_text())
    assert record["config"]["protocol"] == "scratch"
    assert base["macs"] == record["macs"]
    rows = list(
        csv.DictReader((output / "family.csv").open())
    )  # B2 to B7 are fitted best by 1, 2, 3.65, 4.75, 5.95, 6.9
    assert [row["published"][-2:] for row in rows] == ["b0", "b2", "b3", "b4", "b4", "b5", "b6", "b7"]

    def trained(*arguments):
        raise AssertionError("a finished training was trained again")

    monkeypatch.setattr(local.subprocess, "Popen", trained)
    run(scaling, *arguments)
    assert json.loads((output / "scaling.json").read_text()) == stored


@pytest.fixture
def simulated(monkeypatch):
    """Trainings that end at once. Deeper networks score better; those in the returned set of names fail."""
    failing = set()

    def train(cell, folder, lock, report, *place):
        name = cell.config.backbone.partition("#")[2]
        assert cell.config.data.holdout == (0.2 if name.startswith("grid") else 0)
        if name in failing:
            return Outcome(1.0, "no memory", 3)
        network = architecture_of(cell.config.backbone)
        params, macs = counts(network, cell.config.image_size, 3)
        folder.mkdir(parents=True, exist_ok=True)
        score = sum(stage.repeats for stage in network.stages) / 100
        record = {"schema": SCHEMA, "task": "classification", "params": params, "macs": macs}
        record["metrics"] = {"top1": score}
        (folder / "record.json").write_text(json.dumps(record))
        right = [int(i < 100 * score) for i in range(100)]
        rows = "".join(f"{i},a,{'a' if r else 'b'},1,{r}\n" for i, r in enumerate(right))
        (folder / "images.csv").write_text(f"file,class,predicted,probability,correct\n{rows}")
        return Outcome(1.0)

    monkeypatch.setattr(jobs, "run", train)
    return failing


def test_the_best_of_the_grid_is_compared(root, tmp_path, capsys, simulated, monkeypatch) -> None:
    """Networks of equal cost are compared. A failure is reported and stays in the table."""
    output = tmp_path / "study"
    simulated.add("width-2x")
    assert "1 of 7 trainings failed" in (messages := fails(capsys, 3, scaling, *command(root, output)))
    assert "width-2x: no memory" in messages
    stored = json.loads((output / "scaling.json").read_text())
    assert [(row["depth"], row["width"], row["error"]) for row in stored["grid"]] == [(1.0, 1.1, ""), (1.2, 1.1, "")]
    assert stored["coefficients"] == pytest.approx({"depth": 1.2, "width": 1.1, "resolution": math.sqrt(2 / 1.452)})
    base, *others = stored["dimensions"]
    assert [row["group"] for row in others] == ["depth", "width", "resolution", "all three"]
    assert [row["error"] for row in others] == ["", "no memory", "", ""]
    assert [row["macs"] / base["macs"] for row in others] == pytest.approx([2] * 4, rel=0.03)
    deep, _, fine, whole = others
    assert (deep["width"], deep["resolution"], fine["depth"], fine["width"]) == (1, 1, 1, 1)
    assert all(whole[name] > 1 for name in ("depth", "width", "resolution"))
    assert stored["differences"]["depth-2x"]["value"] == pytest.approx(whole["score"] - deep["score"])
    assert stored["differences"].keys() == {"depth-2x", "resolution-2x"}
    assert (output / "scaling.png").stat().st_size > 10_000
    assert len(list(csv.DictReader((output / "grid.csv").open()))) == 2
    rows = list(csv.DictReader((output / "family.csv").open()))
    assert [row["backbone"] for row in rows] == [f"{output}#phi{phi}" for phi in range(8)]
    assert create_backbone(rows[3]["backbone"]).levels[-1].stride == 32

    simulated.clear()
    monkeypatch.setattr(runner, "EQUAL_COST", 0.0)
    run(scaling, *command(root, output))
    again = json.loads((output / "scaling.json").read_text())
    assert not any(row["error"] for row in again["dimensions"])
    assert again["differences"] == {}  # networks of different cost are not compared
    other = fails(capsys, 3, scaling, *command(root, output), "--coefficients", 1.1, 1.1, 1.1)
    assert "family of other coefficients" in other


@pytest.mark.slow
def test_two_trainings_at_a_time_give_the_same_tables(root, tmp_path, simulated) -> None:
    outputs = [tmp_path / "one", tmp_path / "two"]
    run(scaling, *command(root, outputs[0]))
    run(scaling, *command(root, outputs[1]), "--slots", 2)
    for name in ("grid.csv", "dimensions.csv"):
        assert (outputs[0] / name).read_text() == (outputs[1] / name).read_text()


def test_a_grid_that_fails_ends_the_study(root, tmp_path, capsys, simulated) -> None:
    simulated |= {"grid-d1-w1.1", "grid-d1.2-w1.1"}
    assert "no network of the grid has a score: no memory" in fails(capsys, 3, scaling, *command(root, tmp_path / "s"))
    assert not (tmp_path / "s" / "scaling.json").exists()


def test_a_dry_run_lists_the_plan_and_writes_nothing(root, tmp_path, capsys) -> None:
    output = tmp_path / "study"
    run(scaling, *command(root, output), "--dry_run")
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("grid-d1-w1.1", "grid-d1.2-w1.1", "base", "depth-2x", "resolution-2x"))
    assert not output.exists()


def test_the_demo_has_smaller_settings() -> None:
    """Unless another task, data, a preset or the setting itself is given."""
    config = ScalingConfig(epochs=3)
    assert (sized := sized_for_demo(config, ["--lr", "0.1"])) == replace(config, **DEMO | {"epochs": 3})
    assert sized.check() is None
    for arguments in (["--data.root", "R"], ["--data.root=R"], ["--config", "paper"]):
        assert sized_for_demo(config, arguments) == config
    assert sized_for_demo(replace(config, task="detection"), []).image_size is None


def test_wrong_usage(root, tmp_path, capsys) -> None:
    assert "three" in fails(capsys, 2, scaling, "--coefficients", 1.2, 1.1)
    assert "--depths" in fails(capsys, 2, scaling, "--depths", 0.5)
    assert "--phis" in fails(capsys, 2, scaling, "--phis", 9)
    assert "'#'" in fails(capsys, 2, scaling, "--output", tmp_path / "a#b")
    assert "unknown EfficientNet" in fails(capsys, 2, scaling, "--base", "resnet50")
    assert "--task is classification" in fails(capsys, 2, scaling, "--detection.epochs", 2)
    assert "holdout" in fails(capsys, 2, scaling, *command(root, tmp_path / "s"), "--data.holdout", 0.5)
    assert "grid is empty" in fails(capsys, 2, scaling, "--depths", 2, "--widths", 2)
    assert "--slots 0 is too small" in fails(capsys, 2, scaling, "--slots", 0)
    assert "absent" in fails(capsys, 3, scaling, "--data.root", tmp_path / "absent", "--output", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_the_package_does_not_import_torch() -> None:
    code = "import sys, experiments.scaling; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
