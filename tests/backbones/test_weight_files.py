"""Weight files as training programs write them: all kinds are read, and nothing in them is executed."""

import argparse
import collections
import datetime
import enum
import functools
import json
import logging
import os
import pathlib
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from backbones import create_backbone
from backbones.adapter import build_backbone
from backbones.errors import BadInput, with_flags
from backbones.weight_facts import weight_facts
from backbones.weight_files import read_file, read_state, weight_file

State = dict[str, torch.Tensor]
NAME = "resnet10t"  # 5 M parameters, 1.4 M of them in the last stage


@pytest.fixture(scope="module")
def states() -> tuple[State, State]:
    """Two state dicts of the whole network: the weights, and their average."""
    torch.manual_seed(0)
    first, second = (timm.create_model(NAME, num_classes=3).state_dict() for _ in range(2))
    return first, second


def loads(path: Path, expected: State) -> bool:
    """Whether a backbone from this file has the weights `expected`."""
    backbone = create_backbone(NAME, pretrained=path)
    names = backbone.published_names()
    return all(torch.equal(value, expected[names[key]]) for key, value in backbone.state_dict().items())


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def arguments(**settings: Any) -> argparse.Namespace:
    """Settings of a training program, of all types that such settings have."""
    return argparse.Namespace(
        model=NAME, lr=0.1, data_dir=pathlib.Path("/data"), opt=None, betas=[0.9, 0.99], **settings
    )


@pytest.mark.parametrize("new_format", [True, False])
def test_checkpoint_of_timms_training(states: tuple[State, State], tmp_path: Path, new_format: bool) -> None:
    plain, averaged = states
    path = tmp_path / "model_best.pth.tar"
    content = {
        "epoch": 3, "arch": NAME, "state_dict": plain, "optimizer": {"state": {}, "param_groups": []}, "version": 2,
        "args": arguments(mean=[0.1, 0.2, 0.3], std=None), "amp_scaler": {"scale": 1.0}, "metric": np.float64(71.2),
    }  # fmt: skip
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    assert loads(path, plain)
    torch.save(content | {"state_dict_ema": averaged}, path, _use_new_zipfile_serialization=new_format)
    assert loads(path, averaged)
    provenance = create_backbone(NAME, pretrained=path).provenance
    assert (provenance.mean, provenance.std) == ((0.1, 0.2, 0.3), (0.229, 0.224, 0.225))
    assert provenance.source == f"file:{path}"


def test_checkpoint_of_torchvisions_training(states: tuple[State, State], tmp_path: Path) -> None:
    """`model_ema` is the state dict of an AveragedModel around a model that DistributedDataParallel may wrap."""
    plain, averaged = states
    path = tmp_path / "checkpoint.pth"
    content = {"model": plain, "epoch": 1, "lr_scheduler": {"last_epoch": 1}, "args": arguments()}
    torch.save(content, path)
    assert loads(path, plain)
    for prefix in ("module.", "module.module."):
        torch.save(content | {"model_ema": {"n_averaged": torch.tensor(5)} | prefixed(averaged, prefix)}, path)
        assert loads(path, averaged)


def test_averaged_model(tmp_path: Path) -> None:
    """The state dict of torch's own class."""
    network = timm.create_model(NAME, num_classes=3)
    averaged = torch.optim.swa_utils.AveragedModel(network)
    torch.save(averaged.state_dict(), tmp_path / "w.pt")
    assert "n_averaged" in torch.load(tmp_path / "w.pt", weights_only=True)
    assert loads(tmp_path / "w.pt", network.state_dict())


class AttributeDict(dict[str, Any]):
    """As Lightning stores hyperparameters."""


class Mode(enum.Enum):
    FAST = 1


class Config:
    def __init__(self) -> None:
        self.depth, self.parts = 3, [Mode.FAST]


class Slots:
    __slots__ = ("rate",)

    def __init__(self) -> None:
        self.rate = 0.5


def test_checkpoint_of_lightning(states: tuple[State, State], tmp_path: Path) -> None:
    """With objects as hyperparameters. They are replaced, and the tensors are read."""
    path = tmp_path / "last.ckpt"
    objects = {
        "config": Config(), "dict": AttributeDict(a=1), "mode": Mode.FAST, "slots": Slots(), "type": int,
        "partial": functools.partial(nn.Linear, 3), "loss": nn.CrossEntropyLoss(), "time": datetime.datetime.now(),
        "counts": collections.defaultdict(list, {"a": [1]}), "queue": collections.deque([1, 2], 5), "set": {1},
        "array": np.arange(3), "random": np.random.default_rng(0).bit_generator.state, "path": pathlib.Path("x"),
        "version": torch.__version__,
    }  # fmt: skip
    content = {"state_dict": prefixed(states[0], "model."), "hyper_parameters": objects, "callbacks": {"a": {}}}
    torch.save(content, path)
    assert loads(path, states[0])
    assert read_file(path)["hyper_parameters"]["dict"] == {"a": 1}
    assert not isinstance(read_file(path)["hyper_parameters"]["config"], Config)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "model.", "encoder.", "backbone.", "_orig_mod.", "module._orig_mod.", "net.backbone._orig_mod.model."],
)
def test_prefixes(states: tuple[State, State], tmp_path: Path, prefix: str) -> None:
    torch.save({"state_dict": prefixed(states[0], prefix)}, tmp_path / "w.pth")
    assert loads(tmp_path / "w.pth", states[0])


