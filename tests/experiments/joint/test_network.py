"""The joint network has the parameters, outputs and weights of the networks of the tasks."""

import re

import pytest
import torch

from backbones.errors import UserError
from backbones.inference import prepare_for_inference
from classification import create_classifier
from detection import create_detector
from experiments.joint import create_joint
from experiments.joint.start import next_level
from segmentation import create_segmenter

TINY = "test_efficientnet"
ALL = {"detection": 3, "segmentation": 5, "classification": 4}
SINGLE = {
    "detection": lambda: create_detector(TINY, 3),
    "segmentation": lambda: create_segmenter(TINY, 5),
    "classification": lambda: create_classifier(TINY, 4, neck="bifpn"),
}


def seeded(build):
    torch.manual_seed(0)
    return build().eval()


def as_tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.parametrize("kind", ALL)
def test_one_head_equals_the_network_of_its_task(kind):
    alone, joint = seeded(SINGLE[kind]), seeded(lambda: create_joint(TINY, {kind: ALL[kind]}))
    own = dict(alone.named_parameters())
    assert [n for n, _ in joint.networks[kind].named_parameters()] == list(own)
    for name, value in joint.networks[kind].named_parameters():
        assert torch.equal(value, own[name])
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        for found, expected in zip(as_tuple(joint(images)[kind]), as_tuple(alone(images)), strict=True):
            assert torch.equal(found, expected)


def test_one_pass_gives_what_each_network_computes_alone():
    joint = seeded(lambda: create_joint(TINY, {**ALL, "cells": ("detection", 2)}))
    images = torch.randn(1, 3, 64, 64)
    calls = []
    joint.backbone.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        found = joint(images)
        assert len(calls) == 1
        for name, network in joint.heads():
            for ours, theirs in zip(as_tuple(found[name]), as_tuple(network(images)), strict=True):
                assert torch.equal(ours, theirs)
    assert [level.stride for level in joint.neck.levels] == [4, 8, 16, 32, 64, 128]
    assert found["cells"][0].shape[2] == 2


def test_the_state_has_shared_tensors_once_and_loads():
    first, second = (create_joint(TINY, ALL) for _ in range(2))
    state = first.state_dict()
    assert not any(".backbone." in key or ".neck." in key for key in state)
    assert sum(p.numel() for p in first.parameters()) == sum(
        p.numel() for key, p in state.items() if "running" not in key and "num_batches" not in key
    )
    second.load_state_dict(state)
    for name, value in second.state_dict().items():
        assert torch.equal(value, state[name])
    with pytest.raises(RuntimeError, match="Missing key"):
        second.load_state_dict({key: value for key, value in state.items() if not key.startswith("neck.")})


def test_the_copy_for_inference_shares_the_backbone_and_computes_the_same():
    joint = seeded(lambda: create_joint(TINY, ALL))
    fast = prepare_for_inference(joint)
    assert all(network.backbone is fast.backbone for _, network in fast.heads())
    images = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        found, expected = fast(images), joint(images)
    for name in ALL:
        for ours, theirs in zip(as_tuple(found[name]), as_tuple(expected[name]), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_levels_follow_the_heads():
    detector = create_joint(TINY, {"detection": 3, "classification": 4})
    assert detector.neck.levels[0].stride == 8
    assert create_joint(TINY, {"detection": 3}, finest=4).neck.levels[0].stride == 4
    with pytest.raises(UserError, match="finest"):
        create_joint(TINY, ALL, finest=8)
    with pytest.raises(UserError, match="kind of head"):
        create_joint(TINY, {"cells": 3})


def test_the_neck_of_a_detector_fits_into_one_with_stride_4():
    small, large = (create_joint(TINY, {"detection": 3}, finest=finest).neck.state_dict() for finest in (8, 4))
    assert {next_level(key): value.shape for key, value in small.items()}.items() <= {
        key: value.shape for key, value in large.items()
    }.items()
    new = large.keys() - {next_level(key) for key in small}
    assert new
    assert all(re.search(r"\.(top_down|bottom_up|project_down|project_up)\.0\.", key) for key in new)
