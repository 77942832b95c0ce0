"""Memory-efficient operations against the same operations composed from PyTorch's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones.memory_efficient import ReLU6, gated, norm_act, norm_swish, relu6, spatial_mean, swish


def pair():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm, copy.deepcopy(norm), torch.randn(4, 6, 9, 7).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_norm_swish_has_pytorchs_outputs_gradients_and_statistics(training, frozen) -> None:
    ours, theirs, images = pair()
    for norm in (ours, theirs):
        norm.train(training).requires_grad_(not frozen)
    x, z = (images.clone().requires_grad_() for _ in range(2))
    found, expected = norm_swish(ours, x), F.silu(theirs(z))
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(found)
    found.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(x.grad, z.grad)
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None) == frozen, name
        assert frozen or torch.allclose(a.grad, b.grad, atol=1e-5)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert torch.equal(a, b)


def test_norm_swish_has_numerical_gradients() -> None:
    norm, _, images = pair()
    norm.double()
    x = images[:2, :, :3, :3].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: norm_swish(norm, x), (x,))


def test_norm_swish_in_half_precision() -> None:
    ours, theirs, images = pair()
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = norm_swish(ours, images.bfloat16().requires_grad_()), F.silu(theirs(images.bfloat16()))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)
    found.float().sum().backward()
    assert ours.weight.grad.isfinite().all()


def test_norm_swish_stores_half_as_much() -> None:
    norm, _, images = pair()
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t.numel()) or t, lambda t: t):
        norm_swish(norm, images.requires_grad_())
    assert stored.count(images.numel()) == 1  # two if computed separately


def test_norm_act_computes_other_activations_separately() -> None:
    norm, _, images = pair()
    torch.testing.assert_close(norm_act(norm.eval(), F.relu6, images), F.relu6(norm(images)))
    torch.testing.assert_close(norm_act(nn.Identity(), swish, images.clone()), F.silu(images))


@pytest.mark.parametrize("scale", [1.0, 40.0])  # gates close to 0 and 1: nothing may divide by them
def test_gated_equals_a_product_with_a_sigmoid(scale) -> None:
    images = pair()[2]
    logits = scale * torch.randn(4, 6, 1, 1)
    ours, theirs = ([t.clone().requires_grad_() for t in (images, logits)] for _ in range(2))
    found, expected = gated(*ours), theirs[0] * theirs[1].sigmoid()
    assert torch.equal(found, expected)
    gradient = torch.randn_like(found)
    found.backward(gradient)
    expected.backward(gradient)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    with torch.no_grad():
        assert torch.equal(gated(images, logits), expected)


def test_gated_has_numerical_gradients_and_stores_only_its_product() -> None:
    images = pair()[2][:2, :, :3, :3].double()
    logits = torch.randn(2, 6, 1, 1, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(gated, (images.clone().requires_grad_(), logits))
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t.data_ptr()) or t, lambda t: t):
        product = gated(images.requires_grad_(), logits)
    assert product.data_ptr() in stored
    assert images.data_ptr() not in stored


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_spatial_mean_of_bfloat16_equals_that_of_float32(layout) -> None:
    images = (3 + torch.randn(2, 40, 31, 17)).bfloat16().to(memory_format=layout)
    mean = spatial_mean(images)
    assert mean.shape == (2, 40, 1, 1)
    assert mean.dtype == torch.bfloat16
    torch.testing.assert_close(mean.float(), images.float().mean((2, 3), keepdim=True), rtol=2**-7, atol=0)


def test_spatial_mean_stores_nothing() -> None:
    images = torch.randn(2, 6, 9, 9).bfloat16().requires_grad_()
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t) or t, lambda t: t):
        spatial_mean(images).sum().backward()
    assert not stored
    torch.testing.assert_close(images.grad.float(), torch.full(images.shape, 1 / 81), rtol=2**-7, atol=0)


def test_relu6_has_pytorchs_gradient_and_stores_only_its_output() -> None:
    images = 5 * torch.randn(2, 6, 9, 9)
    images[0, 0, 0, :2] = torch.tensor([0.0, 6.0])  # where the gradient is a convention
    ours, theirs = (images.clone().requires_grad_() for _ in range(2))
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t.data_ptr()) or t, lambda t: t):
        given = ours + 0
        found = relu6(given)
    assert found.data_ptr() == given.data_ptr()
    assert set(stored) == {found.data_ptr()}
    expected = F.relu6(theirs)
    assert torch.equal(found, expected)
    gradient = torch.randn_like(expected)
    found.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(ours.grad, theirs.grad)
    with torch.no_grad():
        assert torch.equal(ReLU6()(images.clone()), expected)
