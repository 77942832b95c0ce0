"""Behaviour that depends on the device: loss scaling in fp16, and replacements for devices that this machine lacks."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from engine import record, trainer
from engine.task import Task
from engine.trainer import device_of


def trained(scaler, steps=20):
    """The weights of a linear regression, trained by SGD with clipped gradients."""
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 1), torch.randn(32, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, fused=True)
    task = SimpleNamespace(
        config=SimpleNamespace(clip=0.1), trainer=SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
    )
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (layer(x) - x.sum(1, keepdim=True)).square().mean()
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


@pytest.mark.parametrize(
    ("available", "expected"), [((True, True), "cuda"), ((False, True), "mps"), ((False,) * 2, "cpu")]
)
def test_auto_is_the_fastest_device(monkeypatch, available, expected):
    monkeypatch.setattr(trainer.torch.cuda, "is_available", lambda: available[0])
    monkeypatch.setattr(trainer.torch.backends.mps, "is_available", lambda: available[1])
    assert device_of("auto").type == expected


def test_times_on_mps_wait_for_the_device(monkeypatch):
    calls = []
    monkeypatch.setattr(record.torch.mps, "synchronize", lambda: calls.append("mps"))
    record.synchronize(torch.device("mps"))
    record.synchronize(torch.device("cpu"))
    assert calls == ["mps"]
    assert record.device_name(torch.device("mps")) == record.device_name(torch.device("cpu"))
