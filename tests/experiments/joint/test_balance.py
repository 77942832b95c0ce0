"""Weights of losses, projected gradients, statistics of batch norm, and agreement of gradients."""

import pytest
import torch
from torch import nn

from backbones.errors import UserError
from experiments.joint import create_joint
from experiments.joint.balance import Balance
from experiments.joint.config import JointTrainConfig
from experiments.joint.conflict import ConflictLog
from experiments.joint.norms import NormStatistics

TINY = "test_efficientnet"


def test_fixed_and_learned_weights():
    losses = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
    assert float(Balance("fixed", {"a": 0.5, "b": 2.0})(losses)) == 7.0
    learned = Balance("uncertainty", {"a": 1.0, "b": 1.0})
    assert learned(losses).item() == 5.0
    with torch.no_grad():
        learned.log_variances.copy_(torch.tensor([0.0, 1.0]))
    assert learned(losses).item() == pytest.approx(2 + 3 / 2.718281828 + 1)
    learned(losses).backward()
    assert learned.log_variances.grad.tolist() == pytest.approx([1 - 2, 1 - 3 / 2.718281828])


def test_projected_gradients_by_hand():
    """(1, 0) and (-1, 1): each loses its component along the other. (0.5, 0.5) + (0, 1)."""
    shared = [nn.Parameter(torch.tensor([1.0, 1.0]))]
    losses = {"a": shared[0] @ torch.tensor([1.0, 0.0]), "b": shared[0] @ torch.tensor([-1.0, 1.0])}
    balance = Balance("pcgrad", {"a": 1.0, "b": 1.0})
    gradients = balance.gradients(losses, shared)
    balance.project(gradients, seed=0, step=0)
    balance(losses).backward()
    balance.correct(shared)
    torch.testing.assert_close(shared[0].grad, torch.tensor([0.5, 1.5]))


def test_gradients_that_agree_stay_as_they_are():
    shared = [nn.Parameter(torch.tensor([1.0, 1.0]))]
    losses = {"a": shared[0] @ torch.tensor([1.0, 0.0]), "b": shared[0] @ torch.tensor([1.0, 1.0])}
    balance = Balance("pcgrad", {"a": 1.0, "b": 1.0})
    balance.project(balance.gradients(losses, shared), seed=0, step=0)
    assert balance.correction[0].tolist() == [0.0, 0.0]


def test_cosines_by_part():
    network = create_joint(TINY, {"detection": 3, "classification": 4})
    shared = [*network.backbone.parameters(), *network.neck.parameters()]
    ones = [torch.ones_like(p) for p in shared]
    log = ConflictLog(["detection", "classification"], [])
    log.add(3, network, {"detection": ones, "classification": [-part for part in ones]})
    assert [row["part"] for row in log.rows] == ["stage 1", "stage 2", "stage 3", "stage 4", "neck"]
    assert all(row["cosine"] == pytest.approx(-1, abs=1e-4) for row in log.rows)


def test_each_data_set_has_its_own_statistics():
    norm = nn.BatchNorm1d(1)
    statistics = NormStatistics([norm], 2)
    for dataset, value in ((0, 10.0), (1, -10.0), (0, 10.0)):
        with statistics.of(dataset):
            norm(torch.tensor([[value], [value]]))
    statistics.use(1)
    assert norm.running_mean.item() == pytest.approx(-1.0)
    statistics.use(0)
    assert norm.running_mean.item() == pytest.approx(1.9)


def test_a_pass_for_each_data_set_with_statistics_of_its_own():
    network = create_joint(TINY, {"detection": 3, "classification": 4}).eval()
    network.use_own_norms([["classification"], ["detection"]])
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for value in network.norms.banks[1].buffers():
            value.add_(1.0)
        found = network(images)
        for name in ("detection", "classification"):
            network.use_norms_of(name)
            expected = network.networks[name](images)
            for ours, theirs in zip(found[name], expected, strict=True):
                assert torch.equal(ours, theirs)
    other = create_joint(TINY, {"detection": 3, "classification": 4})
    other.use_own_norms([["classification"], ["detection"]])
    other.load_state_dict(network.state_dict())
    assert torch.equal(next(other.norms.banks[1].buffers()), next(network.norms.banks[1].buffers()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": ["detection", "detection"]}, "two heads"),
        ({"heads": ["backbone=detection"]}, "not a name"),
        ({"heads": ["boxes"]}, "kind of head"),
        ({"loss_weights": ["detection=-1"]}, "number from 0"),
        ({"loss_weights": ["detection=0", "segmentation=0", "classification=0"]}, "positive"),
        ({"loss_weights": ["boxes=1"]}, "NAME=VALUE"),
        ({"balance": "pcgrad", "precision": "fp16"}, "pcgrad"),
        ({"freeze": ["necks"]}, "necks"),
        ({"protocol": "linear", "pretrained": "x"}, "linear"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        JointTrainConfig(**settings).check()
