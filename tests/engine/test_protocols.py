"""Low-rank updates, gradient checkpointing and linear probes in trainings of all tasks."""

import json
import signal
from importlib import import_module

import pytest
import timm
import torch

from backbones import create_backbone
from classification import train as train_classifier
from detection import train as train_detector
from engine.checkpoint import read_run
from engine.lightning_module import TaskModule
from tests.classification.conftest import write_folders
from tests.commands import fails, run
from tests.detection.conftest import write_coco
from tests.segmentation.conftest import UNLABELLED, write_masks

TINY = ("--image_size", 64, "--batch_size", 4, "--device", "cpu", "--data.workers", 0)
WRITE = {"classification": write_folders, "detection": write_coco, "segmentation": write_masks}
BACKBONE = "tests.fixtures.tiny_transformer:swin"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weight file of the tiny transformer."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "swin.pth"
    torch.save(create_backbone(BACKBONE).state_dict(), file)
    return file


EXTRA = {"segmentation": ("--data.ignore_index", UNLABELLED)}


def train(task, root, output, weights, *arguments):
    run(import_module(f"{task}.train"), "--data.root", root, "--output", output, "--backbone", BACKBONE,
        "--pretrained", weights, *TINY, *EXTRA.get(task, ()), *arguments)  # fmt: skip
    return torch.load(output / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    "task", ["classification", *(pytest.param(name, marks=pytest.mark.slow) for name in ("detection", "segmentation"))]
)
def test_low_rank_updates(task, weights, tmp_path):
    """Of the backbone only the updates change; the run is scored, loaded, and a backbone for other tasks."""
    root = tmp_path / "data"
    WRITE[task](root)
    output = tmp_path / "run"
    flags = ("--protocol", "lora", "--lora_rank", 2, "--epochs", 2, "--lr", 0.01, "--checkpointing", "true")
    state = train(task, root, output, weights, *flags)["state_dict"]
    before = torch.load(weights, weights_only=True)
    frozen = {
        name: value for name, value in state.items()
        if name.startswith("model.backbone.") and not name.endswith((".up", ".down"))
    }  # fmt: skip
    assert len(frozen) == len(before)
    for name, value in frozen.items():
        key = name.removeprefix("model.backbone.").replace(".parametrizations.weight.original", ".weight")
        assert torch.equal(value, before[key]), name
    updates = [value for name, value in state.items() if name.endswith(".up")]
    assert len(updates) > 10
    assert all(value.any() for value in updates)

    record = json.loads((output / "record.json").read_text())
    assert record["params"] < sum(value.numel() for value in state.values())  # of the merged network
    run(import_module(f"{task}.eval"), "--checkpoint", output, "--output", tmp_path / "scores", "--device", "cpu")
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert {name: scores[name] for name in record["metrics"]} == pytest.approx(record["metrics"], abs=1e-6, nan_ok=True)

    backbone = create_backbone(BACKBONE, output)
    merged = read_run(output)[1]
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, merged[f"backbone.{name}"])
    assert not torch.equal(backbone.state_dict()["network.layers_0.blocks.0.mlp.fc1.weight"],
                           before["network.layers_0.blocks.0.mlp.fc1.weight"])  # fmt: skip


