"""Tests claims: counts as published, verdicts by hand, and scores of the real `eval` on a folder like ImageNet."""

import csv

import numpy as np
import pytest
from PIL import Image

from classification import classes as imagenet
from experiments.claims import __main__ as claims
from experiments.claims import accuracy, size_and_speed
from experiments.claims.config import ClaimsConfig
from experiments.costs.isolated_timing import IsolatedCost, measure_isolated
from tests.commands import fails, run


@pytest.mark.slow
def test_counted_claims_hold() -> None:
    """The networks of this package have the sizes that the paper states."""
    assert size_and_speed.b7_and_gpipe_size().verdict == "holds"
    assert size_and_speed.b4_and_resnet50_cost().verdict == "holds for multiply-adds"
    # All parameters agree; two multiply-adds are 4% above the paper's. timm's networks have the same counts.
    assert size_and_speed.family_sizes().verdict == "holds except for B4 macs +4.6%, B5 macs +3.7%"
    assert "the counts agree" in size_and_speed.coco().verdict
    assert "480" in size_and_speed.noisy_student().measured  # million parameters, arXiv:1911.04252


def test_a_family_that_differs_is_reported(monkeypatch) -> None:
    monkeypatch.setattr(size_and_speed, "classifier_counts", lambda name, size: {"params": 5.3e6, "macs": 0.39e9})
    assert size_and_speed.family_sizes().verdict.startswith("holds except for B1 params -32.1%, B1 macs -44.3%, B2")


@pytest.mark.parametrize(
    ("slow", "verdict"),
    [(6.1, "holds"), (5.5, "holds"), (3.0, "partly holds: 3.0 times, not 6.1"), (0.9, "does not hold here")],
)
def test_speed_is_the_median_of_ratios(monkeypatch, slow, verdict) -> None:
    """The machine is ten times slower in the second pass of both networks, which does not change the ratio."""
    turns = iter([1.0, 1.0, 10.0, 10.0, 1.0, 1.0])

    def timed(name: str, size: int) -> IsolatedCost:
        seconds = next(turns) * (slow if name == "amoebanet_b" else 1.0)
        return IsolatedCost([seconds], 3000.0, 300.0)

    monkeypatch.setattr(size_and_speed, "measure_isolated", timed)
    row = size_and_speed.speed_up(size_and_speed.SPEED_UPS[0], 3)
    assert row.verdict == verdict
    assert row.measured.startswith(f"{slow:.1f} times")


@pytest.mark.slow
def test_isolated_time_and_memory() -> None:
    small, large = measure_isolated("mobilenetv2_035", 64), measure_isolated("resnet18", 256)
    assert 0 < small.seconds[0] < large.seconds[0]
    increase = [cost.peak_memory_mb - cost.start_memory_mb for cost in (small, large)]
    assert increase[1] > increase[0]
    assert increase[1] > 45  # 11.7 M parameters are 45 MiB


@pytest.fixture(scope="module")
def like_imagenet(tmp_path_factory):
    """Two synsets with one image each."""
    root = tmp_path_factory.mktemp("imagenet")
    for i, synset in enumerate(imagenet.synsets(1000)[:2]):
        (root / "val" / synset).mkdir(parents=True)
        noise = np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(root / "val" / synset / "0.png")
    return root


def test_accuracy_is_scored_and_compared(like_imagenet, tmp_path) -> None:
    lite = next(iter(accuracy.published_scores()))
    config = ClaimsConfig(imagenet=str(like_imagenet), output=str(tmp_path))
    row = accuracy.classifier(lite, config)
    assert row.measured.startswith("top1 ")
    assert row.verdict.endswith("points away") or row.verdict == "reproduced"
    metrics = tmp_path / "imagenet" / "tf_efficientnet_lite0.in1k" / "metrics.json"
    metrics.write_text('{"top1": 0.7505, "top5": 0.92}')  # an existing result is not scored again
    assert accuracy.classifier(lite, config).verdict == "reproduced"


def test_a_failed_evaluation_states_the_reason(tmp_path) -> None:
    lite = next(iter(accuracy.published_scores()))
    row = accuracy.classifier(lite, ClaimsConfig(imagenet=str(tmp_path / "nowhere"), output=str(tmp_path)))
    assert row.verdict == "not checked"
    assert "nowhere" in row.measured


def test_every_published_score_has_a_command_or_no_weights() -> None:
    rows = list(accuracy.published_scores())
    assert len(rows) > 5
    for row in rows:
        check = accuracy.classifier(row, ClaimsConfig()).check
        assert check.startswith("python -m classification.eval") or "no weights" in check


def test_the_command_writes_its_tables(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(size_and_speed, "measure_isolated", lambda name, size: IsolatedCost([1.0], 100.0, 50.0))
    monkeypatch.setattr(accuracy, "published_scores", lambda: iter([]))
    run(claims, "--output", tmp_path, "--passes", 1)
    rows = list(csv.DictReader((tmp_path / "claims.csv").open()))
    assert [row["verdict"] for row in rows[:3]] == ["does not hold here", "does not hold here", "holds"]
    text = (tmp_path / "claims.md").read_text()
    assert text.count("\n|") == len(rows) + 2
    assert all(row["claim"] in text for row in rows)


def test_wrong_usage(capsys, tmp_path) -> None:
    assert "--detector" in fails(capsys, 2, claims, "--coco", tmp_path)
    assert "--passes" in fails(capsys, 2, claims, "--passes", 0)
