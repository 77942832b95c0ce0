"""`--data.cached_augmentations`: networks that take cached features, and trainings that never run their backbone."""

import json
import os
import signal

import pytest
import torch

from backbones.base import CachedFeatures, trunk_of
from classification import train as train_classifier
from classification.build import create_classifier
from data.atomic_directory import CACHE_VARIABLE
from detection import train as train_detector
from engine.lightning_module import TaskModule
from segmentation import train as train_segmenter
from tests.classification.conftest import folders  # noqa: F401
from tests.commands import fails, run

MODELS = {
    "published classifier": lambda: create_classifier("efficientnet_b0", 3),
    "timm's classifier": lambda: create_classifier("resnet18", 3),
    "pyramid classifier": lambda: create_classifier("resnet18", 3, neck="bifpn"),
    "plain transformer": lambda: create_classifier("vit_tiny_patch16_224", 3, neck="bifpn"),
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_cached_features_give_the_same_output(build):
    torch.manual_seed(0)
    model = build().eval()
    images = torch.randn(2, 3, 65, 90)
    with torch.inference_mode():
        expected = model(images)
        maps = model.features_to_cache(images)
        for method in {"forward", "forward_intermediates"} & set(dir(trunk_of(model.backbone))):
            setattr(trunk_of(model.backbone), method, None)  # a call would fail
        outputs = model(CachedFeatures(maps, (65, 90)))
    for a, b in zip(*((x,) if isinstance(x, torch.Tensor) else x for x in (outputs, expected)), strict=True):
        assert torch.equal(a, b)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


TINY = ("--image_size", 64, "--batch_size", 4, "--epochs", 1, "--device", "cpu", "--protocol")


def results(output):
    """Weights and record of a run."""
    state = torch.load(output / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state, json.loads((output / "record.json").read_text())


@pytest.mark.parametrize("protocol", ["linear", "frozen"])
def test_one_cached_augmentation_per_epoch_changes_nothing(protocol, folders, tmp_path, cache):  # noqa: F811
    """With as many cached augmentations as epochs, weights and scores are those of a training without a cache."""
    flags = ("--data.root", folders, *TINY, protocol)
    for augmentations in (0, 2):
        run(train_classifier, *flags, "--epochs", 2, "--data.cached_augmentations", augmentations, "--output",
            tmp_path / str(augmentations))  # fmt: skip
    (weights, record), (cached_weights, cached_record) = (results(tmp_path / name) for name in ("0", "2"))
    for name, value in weights.items():
        torch.testing.assert_close(cached_weights[name], value, rtol=1e-3, atol=1e-5)
    assert cached_record["metrics"] == pytest.approx(record["metrics"], abs=0.02, nan_ok=True)
    assert len(list(cache.glob("*/complete.json"))) == 2  # training and validation
    assert list((tmp_path / "2" / "pictures").glob("*.jpg"))


@pytest.mark.slow
def test_trainings_of_the_same_backbone_share_features(folders, tmp_path, cache):  # noqa: F811
    def train(name, *flags):
        run(train_classifier, "--data.root", folders, *TINY, "linear", "--data.cached_augmentations", 2, "--output",
            tmp_path / name, *flags)  # fmt: skip

    def new():
        """Number of cached sets of features since the last call."""
        complete = set(cache.glob("*/complete.json"))
        count = len(complete - known)
        known.update(complete)
        return count

    known = set()
    train("first")
    assert new() == 2  # training and validation images
    train("same backbone, other training", "--lr", 0.01, "--epochs", 3, "--protocol", "frozen")
    assert new() == 0
    train("other draws", "--seed", 1)
    assert new() == 1
    train("more augmentations", "--data.cached_augmentations", 3)
    assert new() == 1
    train("fewer images", "--data.fraction", 0.5)
    assert new() == 1
    image = next((folders / "train").rglob("*.png"))
    os.utime(image, (1, 1))
    train("changed image")
    assert new() == 1
    for name, flag, value in (
        ("other backbone", "--backbone", "tf_efficientnet_lite1"),
        ("other augmentation", "--color", 0.7),
        ("other precision", "--precision", "bf16"),
    ):
        train(name, flag, value)
        assert new() == 2, name


def test_a_resumed_training_uses_the_same_augmentations(folders, tmp_path, cache, monkeypatch, capsys):  # noqa: F811
    flags = ("--data.root", folders, *TINY, "linear", "--data.cached_augmentations", 2, "--epochs", 2)
    run(train_classifier, *flags, "--output", tmp_path / "uninterrupted")

    def stop(self):
        if self.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TaskModule, "on_train_epoch_start", stop)
        fails(capsys, 130, train_classifier, *flags, "--output", tmp_path / "stopped")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves SIGINT ignored
    run(train_classifier, "--resume", tmp_path / "stopped")
    first, second = (results(tmp_path / name)[0] for name in ("uninterrupted", "stopped"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_without_record_is_evaluated_in_its_own_precision(folders, tmp_path, cache):  # noqa: F811
    cached = "--data.cached_augmentations", 1, "--precision", "bf16", "--output", tmp_path / "run"
    run(train_classifier, "--data.root", folders, *TINY, "frozen", *cached)
    before = results(tmp_path / "run")[1]
    (tmp_path / "run" / "record.json").unlink()
    run(train_classifier, "--resume", tmp_path / "run")
    after = results(tmp_path / "run")[1]
    assert after["metrics"] == before["metrics"]
    assert before["feature_seconds"] > 0
    assert after["setting"] == before["setting"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data.cached_augmentations", 2), "needs --protocol linear or frozen, not finetune"),
        (("--data.cached_augmentations", -1), "must be at least 0"),
        (("--data.cached_augmentations", 2, "--protocol", "linear", "--data.skip_bad", 1), "--data.skip_bad must be 0"),
        (
            ("--data.cached_augmentations", 2, "--protocol", "linear", "--mixup", 0.2),
            "--mixup and --cutmix, which blend several",
        ),
    ],
)
def test_settings_that_cannot_be_cached_are_errors(flags, message, folders, tmp_path, capsys):  # noqa: F811
    assert message in fails(capsys, 2, train_classifier, "--data.root", folders, "--output", tmp_path / "run", *flags)


@pytest.mark.parametrize("command", [train_detector, train_segmenter], ids=["detection", "segmentation"])
def test_tasks_that_gain_little_refuse_the_cache(command, tmp_path, capsys):
    flags = "--data.cached_augmentations", 2, "--protocol", "frozen", "--output", tmp_path / "run"
    assert "take most of the training time" in fails(capsys, 2, command, "--data.root", tmp_path, *flags)
    assert not (tmp_path / "run").exists()
