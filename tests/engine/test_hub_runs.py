"""Runs on the Hub: written as safetensors with a model card, uploaded, downloaded and used as checkpoints."""

import json

import huggingface_hub
import pytest
from safetensors.torch import load_file, save_file

from backbones.errors import BadInput
from backbones.weight_files import RUN_KEY
from classification import eval as evaluate
from classification import export, train
from engine.hub import local_checkpoint
from experiments import load_run
from tests.classification.conftest import write_folders
from tests.commands import fails, run
from tests.data.fake_hub import Hub, connected


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    root = write_folders(folder / "data")
    run(train, "--image_size", 64, "--epochs", 1, "--data.root", root, "--output", folder / "run")
    return folder / "run"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    running = Hub({"me/pickles": {"main": {"pytorch_model.bin": b"pickle"}}})
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", running.endpoint)
    local_checkpoint.cache_clear()
    with connected(running, tmp_path / "cache", monkeypatch):
        yield running
    local_checkpoint.cache_clear()


def test_upload_and_download(trained, hub, tmp_path):
    """A run that was uploaded scores as the run itself, to the last digit, and starts another training."""
    flags = "--checkpoint", trained, "--format", "safetensors", "--output", tmp_path / "file"
    run(export, *flags, "--push", "me/rectangles", "--private", "true")
    files = hub.repositories["me/rectangles"]["main"]
    assert {"model.safetensors", "README.md", "record.json", "export.json"} <= files.keys()
    assert hub.private["me/rectangles"]
    card = files["README.md"].decode()
    assert card.startswith("---\n")
    assert "hf://me/rectangles" in card
    assert "blue &lt;b>" in card

    for name, place in (("run", trained), ("hub", "hf://me/rectangles")):
        run(evaluate, "--checkpoint", place, "--data.root", trained.parent / "data", "--output", tmp_path / name)
    first, second = ((tmp_path / name / "metrics.json").read_text() for name in ("run", "hub"))
    assert first == second
    assert load_run("hf://me/rectangles").classes == load_run(trained).classes

    further = "--pretrained", tmp_path / "file", "--image_size", 64, "--epochs", 1, "--output", tmp_path / "further"
    run(train, "--data.root", trained.parent / "data", *further)
    record = json.loads((tmp_path / "further" / "record.json").read_text())
    assert record["pretrained"]["run"]["task"] == "classification"


def test_failures(trained, hub, tmp_path, capsys):
    flags = "--checkpoint", trained, "--format", "safetensors", "--push", "me/rectangles"
    hub.refuses_uploads = True
    message = fails(capsys, 2, export, *flags, "--output", tmp_path / "a")
    assert "may not write" in message
    assert (tmp_path / "a" / "model.safetensors").is_file()
    hub.refuses_uploads = False
    hub.is_down = True
    message = fails(capsys, 3, evaluate, "--checkpoint", "hf://me/rectangles")
    assert "cannot be downloaded" in message
    hub.is_down = False
    assert "has no model me/nothing" in fails(capsys, 3, evaluate, "--checkpoint", "hf://me/nothing")
    assert "export command did not write it" in fails(capsys, 3, evaluate, "--checkpoint", "hf://me/pickles")
    assert not hub.downloads  # pickled weights are never downloaded


@pytest.mark.case("R17")
def test_damaged_description(trained, tmp_path):
    run(export, "--checkpoint", trained, "--format", "safetensors", "--output", tmp_path / "file")
    state = load_file(tmp_path / "file" / "model.safetensors")
    for text in ("{", "[]", '"text"'):
        save_file(state, tmp_path / "damaged.safetensors", {RUN_KEY: text})
        with pytest.raises(BadInput, match="truncated or not a weight file"):
            load_run(tmp_path / "damaged.safetensors")
