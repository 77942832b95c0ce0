"""Batches in which a batch norm receives one value per channel: these norms use their running statistics."""

import pytest
import torch
from torch import nn

from backbones.base import CachedFeatures
from classification.build import create_classifier
from detection.model import create_detector
from engine.single_values import SingleValueNorms
from segmentation.decoders import DECODERS
from segmentation.model import create_segmenter


def norms(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


def step(model, images):
    """A forward and backward pass in training mode. Returns the outputs."""
    guard = SingleValueNorms(model)
    with guard.in_evaluation_mode(images):
        outputs = model(images)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(x.pow(2).mean() for x in outputs).backward()
    return outputs


MODELS = {
    **{f"segmentation, {name}": (lambda name=name: create_segmenter("resnet18", 3, name), 32) for name in DECODERS},
    "detection, bifpn": (lambda: create_detector("resnet18", 3), 64),
    "detection, fpn": (lambda: create_detector("tf_efficientnet_lite0", 3, neck="fpn"), 64),
    "classification": (lambda: create_classifier("tf_efficientnet_lite0", 3), 32),
    "classification, bifpn": (lambda: create_classifier("mobilenetv3_small_050", 3, neck="bifpn"), 32),
}


@pytest.mark.parametrize("name", MODELS)
def test_one_image_trains_with_every_network(name):
    """All outputs, gradients and statistics are finite. `detection, fpn` has NaN in its statistics without the guard:
    the head's norm does not check how many values it receives.
    """
    torch.manual_seed(0)
    build, size = MODELS[name]
    model = build().train()
    outputs = step(model, torch.randn(1, 3, size, size))
    assert all(x.isfinite().all() for x in outputs)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) > 20
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(module.training for module in model.modules())


def test_only_norms_with_one_value_skip_their_update(caplog):
    torch.manual_seed(0)
    model = create_segmenter("resnet18", 3, "deeplabv3plus").train()
    before = {name: norm.running_mean.clone() for name, norm in norms(model).items()}
    step(model, torch.randn(1, 3, 64, 64))
    kept = [name for name, norm in norms(model).items() if torch.equal(norm.running_mean, before[name])]
    assert kept == ["decoder.network.aspp.0.convs.4.2"]  # after the global pooling
    assert int(norms(model)[kept[0]].num_batches_tracked) == 0
    (record,) = caplog.records
    assert f"1 of {len(before)} batch norms" in record.getMessage()
    assert "--batch_size" in record.getMessage()


@pytest.mark.parametrize(("batch", "size"), [(2, 64), (1, 256)])
def test_other_batches_are_computed_as_without_it(batch, size, caplog):
    """Bit-equal outputs, gradients and statistics, and equal random numbers afterwards."""
    results = []
    for guarded in (False, True):
        torch.manual_seed(0)
        model = create_detector("tf_efficientnet_lite0", 3).train()
        images = torch.randn(batch, 3, size, size)
        guard = SingleValueNorms(model)
        if guarded:
            with guard.in_evaluation_mode(images):
                outputs = model(images)
        else:
            outputs = model(images)
        sum(x.mean() for x in outputs).backward()
        results.append([*outputs, *(p.grad for p in model.parameters()), *model.buffers(), torch.rand(3)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert not caplog.records


def test_frozen_norms_stay_frozen():
    model = create_segmenter("resnet18", 3, "unet").train()
    model.backbone.eval()
    step(model, torch.randn(1, 3, 32, 32))
    assert not any(module.training for module in model.backbone.modules())
    assert all(module.training for module in model.decoder.modules())


def test_one_search_and_one_warning_for_all_steps(caplog):
    model, calls = create_classifier("resnet18", 3).train(), []
    model.register_forward_pre_hook(lambda module, inputs: calls.append(tuple(inputs[0].shape)))
    guard = SingleValueNorms(model)
    for size in (32, 32, 48, 32):
        images = torch.randn(1, 3, size, size)
        with guard.in_evaluation_mode(images):
            model(images)
    assert [shape[2] for shape in calls] == [32, 32, 32, 48, 48, 32]  # one search for each size
    assert len(caplog.records) == 1


def test_modes_are_restored_after_an_error():
    model = create_classifier("resnet18", 3).train()
    with (
        pytest.raises(RuntimeError, match="mine"),
        SingleValueNorms(model).in_evaluation_mode(torch.zeros(1, 3, 32, 32)),
    ):
        raise RuntimeError("mine")
    assert all(module.training for module in model.modules())


def test_cached_features():
    """The maps of one image, from the cache of a frozen backbone."""
    torch.manual_seed(0)
    model = create_classifier("tf_efficientnet_lite0", 3, neck="bifpn").train()
    model.backbone.eval()
    with torch.no_grad():
        features = CachedFeatures(model.maps(torch.randn(1, 3, 32, 32)), (32, 32))
    (logits,) = step(model, features)
    assert logits.isfinite().all()
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_mixed_precision():
    """The search runs without gradients. Weights that autocast converts there must not serve the training step."""
    torch.manual_seed(0)
    model = create_classifier("resnet18", 3).train()
    with torch.autocast("cpu", torch.bfloat16):
        step(model, torch.randn(1, 3, 32, 32))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


class Pooling(nn.Module):
    """A batch norm over a map, and one after global pooling."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        )

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("in_place", [False, True])
def test_compiled_models(in_place):
    """A compiled model calls no hooks, so that the search runs it uncompiled."""
    model, expected = Pooling().train(), Pooling().train()
    expected.load_state_dict(model.state_dict())
    compiled = model
    if in_place:
        model.compile(backend="eager")
    else:
        compiled = torch.compile(model, backend="eager")
    for batch in (2, 1, 1, 2):
        images = torch.randn(batch, 3, 8, 8)
        for network in (compiled, expected):
            step(network, images)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), expected.buffers(), strict=True))
    assert [int(norm.num_batches_tracked) for norm in norms(model).values()] == [4, 2]