def test_a_part_that_was_compiled(states: tuple[State, State], tmp_path: Path) -> None:
    """torch.compile and checkpointing of a submodule insert a part in the middle of its keys."""
    state = {
        key.replace("layer1.", "layer1._orig_mod.").replace("layer2.0.", "layer2.0._checkpoint_wrapped_module."): value
        for key, value in states[0].items()
    }
    assert state.keys() != states[0].keys()
    torch.save(state, tmp_path / "w.pth")
    assert loads(tmp_path / "w.pth", states[0])


@pytest.mark.parametrize("wrappers", [["model_state_dict"], ["model", "state_dict"], ["net"], ["params_ema"]])
def test_wrappers(states: tuple[State, State], tmp_path: Path, wrappers: list[str]) -> None:
    content: dict[str, Any] = states[0]
    for wrapper in reversed(wrappers):
        content = {"epoch": 1, wrapper: content}
    torch.save(content, tmp_path / "w.th")
    assert loads(tmp_path / "w.th", states[0])


@pytest.mark.parametrize(
    ("used", "other"), [("encoder_q.", "encoder_k."), ("ema_model.", "model."), ("teacher.net.", "student.net.")]
)
def test_a_network_that_occurs_twice(
    states: tuple[State, State], tmp_path: Path, caplog: Any, used: str, other: str
) -> None:
    """Momentum contrast, an average among the modules, distillation: the file does not say which one to use."""
    first, second = prefixed(states[0], used), prefixed(states[1], other)
    for state in (first | second, second | first):
        torch.save({"state_dict": prefixed(state, "module.")}, tmp_path / "w.pth.tar")
        assert loads(tmp_path / "w.pth.tar", states[0])
    assert f"using '{used}'" in caplog.text
    assert f"'{other}'" in caplog.text


# --- folders of the Hugging Face hub


def write_hub(folder: Path, state: State, architecture: str = NAME, **settings: Any) -> Path:
    """A network as timm pushes it to the hub."""
    folder.mkdir(parents=True)
    published = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 96, 128], "crop_pct": 1.0,
                 "interpolation": "bilinear", "tag": "mine_in1k", "license": "mit"}  # fmt: skip
    content = {"architecture": architecture, "num_classes": 3, "pretrained_cfg": published} | settings
    (folder / "config.json").write_text(json.dumps(content))
    save_file(state, folder / "model.safetensors")
    return folder


def test_folder_of_the_hub(states: tuple[State, State], tmp_path: Path) -> None:
    folder = write_hub(tmp_path / "hub", states[0])
    assert loads(folder, states[0])
    provenance = create_backbone(NAME, pretrained=folder).provenance
    assert provenance.source == f"file:{folder / 'model.safetensors'}"
    assert (provenance.mean, provenance.std) == ((0.5,) * 3, (0.25,) * 3)
    assert (provenance.input_size, provenance.crop_pct, provenance.interpolation) == ((96, 128), 1.0, "bilinear")
    assert (provenance.tag, provenance.data, provenance.license) == ("mine_in1k", "ImageNet-1k", "mit")


def test_other_files_of_the_hub(states: tuple[State, State], tmp_path: Path) -> None:
    """Torch's file, settings at the top level, and the hub's cache, whose newest snapshot counts."""
    old = tmp_path / "old"
    old.mkdir()
    torch.save(states[0], old / "pytorch_model.bin")
    (old / "config.json").write_text(json.dumps({"architecture": NAME, "mean": [0.5] * 3, "std": [0.5] * 3}))
    assert loads(old, states[0])
    assert create_backbone(NAME, pretrained=old).provenance.mean == (0.5,) * 3
    cache = tmp_path / "models--timm--network"
    for place, state in zip(("aaa", "bbb"), states, strict=True):
        write_hub(cache / "snapshots" / place, state)
    os.utime(cache / "snapshots" / "aaa", (1e9, 1e9))
    assert loads(cache, states[1])


