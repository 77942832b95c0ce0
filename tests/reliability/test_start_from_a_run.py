"""`--pretrained RUN`: what is loaded, what is recorded, and which flag a message names, in all tasks."""

import json
import shutil
from importlib import import_module

import cv2
import numpy as np
import pytest
import torch
import yaml

from backbones.errors import UserError
from engine.checkpoint import read_run
from experiments.tasks import TASKS
from tests.classification.conftest import write_folders
from tests.commands import fails, run
from tests.detection.conftest import write_coco
from tests.segmentation.conftest import UNLABELLED, write_masks

TINY = ["--image_size", 64, "--epochs", 1, "--batch_size", 4, "--device", "cpu", "--data.workers", 0]
WRITE = {"classification": write_folders, "detection": write_coco, "segmentation": write_masks}
EXTRA = {"segmentation": ["--data.ignore_index", UNLABELLED]}
CLASS_LAYER = {
    "classification": "head.classifier.weight",
    "detection": "class_head.predict.pointwise.weight",
    "segmentation": "head.weight",
}
HALF = ["--backbone", "tf_efficientnet_lite0", "--protocol", "scratch"]  # normalised with mean 0.5


def train(task, root, output, *arguments):
    run(
        import_module(f"{task}.train"), "--data.root", root, "--output", output, *TINY, *EXTRA.get(task, []), *arguments
    )
    return json.loads((output / "record.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run of each task, trained from scratch, with its data."""
    place = tmp_path_factory.mktemp("runs")
    for task, write in WRITE.items():
        write(place / f"{task}-data")
        train(task, place / f"{task}-data", place / task, *HALF)
    return place


def exchange_ids(root):
    """Exchange the ids of the two categories of a COCO data set, with the same boxes and names."""
    for split in ("train", "val"):
        file = root / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        first, second = content["categories"]
        for annotation in content["annotations"]:
            annotation["category_id"] = first["id"] + second["id"] - annotation["category_id"]
        first["id"], second["id"] = second["id"], first["id"]
        file.write_text(json.dumps(content))


def prepared(task, root, **settings):
    """The task of a new run, before its first step."""
    spec = TASKS[task]
    config = spec.train_config(image_size=64, device="cpu", **settings)
    if task == "segmentation":
        config.data.ignore_index = UNLABELLED
    return spec.load_task().prepare(config, root)[0]


@pytest.mark.parametrize("task", TASKS)
def test_a_run_of_the_same_task_is_trained_further(runs, tmp_path, task, monkeypatch):
    """All weights are loaded, before the first step changes them, and the record says so."""
    seen = {}
    cls = TASKS[task].load_task()
    start = cls.on_train_batch_start

    def hook(self, batch, batch_idx):
        if not seen:
            seen.update({name: value.clone() for name, value in self.model.state_dict().items()})
        return start(self, batch, batch_idx)

    monkeypatch.setattr(cls, "on_train_batch_start", hook)
    record = train(task, runs / f"{task}-data", tmp_path / "more", "--pretrained", runs / task)
    info, state = read_run(runs / task)
    assert state.keys() == seen.keys()
    assert all(torch.equal(seen[name], value) for name, value in state.items())
    weights = record["pretrained"]
    assert weights["continues"] is True
    assert weights["source"] == f"run:{runs / task / 'checkpoints' / 'last.ckpt'}"
    assert weights["run"]["task"] == task
    assert weights["run"]["classes"] == info.classes
    assert (
        weights["run"]["dataset"]["fingerprint"]
        == json.loads((runs / task / "record.json").read_text())["dataset"]["fingerprint"]
    )
    assert weights["run"]["provenance"]["source"] == "random"
    assert weights["data"] == str(runs / f"{task}-data")
    assert len(weights["sha256"]) == 64
    assert weights["mean"] == weights["std"] == [0.5] * 3


@pytest.mark.parametrize("task", TASKS)
def test_normalisation_and_learning_rate_are_those_of_a_pretrained_backbone(runs, tmp_path, task):
    """The run started from random weights, and with another normalisation than that of its backbone."""
    shutil.copytree(runs / task, tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    content["run"]["preprocessing"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    torch.save(content, file)
    found = prepared(task, runs / f"{task}-data", pretrained=str(file), backbone_lr=0.25, lr=0.1)
    assert found.info.preprocessing["mean"] == [0.1, 0.2, 0.3]
    assert found.info.preprocessing["std"] == [0.4, 0.5, 0.6]
    found.freeze_parts()
    assert {round(group["lr"], 6) for group in found.parameter_groups()} >= {0.025, 0.1}


@pytest.mark.parametrize("task", TASKS)
def test_classes_that_differ_drop_the_class_layer(runs, tmp_path, task, caplog):
    """The number of classes is the same, one name is not."""
    root = tmp_path / "data"
    shutil.copytree(runs / f"{task}-data", root)
    if task == "classification":
        for split in ("train", "val"):
            (root / split / "green").rename(root / split / "lime")
    elif task == "segmentation":
        (root / "classes.txt").write_text((root / "classes.txt").read_text().replace("green", "lime"))
    else:
        for file in (root / "annotations").iterdir():
            file.write_text(file.read_text().replace('"green"', '"lime"'))
    found = prepared(task, root, pretrained=str(runs / task))
    _, state = read_run(runs / task)
    ours = found.model.state_dict()
    assert not torch.equal(ours[CLASS_LAYER[task]], state[CLASS_LAYER[task]])
    others = [name for name in state if not name.startswith(CLASS_LAYER[task].removesuffix("weight"))]
    assert len(others) > 100
    assert all(torch.equal(ours[name], state[name]) for name in others)
    assert found.info.provenance["continues"] is False
    assert "lime are not in the file" in caplog.text


def test_another_order_of_classes_is_matched_by_name(runs, tmp_path, caplog):
    """The categories of the same data have other ids: the detector's outputs are exchanged."""
    root = tmp_path / "data"
    shutil.copytree(runs / "detection-data", root)
    exchange_ids(root)
    found, spec = prepared("detection", root, pretrained=str(runs / "detection")), TASKS["detection"]
    assert found.info.classes == ["green", "red <b>"]
    before = spec.load_task().from_run(*read_run(runs / "detection"), spec.eval_config())
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        first, second = before.model.eval()(images)[0], found.model.eval()(images)[0]
    assert torch.equal(second, first.flip(-1))
    assert found.info.provenance["continues"] is True
    assert "reordered by name" in caplog.text


@pytest.mark.parametrize("task", TASKS)
def test_a_run_of_another_task_provides_its_backbone(runs, tmp_path, task):
    other = next(name for name in TASKS if name != task)
    found = prepared(task, runs / f"{task}-data", pretrained=str(runs / other))
    weights = found.info.provenance
    assert (weights["run"]["task"], weights["continues"]) == (other, False)
    _, state = read_run(runs / other)
    ours = found.model.state_dict()
    shared = [name for name in state if name.startswith("backbone.")]
    assert len(shared) > 100
    assert all(torch.equal(ours[name], state[name]) for name in shared)


@pytest.mark.parametrize(
    ("task", "arguments", "advice"),
    [
        ("classification", ["--backbone", "resnet18"], "--backbone tf_efficientnet_lite0"),
        ("detection", ["--backbone", "resnet18"], "--backbone tf_efficientnet_lite0"),
        ("segmentation", ["--backbone", "resnet18"], "--backbone tf_efficientnet_lite0"),
        ("detection", ["--phi", "lite1"], "--phi 0"),
        ("detection", ["--neck", "fpn"], "--neck bifpn"),
        ("detection", ["--neck", "fpn", "--phi", 1], "--phi 0 and --neck bifpn"),
        ("classification", ["--protocol", "scratch"], "--protocol finetune"),
    ],
)
def test_messages_name_the_flag_that_is_wrong(runs, tmp_path, capsys, task, arguments, advice):
    code = 2 if "--protocol" in arguments else 3
    message = fails(capsys, code, import_module(f"{task}.train"), "--data.root", runs / f"{task}-data", "--pretrained",
                    runs / task, "--output", tmp_path / "run", *TINY, *EXTRA.get(task, []), *arguments)  # fmt: skip
    assert advice in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("task", "setting", "advice"),
    [
        ("segmentation", {"decoder": "fpn"}, "--decoder bifpn"),
        ("segmentation", {"phi": 1}, "--phi 0"),
        ("classification", {"neck": "bifpn"}, "--neck null"),
    ],
)
def test_another_decoder_or_neck_uses_the_backbone_only(runs, task, setting, advice, caplog):
    found = prepared(task, runs / f"{task}-data", pretrained=str(runs / task), **setting)
    assert found.info.provenance["continues"] is False
    assert f"only its backbone is used. To use all of its weights, pass {advice}" in caplog.text


def test_a_single_class_cannot_be_classified(tmp_path, capsys):
    root = write_folders(tmp_path / "data", train=2, val=1)
    for split in ("train", "val"):
        for name in ("green", "red"):
            shutil.rmtree(root / split / name)
    train_command = import_module("classification.train")
    message = fails(capsys, 3, train_command, "--data.root", root, "--output", tmp_path / "run", *TINY)
    assert "has a single class, 'blue <b>'" in message
    assert not (tmp_path / "run").exists()


def test_a_single_class_is_segmented_with_a_warning(tmp_path, capsys):
    """With the default losses."""
    root = write_masks(tmp_path / "data", train=2, val=1)
    (root / "classes.txt").write_text("ground\n")
    for file in root.glob("annotations/*/*.png"):
        mask = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(file), np.where(mask == UNLABELLED, mask, 0).astype(np.uint8))
    record = train("segmentation", root, tmp_path / "run", "--protocol", "scratch")
    assert record["metrics"]["mIoU"] == 1
    assert "has a single class, 'ground'" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("task", TASKS)
def test_one_training_image(tmp_path, task, capsys):
    """A training set of a single image, batches of one, and the smallest useful size."""
    root = WRITE[task](tmp_path / "data", train=1, val=1)
    batch_size = 1 if task == "classification" else 8  # classification has one image of each class
    words = ["--image_size", 32, "--epochs", 2, "--protocol", "scratch", "--batch_size", batch_size]
    record = train(task, root, tmp_path / "run", *words)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["image_size"] == 32
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
    assert record["metrics"]
    assert "receive one value per channel" in " ".join(capsys.readouterr().err.split())


def test_settings_that_a_run_cannot_be_trained_further_with():
    config = TASKS["detection"].train_config(protocol="scratch", pretrained="runs/x")
    with pytest.raises(UserError, match="--protocol scratch starts from random weights"):
        config.check()
