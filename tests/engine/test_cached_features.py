"""`--data.cached_augmentations`: networks that start from cached maps, and trainings that never run their backbone."""

import json
import os
import signal

import pytest
import torch

from backbones.base import CachedFeatures
from classification import train as train_classifier
from classification.model import create_classifier
from classification.task import ClassificationTask
from data.atomic_directory import CACHE_VARIABLE
from detection import train as train_detector
from detection.model import create_detector
from segmentation import train as train_segmenter
from segmentation.decoders import DECODERS
from segmentation.model import create_segmenter
from tests.classification.conftest import folders  # noqa: F401
from tests.commands import fails, run
from tests.detection.conftest import coco_root  # noqa: F401
from tests.segmentation.conftest import UNLABELLED, mask_root  # noqa: F401

MODELS = {
    "published classifier": lambda: create_classifier("efficientnet_b0", 3),
    "timm's classifier": lambda: create_classifier("resnet18", 3),
    "pyramid classifier": lambda: create_classifier("resnet18", 3, neck="bifpn"),
    "detector": lambda: create_detector("efficientnet_b0", 3),
    **{name: lambda name=name: create_segmenter("resnet18", 3, name) for name in DECODERS},
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_networks_go_on_from_their_backbones_maps(build):
    torch.manual_seed(0)
    model = build().eval()
    images = torch.randn(2, 3, 65, 90)
    with torch.inference_mode():
        expected = model(images)
        maps = model.maps(images)
        model.backbone.forward = None  # nobody may call it
        found = model(CachedFeatures(maps, (65, 90)))
    for a, b in zip(*((x,) if isinstance(x, torch.Tensor) else x for x in (found, expected)), strict=True):
        assert torch.equal(a, b)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


TINY = ("--image_size", 64, "--batch_size", 4, "--epochs", 1, "--device", "cpu", "--protocol")


def trained(output):
    state = torch.load(output / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state, json.loads((output / "record.json").read_text())


@pytest.mark.parametrize(
    ("command", "root", "protocol"),
    [
        (train_classifier, "folders", "linear"),
        (train_classifier, "folders", "frozen"),
        (train_detector, "coco_root", "frozen"),
        (train_segmenter, "mask_root", "frozen"),
    ],
)
def test_as_many_views_as_epochs_are_what_is_trained_without(command, root, protocol, request, tmp_path, cache):
    given = ("--data.root", request.getfixturevalue(root), *TINY, protocol)
    if command is train_segmenter:
        given += ("--data.ignore_index", UNLABELLED)
    for augmentations in (0, 2):
        run(
            command,
            *given,
            "--epochs",
            2,
            "--data.cached_augmentations",
            augmentations,
            "--output",
            tmp_path / str(augmentations),
        )
    (plain, told), (kept, told_kept) = (trained(tmp_path / str(augmentations)) for augmentations in (0, 2))
    for name, value in plain.items():
        torch.testing.assert_close(kept[name], value, rtol=1e-3, atol=1e-5)
    assert told_kept["metrics"] == pytest.approx(told["metrics"], abs=0.02, nan_ok=True)
    assert len(list(cache.glob("*/complete.json"))) == 2  # training and validation
    assert list((tmp_path / "2" / "pictures").glob("*.jpg"))


def test_features_serve_other_trainings_of_the_same_backbone_alone(folders, tmp_path, cache):  # noqa: F811
    def train(name, *flags):
        run(train_classifier, "--data.root", folders, *TINY, "linear", "--data.cached_augmentations", 2, "--output",
            tmp_path / name, *flags)  # fmt: skip

    def new():
        found = set(cache.glob("*/complete.json"))
        count = len(found - known)
        known.update(found)
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
    train("an image that was changed")
    assert new() == 1
    for name, flag, value in (
        ("other backbone", "--backbone", "tf_efficientnet_lite1"),
        ("other augmentation", "--color", 0.7),
        ("other precision", "--precision", "bf16"),
    ):
        train(name, flag, value)
        assert new() == 2, name


def test_a_stopped_training_goes_on_with_the_same_views(folders, tmp_path, cache, monkeypatch, capsys):  # noqa: F811
    given = ("--data.root", folders, *TINY, "linear", "--data.cached_augmentations", 2, "--epochs", 2)
    run(train_classifier, *given, "--output", tmp_path / "whole")

    def stop(self):
        if self.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "on_train_epoch_start", stop)
        fails(capsys, 130, train_classifier, *given, "--output", tmp_path / "stopped")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which Lightning switches off on its way out
    run(train_classifier, "--resume", tmp_path / "stopped")
    first, second = (trained(tmp_path / name)[0] for name in ("whole", "stopped"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_training_that_lost_its_record_is_scored_in_its_own_precision(folders, tmp_path, cache):  # noqa: F811
    cached = "--data.cached_augmentations", 1, "--precision", "bf16", "--output", tmp_path / "run"
    run(train_classifier, "--data.root", folders, *TINY, "frozen", *cached)
    before = trained(tmp_path / "run")[1]
    (tmp_path / "run" / "record.json").unlink()
    run(train_classifier, "--resume", tmp_path / "run")
    after = trained(tmp_path / "run")[1]
    assert after["metrics"] == before["metrics"]
    assert before["feature_seconds"] > 0
    assert after["setting"] == before["setting"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--data.cached_augmentations", 2), "goes with --protocol linear or frozen, not finetune"),
        (("--data.cached_augmentations", -1), "too small"),
        (("--data.cached_augmentations", 2, "--protocol", "linear", "--data.skip_bad", 1), "--data.skip_bad must be 0"),
        (
            ("--data.cached_augmentations", 2, "--protocol", "linear", "--mixup", 0.2),
            "--mixup and --cutmix, which blend several",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused(flags, told, folders, tmp_path, capsys):  # noqa: F811
    assert told in fails(capsys, 2, train_classifier, "--data.root", folders, "--output", tmp_path / "run", *flags)