@pytest.mark.slow
def test_a_stopped_training_of_updates_resumes_to_the_same_weights(weights, tmp_path, monkeypatch, capsys):
    root = tmp_path / "data"
    write_folders(root)
    flags = ("--protocol", "lora", "--epochs", 2, "--first_layer_lr", 0.1)
    whole = train("classification", root, tmp_path / "whole", weights, *flags)

    def stop(self):
        if self.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TaskModule, "on_train_epoch_start", stop)
        fails(capsys, 130, train_classifier, "--data.root", root, "--output", tmp_path / "stopped", "--backbone",
              BACKBONE, "--pretrained", weights, *TINY, *flags)  # fmt: skip
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves SIGINT ignored
    record = tmp_path / "stopped" / "record.json"
    for _ in range(2):  # the second time as if killed between the last epoch and the record
        run(train_classifier, "--resume", tmp_path / "stopped")
        stopped = torch.load(tmp_path / "stopped" / "checkpoints" / "last.ckpt", weights_only=True)
        for part in ("state_dict", "current_model_state"):
            assert whole[part].keys() == stopped[part].keys()
            assert all(torch.equal(value, stopped[part][name]) for name, value in whole[part].items())
        expected = json.loads((tmp_path / "whole" / "record.json").read_text())["metrics"]
        assert json.loads(record.read_text())["metrics"] == pytest.approx(expected)
        record.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "protocol"),
    [(task, protocol) for task in WRITE for protocol in ("finetune", "lora", "frozen", "scratch")]
    + [("classification", "linear")],
)
def test_every_protocol_trains_a_plain_transformer(task, protocol, tmp_path):
    """What changes is what the protocol names; the feature pyramid has no pretrained weights and is always trained."""
    root = tmp_path / "data"
    WRITE[task](root)
    torch.manual_seed(0)
    vit = timm.create_model("test_vit", num_classes=10)
    for block in vit.blocks:  # a published network, unlike a new one, has no layers that its first step cannot reach
        torch.nn.init.normal_(block.mlp.fc2.bias)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    flags = ("--pretrained", tmp_path / "vit.pth", "--freeze_stride", 4) if protocol != "scratch" else ()
    run(import_module(f"{task}.train"), "--data.root", root, "--output", tmp_path / "run", "--backbone", "test_vit",
        "--protocol", protocol, "--epochs", 2, *flags, *TINY, *EXTRA.get(task, ()))  # fmt: skip
    state = read_run(tmp_path / "run")[1]
    prefix = "backbone." if task == "classification" else "backbone.network."
    trunk = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    before = vit.state_dict()
    changed = {name for name, value in trunk.items() if not torch.equal(value, before[name])}
    if protocol in ("frozen", "linear"):
        assert changed == set()
    elif protocol == "lora":
        layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        assert changed == {f"blocks.{i}.{layer}.weight" for i in range(len(vit.blocks)) for layer in layers}
    elif protocol == "finetune":
        first = ("cls_token", "pos_embed", "patch_embed.", "blocks.0.", "blocks.1.")
        assert changed == {name for name in trunk if not name.startswith(first)}
    if task != "classification":
        assert any(name.startswith("backbone.pyramid.") for name in state)
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert (record["trained_params"] == record["params"]) == (protocol == "scratch")


@pytest.mark.slow
def test_checkpointing_changes_no_weight(tmp_path):
    """With batch norms, stochastic depth and an average of the weights."""
    root = tmp_path / "data"
    write_folders(root)
    states = []
    for switch in ("false", "true"):
        run(train_classifier, "--data.root", root, "--output", tmp_path / switch, "--backbone", "test_resnet", *TINY,
            "--protocol", "scratch", "--epochs", 1, "--stochastic_depth", 0.3, "--checkpointing", switch)  # fmt: skip
        states.append(torch.load(tmp_path / switch / "checkpoints" / "last.ckpt", weights_only=True))
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, states[1][part][name]) for name, value in states[0][part].items())


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_linear_probe_needs_a_trained_neck(task, weights, tmp_path, capsys):
    root = tmp_path / "data"
    WRITE[task](root)
    command = import_module(f"{task}.train")
    message = fails(capsys, 2, command, "--protocol", "linear")
    assert "--protocol linear trains the last layer over a neck or decoder with random weights" in message
    message = fails(capsys, 2, command, "--data.root", root, "--protocol", "linear", "--backbone", BACKBONE,
                    "--pretrained", weights, *TINY, *EXTRA.get(task, ()))  # fmt: skip
    assert "its score says nothing about the backbone. Use --protocol frozen" in message


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--protocol", "lora", "--pretrained", "false"], "--protocol lora needs pretrained weights"),
        (["--lora_rank", 4], "--lora_rank 4 has no effect without --protocol lora"),
        (["--protocol", "lora", "--lora_rank", 0], "--lora_rank 0 is too small"),
        (["--protocol", "linear"], "says nothing about the backbone. Use --protocol frozen"),
        (["--checkpointing", "--compile"], "--checkpointing cannot be combined with --compile"),
        (["--protocol", "frozen", "--checkpointing"], "--checkpointing has no effect with --protocol frozen"),
    ],
)
def test_settings_that_contradict(flags, expected, capsys):
    assert expected in fails(capsys, 2, train_detector, *flags)
