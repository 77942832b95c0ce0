"""What a head learns from the outputs of a run."""

from types import SimpleNamespace

import pytest
import torch

from experiments.joint.distillation import Teacher


def teacher(kind, outputs):
    found = Teacher.__new__(Teacher)
    found.kind, found.outputs = kind, lambda batch: outputs
    return found


def test_classes_by_hand():
    """Teacher (1/2, 1/2), student (1/4, 3/4): 1/2 log 2 + 1/2 log(2/3)."""
    logits = torch.tensor([[0.25, 0.75]]).log()
    found = teacher("classification", torch.zeros(1, 2)).loss(logits, SimpleNamespace())
    assert found.item() == pytest.approx(0.5 * (0.6931472 - 0.4054651))
    assert teacher("segmentation", logits).loss(logits, SimpleNamespace()).item() == pytest.approx(0, abs=1e-6)


def test_boxes_by_hand():
    """One anchor, one class: scores 1/2 and 3/4 differ by log 2 less entropy, offsets by 1; divided by 1/2 + 1."""
    theirs = torch.zeros(1, 1, 1), torch.zeros(1, 1, 4)
    ours = torch.full((1, 1, 1), 3.0).log(), torch.ones(1, 1, 4)
    found = teacher("detection", theirs).loss(ours, SimpleNamespace())
    cross = -0.5 * (torch.tensor(0.75).log() + torch.tensor(0.25).log()) - torch.tensor(2.0).log()
    assert found.item() == pytest.approx((cross.item() + 0.5) / 1.5)
    assert teacher("detection", theirs).loss(theirs, SimpleNamespace()).item() == 0
