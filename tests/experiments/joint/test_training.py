"""A joint training is the training of its heads: weight for weight where there is one, or where one counts."""

import csv
import json

import pytest
import torch

from classification import train as train_classification
from detection import train as train_detection
from engine.checkpoint import read_run
from experiments.joint import eval as evaluate
from experiments.joint import load_run, predict, train
from segmentation import train as train_segmentation
from tests.classification.conftest import write_folders
from tests.commands import fails, run
from tests.detection.conftest import write_coco
from tests.segmentation.conftest import write_masks

TINY = ("--backbone", "test_efficientnet", "--pretrained", "false", "--epochs", 2, "--batch_size", 4,
        "--image_size", 64, "--data.workers", 0, "--device", "cpu", "--logger", "tensorboard")  # fmt: skip
SINGLE = {
    "detection": (train_detection, ()),
    "segmentation": (train_segmentation, ("--data.ignore_index", 9)),
    "classification": (train_classification, ("--neck", "bifpn")),
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """The same photographs with boxes and with masks, and others with classes."""
    folder = tmp_path_factory.mktemp("joint")
    found = {
        "detection": write_coco(folder / "boxes"),
        "segmentation": write_masks(folder / "masks"),
        "classification": write_folders(folder / "classes"),
    }
    return {name: ("--data.root", root) for name, root in found.items()}


def of_heads(roots, *names):
    return [word for name in names for word in (f"--data.{name}.root", roots[name][1])]


def weights(folder):
    return read_run(folder)[1]


def losses(folder, column="loss"):
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", SINGLE)
def test_one_head_trains_as_its_task(kind, roots, tmp_path):
    command, own = SINGLE[kind]
    run(command, *TINY, *own, *roots[kind], "--output", tmp_path / "alone")
    options = ("--data.segmentation.ignore_index", 9) if kind == "segmentation" else ()
    run(train, *TINY, *options, "--heads", kind, *of_heads(roots, kind), "--output", tmp_path / "joint")
    assert losses(tmp_path / "alone") == losses(tmp_path / "joint")
    expected, found = weights(tmp_path / "alone"), weights(tmp_path / "joint")
    for key, value in expected.items():
        shared = key.startswith(("backbone.", "neck.", "decoder.neck."))
        own = key.removeprefix("decoder.") if shared else f"networks.{kind}.{key}"
        assert torch.equal(found[own], value), key
    alone, joint = (json.loads((tmp_path / name / "record.json").read_text()) for name in ("alone", "joint"))
    assert {name.removeprefix(f"{kind}."): v for name, v in joint["metrics"].items() if name != "score"} == alone[
        "metrics"
    ]
    of_head = json.loads((tmp_path / "joint" / "heads" / kind / "record.json").read_text())
    assert of_head["metrics"] == alone["metrics"]
    assert (of_head["dataset"], of_head["preprocessing"]) == (alone["dataset"], alone["preprocessing"])


@pytest.mark.slow
def test_heads_with_weight_0_change_nothing(roots, tmp_path):
    """Boxes, masks and other boxes of the same photographs; detection alone counts, on the same neck."""
    own = of_heads(roots, "detection")
    run(train, *TINY, *own, "--heads", "detection", "--finest", 4, "--output", tmp_path / "one")
    run(train, *TINY, *own, *of_heads(roots, "segmentation"), "--data.segmentation.ignore_index", 9,
        "--data.cells.root", roots["detection"][1],
        "--heads", "detection", "segmentation", "cells=detection", "--loss_weights", "segmentation=0", "cells=0",
        "--together", "detection", "segmentation", "cells", "--output", tmp_path / "three")  # fmt: skip
    one, three = weights(tmp_path / "one"), weights(tmp_path / "three")
    assert [key for key, value in one.items() if not torch.equal(three[key], value)] == []
    assert losses(tmp_path / "one") == losses(tmp_path / "three")
    assert losses(tmp_path / "three", "loss_segmentation.ce")[0] > 0


@pytest.mark.slow
def test_parts_of_a_run_give_its_score(roots, tmp_path, capsys):
    """A head that starts from a single-task run has its score, alone and beside another head."""
    run(train_detection, *TINY, *roots["detection"], "--output", tmp_path / "alone")
    common = ("--lr", 1e-12, "--epochs", 1, "--ema_decay", 0, "--norm_momentum", 0, "--init",
              f"detection={tmp_path / 'alone'}")  # fmt: skip
    run(train, *TINY, *common, "--heads", "detection", *of_heads(roots, "detection"), "--output", tmp_path / "one")
    alone, one = (json.loads((tmp_path / name / "record.json").read_text()) for name in ("alone", "one"))
    assert {f"detection.{name}": value for name, value in alone["metrics"].items()}.items() <= one["metrics"].items()
    assert one["pretrained"]["run"] is not None
    run(train, *TINY, *common, "--freeze", "backbone", "neck", "detection", "--heads", "detection", "classification",
        *of_heads(roots, "detection", "classification"), "--output", tmp_path / "two")  # fmt: skip
    state, two = weights(tmp_path / "alone"), weights(tmp_path / "two")
    for key, value in state.items():
        own = key if key.startswith(("backbone.", "neck.")) else f"networks.detection.{key}"
        assert torch.equal(two[own], value), key
    again = json.loads((tmp_path / "two" / "record.json").read_text())["metrics"]
    assert {f"detection.{name}": value for name, value in alone["metrics"].items()}.items() <= again.items()
    message = fails(capsys, 3, train, *TINY, "--backbone", "resnet10t", *common, "--heads", "detection",
                    *of_heads(roots, "detection"), "--output", tmp_path / "three")  # fmt: skip
    assert "is a run of another backbone, test_efficientnet" in message


@pytest.mark.slow
def test_predict_and_eval_of_a_run_with_three_heads(roots, tmp_path, capsys):
    folder = tmp_path / "run"
    masks = ("--data.segmentation.ignore_index", 9, "--together", "detection", "segmentation")
    run(train, *TINY, *of_heads(roots, *SINGLE), *masks, "--heads", *SINGLE, "--norms", "per_dataset", "--balance",
        "pcgrad", "--conflict_every", 1, "--output", folder)  # fmt: skip
    record = json.loads((folder / "record.json").read_text())
    rows = list(csv.DictReader((folder / "gradients.csv").open(newline="")))
    assert len({row["heads"] for row in rows}) == 3
    assert (folder / "pictures" / "gradients.png").is_file()
    (folder / "record.json").unlink()  # as if killed between the last epoch and the record
    run(train, "--resume", folder)
    assert json.loads((folder / "record.json").read_text())["metrics"] == record["metrics"]
    run(evaluate, "--checkpoint", folder, "--data.workers", 0, "--output", tmp_path / "scores")
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert scores == pytest.approx(record["metrics"], abs=1e-6, nan_ok=True)
    photo = next((roots["detection"][1] / "val").glob("*.png"))
    run(predict, "--checkpoint", folder, "--images", photo, "--output", tmp_path / "predictions")
    found = json.loads((tmp_path / "predictions" / "predictions.json").read_text())
    assert {entry["head"] for entry in found} == set(SINGLE)
    results = load_run(folder).predict(photo)
    assert results["segmentation"].image.shape[:2] == (96, 128)
    assert results["classification"].classes == ("blue <b>", "green", "red")
    files = {file.name for file in (tmp_path / "predictions").iterdir()}
    assert files == {"predictions.json", "images.json", f"{photo.stem}.jpg", f"{photo.stem}-segmentation.png"}


def test_train_and_predict(roots, tmp_path):
    photo = next((roots["detection"][1] / "val").glob("*.png"))
    run(train, *TINY, "--epochs", 1, "--heads", "detection", "cells=detection", *of_heads(roots, "detection"),
        "--data.cells.root", roots["detection"][1], "--output", tmp_path / "run")  # fmt: skip
    assert json.loads((tmp_path / "run" / "training_cost.json").read_text())["groups"][0]["heads"] == [
        "detection",
        "cells",
    ]
    run(predict, "--checkpoint", tmp_path / "run", "--images", photo, "--output", tmp_path / "found")
    assert (tmp_path / "found" / f"{photo.stem}.jpg").is_file()
