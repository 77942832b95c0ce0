"""`accumulate="auto"`: the gradient of a batch in micro-batches, and the size of micro-batches that fits in memory."""

import copy
import json
import os
import random
import signal
import weakref
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from classification import train as train_classifier
from data.loader import train_loader
from engine import memory, memory_fit, trainer
from engine.checkpoint import read_run
from engine.compat import BatchNorm
from engine.draws import draw_for_whole_batch
from engine.memory_fit import divisors, images_that_fit
from engine.micro_batches import backward_all_but_last
from experiments.tasks import TASKS
from tests.classification.conftest import write_folders
from tests.commands import fails, run
from tests.detection.conftest import write_coco
from tests.segmentation.conftest import UNLABELLED, write_masks

WRITE = {"classification": write_folders, "detection": write_coco, "segmentation": write_masks}
SETTINGS = {
    "classification": {"mixup": 0.4, "label_smoothing": 0.1, "class_weights": "auto", "stochastic_depth": 0.3},
    "detection": {"stochastic_depth": 0.3},
    "segmentation": {"losses": ["ce", "focal"], "class_weights": "auto", "stochastic_depth": 0.3},
}
IMAGES = 6


def prepared(name, root, **settings):
    """A task and a batch of its training images."""
    spec = TASKS[name]
    config = spec.train_config(
        backbone="mobilenetv3_small_050", pretrained=False, protocol="scratch", image_size=64, batch_size=IMAGES,
        device="cpu", **settings,
    )  # fmt: skip
    config.data.root, config.data.workers = str(root), 0
    if name == "segmentation":
        config.data.ignore_index = UNLABELLED
    torch.manual_seed(0)
    task, train, _ = spec.load_task().prepare(config, root)
    return task, train_loader(train, IMAGES, 0, workers=0)


def gradients(task, batch, size):
    """Losses and gradients of a batch in micro-batches of this size."""
    task.micro_batch = size
    optimizer = torch.optim.SGD(task.parameters(), lr=1.0)
    strategy = SimpleNamespace(backward=lambda loss, _: loss.backward())
    task.trainer = SimpleNamespace(optimizers=[optimizer], strategy=strategy, global_step=0, current_epoch=0)
    torch.manual_seed(7)
    images, mixed = task.mixed(task.normalised(batch), batch)
    loss, losses = backward_all_but_last(task, images, mixed, seed=7)
    loss.backward()
    return losses, {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "name", ["classification", *(pytest.param(name, marks=pytest.mark.slow) for name in ("detection", "segmentation"))]
)
def test_micro_batches_have_the_gradient_of_the_batch(name, tmp_path):
    """Also with images of different numbers of boxes and labelled pixels, class weights and random draws."""
    task, loader = prepared(name, WRITE[name](tmp_path / "data"), **SETTINGS[name])
    batch = next(iter(loader))
    task.part = draw_for_whole_batch(task.model)
    task.train()
    for module in task.modules():
        if isinstance(module, BatchNorm):
            module.eval()
    whole, expected = gradients(task, batch, IMAGES)
    for size in (3, 4):  # 4 leaves a part of two images
        losses, found = gradients(task, batch, size)
        assert losses == {key: pytest.approx(float(value), rel=1e-5) for key, value in whole.items()}
        assert found.keys() == expected.keys()
        largest = max(float(value.abs().max()) for value in expected.values())
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5 * largest, msg=key)
    draw_for_whole_batch(task.model)  # the part is not set: each part of the batch draws the same numbers
    found = gradients(task, batch, 3)[1]
    assert any(not torch.allclose(found[key], value, rtol=1e-2) for key, value in expected.items())


@pytest.fixture
def out_of_memory(monkeypatch):
    """A function that makes training steps of more than a number of images run out of memory. It returns the sizes."""
    tried = []

    def limit(images):
        from engine.task import Task

        step = Task.losses_at_once

        def losses(self, values, batch):
            tried.append(len(batch))
            if len(batch) > images:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return step(self, values, batch)

        monkeypatch.setattr(Task, "losses_at_once", losses)
        monkeypatch.setattr(memory_fit, "_computed", lambda step, sizes: memory_fit._largest(attempt(step), sizes))
        return tried

    def attempt(step):
        def fits(images):
            try:
                step(images)
            except torch.OutOfMemoryError:
                return False
            return True

        return fits

    return limit


@pytest.mark.parametrize(("limit", "expected"), [(5, 3), pytest.param(99, 6, marks=pytest.mark.slow)])
def test_the_trial_changes_nothing(limit, expected, tmp_path, out_of_memory):
    task, loader = prepared("detection", write_coco(tmp_path / "data"))
    task.train()
    before = copy.deepcopy(task.state_dict())
    random_states = random.getstate(), torch.get_rng_state()
    tried = out_of_memory(limit)
    assert images_that_fit(task, loader, torch.device("cpu")) == expected
    assert [*dict.fromkeys(tried)] == [size for size in divisors(6) if size >= expected]
    assert all(torch.equal(before[key], value) for key, value in task.state_dict().items())
    assert all(parameter.grad is None for parameter in task.parameters())
    assert random_states[0] == random.getstate()
    assert torch.equal(random_states[1], torch.get_rng_state())
    assert (
        next(iter(loader)).image_ids.tolist()
        == next(iter(prepared("detection", tmp_path / "data")[1])).image_ids.tolist()
    )