def test_folders_without_weights(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no weight file at .*model\.safetensors"):
        weight_file(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(BadInput, match=r"in several files, which model\.safetensors\.index\.json lists"):
        weight_file(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"pretrained_cfg": 3}', '{"mean": ["a", "b", "c"]}'])
def test_damaged_settings_of_the_hub(states: tuple[State, State], tmp_path: Path, content: str) -> None:
    folder = write_hub(tmp_path / "hub", states[0])
    (folder / "config.json").write_text(content)
    with pytest.raises(BadInput, match=r"config\.json cannot be read"):
        create_backbone(NAME, pretrained=folder)


# --- advice


def test_the_message_names_the_network_of_the_file(states: tuple[State, State], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"arch": NAME, "state_dict": states[0]}, path)
    for given in (path, write_hub(tmp_path / "hub", states[0])):
        with pytest.raises(
            BadInput, match=f"weights of '{NAME}', not of 'resnet18': use `backbone='{NAME}'`"
        ) as caught:
            create_backbone("resnet18", pretrained=given)
        assert f"--backbone {NAME}" in with_flags(caught.value)
    torch.save(states[0], path)  # without a name
    with pytest.raises(BadInput, match="Choose the `backbone`"):
        create_backbone("resnet18", pretrained=path)


def test_files_of_transformers(tmp_path: Path) -> None:
    state = {"resnet.embedder.embedder.convolution.weight": torch.ones(2)}
    folder = write_hub(tmp_path / "hub", state)
    (folder / "config.json").write_text(json.dumps({"model_type": "resnet", "transformers_version": "4.35"}))
    with pytest.raises(BadInput, match="written by the library transformers"):
        create_backbone("resnet18", pretrained=folder)


def test_a_whole_network_as_an_object(tmp_path: Path) -> None:
    for content in (nn.Linear(2, 2), {"model": nn.Linear(2, 2)}):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(BadInput, match=r"a network as a Python object: save its `state_dict\(\)`"):
            read_state(tmp_path / "w.pt")


def test_a_torchscript_program(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(BadInput, match="is a TorchScript program"):
        read_state(tmp_path / "w.pt")


def test_facts_of_a_plain_file(states: tuple[State, State], tmp_path: Path) -> None:
    torch.save(states[0], tmp_path / "w.pth")
    facts = weight_facts(tmp_path / "w.pth")
    assert (facts.network, facts.known, facts.run, facts.library) == (None, {}, None, None)


# --- nothing is executed


class Calls:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.case("R15")
@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("name", ["system", "popen", "eval", "getattr", "touch", "torch"])
def test_calls_of_functions_are_refused(tmp_path: Path, name: str, new_format: bool) -> None:
    """Also next to settings that are read. `subprocess.Popen` is a class, whose construction runs a program."""
    proof = tmp_path / "executed"
    call = {
        "system": Calls(os.system, f"touch {proof}"),
        "popen": Calls(subprocess.Popen, ["touch", str(proof)]),
        "eval": Calls(eval, f"open({str(proof)!r}, 'w')"),
        "getattr": Calls(getattr, Config, "__name__"),
        "touch": Calls(Path.touch, proof),
        "torch": Calls(torch.save, 1, str(proof)),
    }[name]
    content = {"state_dict": {"conv1.weight": torch.ones(2)}, "args": arguments(), "x": call}
    torch.save(content, tmp_path / "w.pth.tar", _use_new_zipfile_serialization=new_format)
    with pytest.raises(BadInput, match=r"could run code, so they are not read"):
        read_state(tmp_path / "w.pth.tar")
    assert not proof.exists()


class Harmful:
    """A class of a library, whose construction writes a file."""

    def __init__(self, target: str) -> None:
        Path(target).touch()

    def __setstate__(self, state: Any) -> None:
        raise AssertionError


@pytest.mark.case("R15")
def test_classes_of_files_are_never_constructed(states: tuple[State, State], tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    torch.save({"state_dict": states[0], "x": Calls(Harmful, str(proof))}, tmp_path / "w.pth")
    assert loads(tmp_path / "w.pth", states[0])
    assert not proof.exists()
    Harmful(str(proof))
    assert proof.exists(), "the class has no effect, so that this test would prove nothing"


@pytest.mark.case("R15")
def test_replaced_objects_stay_refused_elsewhere(states: tuple[State, State], tmp_path: Path) -> None:
    """Reading a file does not widen what torch allows afterwards."""
    torch.save({"state_dict": states[0], "config": Config()}, tmp_path / "w.pth")
    read_state(tmp_path / "w.pth")
    with pytest.raises(Exception, match="Config"):
        torch.load(tmp_path / "w.pth", weights_only=True)


def test_which_weights_are_used_is_logged(states: tuple[State, State], tmp_path: Path, caplog: Any) -> None:
    torch.save({"state_dict": states[0], "state_dict_ema": states[1]}, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        read_state(tmp_path / "w.pth")
    assert "using its 'state_dict_ema'" in caplog.text


def test_a_backbones_own_file(tmp_path: Path) -> None:
    backbone = build_backbone(NAME)
    save_file(backbone.state_dict(), tmp_path / "w.safetensors")
    loaded = create_backbone(NAME, pretrained=tmp_path / "w.safetensors")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in backbone.state_dict().items())
