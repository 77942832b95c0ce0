"""Behaviour that depends on the device: loss scaling in fp16, and replacements for devices that this machine lacks."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from engine import execution, record
from engine.divergence import Diverged, StepLosses
from engine.execution import device_of
from engine.task import Task


def trained(scaler, steps=20):
    """The weights of a linear regression, trained by SGD with clipped gradients."""
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 1), torch.randn(32, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, fused=True)
    task = SimpleNamespace(
        config=SimpleNamespace(clip=0.1),
        trainer=SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler)),
        step_losses=StepLosses(),
        global_step=0,
    )
    for step in range(steps):
        optimizer.zero_grad()
        loss = (layer(x) - x.sum(1, keepdim=True)).square().mean()
        task.step_losses.add(loss, {"loss": loss}, torch.tensor([step]), first=True)
        (loss if scaler is None else scaler.scale(loss)).backward()
        Task.configure_gradient_clipping(task, optimizer)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
    return layer.weight.detach()


def test_gradients_are_clipped_without_the_loss_scale():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    torch.testing.assert_close(trained(scaler), trained(None), rtol=1e-5, atol=1e-6)


def step_losses(values, first_of_step=0):
    """The losses of the batches of a step, after those of an earlier one."""
    losses = StepLosses()
    losses.add(torch.tensor(torch.nan), {"class": torch.tensor(torch.nan)}, torch.tensor([99]), first=True)
    for number, value in enumerate(values):
        value = torch.tensor(value)
        losses.add(value, {"class": value, "box": torch.tensor(0.5)}, torch.tensor([number]), first=number == 0)
    return losses


def test_a_loss_or_gradient_that_is_not_finite_ends_the_training():
    good, infinite = torch.tensor(1.0), torch.tensor(torch.inf)
    step_losses([0.5, 2.0]).check(good, 3, scaled=False)
    with pytest.raises(Diverged, match=r"the loss is not finite at step 3 \(class nan, box 0.5\), images 0, 1\."):
        step_losses([0.5, torch.nan]).check(good, 3, scaled=False)
    with pytest.raises(Diverged, match=r"the gradient is not finite at step 3, images 0\."):
        step_losses([0.5]).check(infinite, 3, scaled=False)
    step_losses([0.5]).check(infinite, 3, scaled=True)  # the scaler skips this step
    with pytest.raises(Diverged, match="the loss"):
        step_losses([torch.inf, 0.5]).check(infinite, 3, scaled=True)


@pytest.mark.parametrize(
    ("available", "expected"), [((True, True), "cuda"), ((False, True), "mps"), ((False,) * 2, "cpu")]
)
def test_auto_is_the_fastest_device(monkeypatch, available, expected):
    monkeypatch.setattr(execution.torch.cuda, "is_available", lambda: available[0])
    monkeypatch.setattr(execution.torch.backends.mps, "is_available", lambda: available[1])
    assert device_of("auto").type == expected


def test_times_on_mps_wait_for_the_device(monkeypatch):
    calls = []
    monkeypatch.setattr(record.torch.mps, "synchronize", lambda: calls.append("mps"))
    record.synchronize(torch.device("mps"))
    record.synchronize(torch.device("cpu"))
    assert calls == ["mps"]
    assert record.device_name(torch.device("mps")) == record.device_name(torch.device("cpu"))