@pytest.mark.slow
def test_attempts_release_the_memory_of_the_one_before(monkeypatch):
    """The same code as on a GPU, whose error names CUDA."""
    task, batch, alive = SimpleNamespace(), [None] * 6, []

    def step(task, batch, device):
        copied = nn.Linear(2, 2)
        assert not [reference for reference in alive if reference() is not None]
        alive.append(weakref.ref(copied))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(memory_fit, "_try_step", step)
    fits = [memory_fit._fits_gpu(task, batch[:images], torch.device("meta")) for images in (6, 3, 2)]
    assert fits == [False, False, True]
    monkeypatch.setattr(memory_fit, "_try_step", lambda *_: nn.Linear(2, 2)(torch.ones(3)))
    with pytest.raises(RuntimeError, match="shapes"):
        memory_fit._fits_gpu(task, batch[:2], torch.device("meta"))


@pytest.mark.parametrize(("free", "expected"), [(1000, 12), (163, 12), (162, 6), (63, 4), (62, 3), (49, 1), (10, 1)])
def test_memory_on_a_cpu_is_computed(free, expected, monkeypatch):
    """10 bytes for a copy of the weights, 10 for each image; a training may use four fifths of the free bytes."""
    monkeypatch.setattr(memory_fit, "available_memory", lambda: free)
    monkeypatch.setattr(memory_fit, "growth_of", lambda step: step())
    assert memory_fit._computed(lambda images: 10 + 10 * images, divisors(12)) == expected


def test_running_out_of_memory_on_a_cpu(monkeypatch):
    """Where the process has a limit, so that there is an error: one image does not fit, or two do not."""
    monkeypatch.setattr(memory_fit, "available_memory", lambda: 1000)
    monkeypatch.setattr(memory_fit, "growth_of", lambda step: step())

    def step(images, limit):
        if images > limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1600 bytes")
        return 10 * images

    found = [memory_fit._computed(lambda images, most=most: step(images, most), divisors(12)) for most in range(5)]
    assert found == [0, 1, 2, 2, 12]


@pytest.mark.slow
def test_growth_is_measured():
    """Also of memory that a function before has freed, and that the process keeps."""
    for megabytes in (50, 20):
        grown = memory.growth_of(lambda size=megabytes: [torch.ones(2**16) for _ in range(4 * size)])
        assert 0.9 * megabytes < grown / 2**20 < 1.3 * megabytes + 10


def test_limits_of_control_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "groups")
    inner = tmp_path / "groups" / "job" / "step"
    inner.mkdir(parents=True)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/job/step\n")
    assert memory.available_memory() == 8000 * 1024
    for folder, limit in ((inner, "max"), (inner.parent, "5000")):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text("2000\n")
    assert memory.available_memory() == 3000
    (tmp_path / "proc" / "self" / "cgroup").write_text("4:memory:/old\n1:cpu:/\n")
    (tmp_path / "groups" / "memory" / "old").mkdir(parents=True)
    (tmp_path / "groups" / "memory" / "old" / "memory.limit_in_bytes").write_text("700\n")
    (tmp_path / "groups" / "memory" / "old" / "memory.usage_in_bytes").write_text("100\n")
    assert memory.available_memory() == 600


TINY = ("--backbone", "mobilenetv3_small_050", "--pretrained", "false", "--protocol", "scratch", "--image_size", 32,
        "--batch_size", 6, "--epochs", 2, "--device", "cpu", "--data.workers", 0)  # fmt: skip


@pytest.mark.slow
def test_the_choice_is_printed_recorded_and_kept(tmp_path, monkeypatch, capsys):
    """A stopped run resumes with its number, whatever fits then."""
    root = write_folders(tmp_path / "data")
    command = [train_classifier, "--data.root", root, *TINY, "--accumulate", "auto"]
    monkeypatch.setattr(trainer, "images_that_fit", lambda *_: 2)
    run(*command, "--output", tmp_path / "whole")
    assert (
        "--accumulate auto: 2 of the 6 images of a step at once, the most that fit in memory" in capsys.readouterr().err
    )
    record = json.loads((tmp_path / "whole" / "record.json").read_text())
    assert (record["micro_batch"], record["config"]["accumulate"]) == (2, "auto")
    assert read_run(tmp_path / "whole")[0].extra["micro_batch"] == 2

    task = import_module("classification.task").ClassificationTask
    stop = task.on_train_batch_start
    with monkeypatch.context() as patch:

        def stopping(self, batch, batch_idx):
            if (self.current_epoch, batch_idx) == (0, 1):
                os.kill(os.getpid(), signal.SIGINT)
            return stop(self, batch, batch_idx)

        patch.setattr(task, "on_train_batch_start", stopping)
        fails(capsys, 130, *command, "--output", tmp_path / "stopped")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves SIGINT ignored
    monkeypatch.setattr(trainer, "images_that_fit", lambda *_: 6)
    run(train_classifier, "--resume", tmp_path / "stopped")
    assert "2 of the 6 images of a step at once, as before" in capsys.readouterr().err
    whole, resumed = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"] for name in ("whole", "stopped")
    )
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (tmp_path / "stopped" / "metrics.csv").read_text()


def test_one_image_that_does_not_fit_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory_fit, "_computed", lambda *_: 0)
    root = write_folders(tmp_path / "data")
    message = fails(
        capsys, 3, train_classifier, "--data.root", root, *TINY, "--accumulate", "auto", "--output", tmp_path / "run"
    )
    assert "out of memory in a training step with one image" in message
    assert not (tmp_path / "run").exists()
