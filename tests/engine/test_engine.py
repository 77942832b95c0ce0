"""Parts of the engine in isolation: schedule, moving average, parameter groups, checkpoints, help."""

import math
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from backbones.errors import UserError
from engine.checkpoint import RunInfo, sweep
from engine.checkpoint_io import AtomicCheckpointIO
from engine.config import TrainConfig, parse_size
from engine.optimization import parameter_groups, warmup_cosine
from engine.record import cost, write_json
from engine.task import Task
from engine.trainer import EMA
from experiments.tasks import TASKS


def test_schedule_by_hand():
    factors = [warmup_cosine(step, 4, 14) for step in range(15)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors[9] == pytest.approx(0.5)
    assert factors[14] == pytest.approx(0.0)
    assert warmup_cosine(20, 4, 14) == pytest.approx(0.0)  # past its end the rate stays there


def test_ema_warms_up_and_converges():
    """After 3 updates the decay is 4/13, not 0.9998. Integer buffers are copied."""
    ema = EMA(0.9998)
    average, counter = torch.zeros(1), torch.zeros(1, dtype=torch.long)
    expected = 0.0
    for n in range(1, 4):
        ema._average([average], [torch.tensor([float(n)])], torch.tensor(n))
        ema._average([counter], [torch.tensor([n])], torch.tensor(n))
        decay = (1 + n) / (10 + n)
        expected = decay * expected + (1 - decay) * n
    assert float(average) == pytest.approx(expected)
    assert int(counter) == 3
    assert EMA(0.5)._average([average], [torch.zeros(1)], torch.tensor(10**6)) is None
    assert float(average) == pytest.approx(expected / 2)


def test_parameter_groups_cover_each_trainable_parameter_once():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
            self.head = nn.Linear(4, 2)

    model = Model()
    model.backbone[0].bias.requires_grad_(False)
    groups = list(parameter_groups(model, lr=0.1, backbone_lr=0.1, decay=0.5))
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    for group in groups:
        for parameter in group["params"]:
            in_backbone = any(parameter is p for p in model.backbone.parameters())
            assert group["lr"] == pytest.approx(0.01 if in_backbone else 0.1)
            assert group["weight_decay"] == (0.5 if parameter.ndim > 1 else 0)


class Tiny(nn.Module):
    """A backbone and a head of one weight each."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)


def optimised(source, steps, **settings):
    config = TrainConfig(lr=0.1, backbone_lr=0.25, epochs=10, **settings)
    task = Task(Tiny(), config, RunInfo("t", {}, {}, [], {}, {"source": source}))
    task.total_steps = steps
    found = task.configure_optimizers()
    return found["optimizer"], found["lr_scheduler"]["scheduler"]


@pytest.mark.parametrize(("source", "rate"), [("packaged:x", 0.025), ("random", 0.1)])
def test_a_backbone_with_weights_learns_more_slowly(source, rate):
    """`backbone_lr` spares what was learned before; random weights have nothing to spare."""
    optimizer, _ = optimised(source, 100, warmup_epochs=0.0)
    assert [group["initial_lr"] for group in optimizer.param_groups] == pytest.approx([rate, 0.1])


@pytest.mark.parametrize(("epochs", "steps", "warmup"), [(2.0, 100, 20), (1.0, 16, 2), (10.0, 4, 3), (10.0, 1, 1)])
def test_warmup_is_counted_in_epochs(epochs, steps, warmup):
    """2 of 10 epochs are 20 of 100 steps, rounded for short runs; at least the last step is after it."""
    _, schedule = optimised("random", steps, warmup_epochs=epochs)
    factor = schedule.lr_lambdas[0]
    assert [factor(step) for step in range(steps)] == [warmup_cosine(step, warmup, steps) for step in range(steps)]


def test_rmsprop_is_that_of_the_tpu_code():
    """tensorflow/tpu models/official/efficientnet/utils.py: decay 0.9, momentum 0.9, epsilon 1e-3."""
    (group, _) = optimised("random", 9, optimizer="rmsprop")[0].param_groups
    assert (group["alpha"], group["momentum"], group["eps"]) == (0.9, 0.9, 1e-3)
    assert optimised("random", 9, optimizer="sgd")[0].param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize(("text", "size"), [(320, (320, 320)), ("320", (320, 320)), ("480x640", (480, 640))])
def test_parse_size(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "12y", "0", "-5", "1x2x3", "99999"])
def test_parse_size_rejects(text):
    with pytest.raises(UserError, match="HxW"):
        parse_size(text)


def test_checkpoints_are_replaced_atomically_and_temporary_files_deleted(tmp_path):
    path = tmp_path / "last.ckpt"
    (tmp_path / ".last.ckpt.dead").write_bytes(b"half a file")
    for step in range(2):
        AtomicCheckpointIO().save_checkpoint({"step": step}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "x.json", {"a": math.nan, "b": [1.0, math.inf]})
    assert (tmp_path / "x.json").read_text().split() == ["{", '"a":', "null,", '"b":', "[", "1.0,", "null", "]", "}"]


def test_cost_counts_multiply_adds():
    """A 3x3 convolution of 3 to 8 channels at 16 x 16: 3 * 8 * 9 * 256 multiply-adds."""
    model = nn.Conv2d(3, 8, 3, padding=1)
    counted = cost(model, (16, 16), torch.device("cpu"))
    assert counted["macs"] == 3 * 8 * 9 * 256
    assert counted["params"] == 3 * 8 * 9 + 8
    assert counted["latency_ms"] > 0


COMMANDS = [f"{task}.{verb}" for task in TASKS for verb in ("train", "eval", "predict")]


@pytest.mark.parametrize("module", [*COMMANDS, "backbones"])
def test_help_does_not_import_torch(module):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{module}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('{module}', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules and 'timm' not in sys.modules\n"
    )
    started = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "usage" in result.stdout.lower()
    assert time.perf_counter() - started < 20  # generous: it detects a hang, not slowness
