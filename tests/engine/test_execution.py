"""The execution table: it has a row for each supported combination, and each row does what it says."""

import pytest
import torch
from torch import nn

from backbones.errors import UserError
from classification import predict as predict_classes
from classification import train as train_classifier
from detection import predict as predict_boxes
from detection import train as train_detector
from detection.train import main as train
from engine.execution import TABLE, execution_for
from segmentation import predict as predict_masks
from segmentation import train as train_segmenter
from tests.classification.conftest import folders  # noqa: F401
from tests.commands import run
from tests.detection.conftest import coco_root  # noqa: F401
from tests.segmentation.conftest import UNLABELLED, mask_root  # noqa: F401


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("purpose", ["train", "eval", "predict"])
def test_every_device_has_an_fp32_row(device, purpose):
    execution = execution_for(device, "fp32", purpose)
    assert execution.lightning == "32-true"
    assert not execution.mixed
    assert execution.folded == (purpose == "predict")
    assert execution.keeps_memory == (device == "cpu")


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()


def is_channels_last(model):
    return model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_evaluation_runs_the_model_and_prediction_a_folded_copy():
    model = network()
    assert execution_for("cpu", "fp32", "eval").place(model) is model
    assert is_channels_last(model)
    assert isinstance(model[1], nn.BatchNorm2d)
    folded = execution_for("cpu", "bf16", "predict").place(network())
    assert is_channels_last(folded)
    assert isinstance(folded[1], nn.Identity)
    assert folded[0].weight.dtype == torch.bfloat16


def test_mixed_precision_computes_in_the_named_precision():
    images = torch.zeros(1, 3, 8, 8)
    for (device, precision), rows in TABLE.items():
        if device == "cpu":
            for purpose, (mixed, *_) in zip(("train", "eval"), rows, strict=False):
                execution = execution_for(device, precision, purpose)
                with execution.arithmetic(device):
                    assert network()[0](images).dtype == (torch.bfloat16 if mixed else torch.float32)
                assert ("mixed precision" in str(execution)) == mixed
    assert execution_for("cuda", "fp16", "train").lightning == "16-mixed"


def test_unsupported_combinations_are_errors(tmp_path, capsys):
    """For fp16 on a CPU, Lightning would train in bfloat16."""
    with pytest.raises(SystemExit) as stop:
        train(["--precision", "fp16", "--device", "cpu", "--output", str(tmp_path / "run")])
    assert stop.value.code == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "--precision fp16 is not supported with --device cpu: use fp32 or bf16" in message
    with pytest.raises(UserError, match="`device=xpu` is not supported"):
        execution_for("xpu", "fp32", "eval")


@pytest.mark.parametrize(
    ("train", "predict", "root", "images"),
    [
        (train_classifier, predict_classes, "folders", "val/green"),
        (train_detector, predict_boxes, "coco_root", "val"),
        (train_segmenter, predict_masks, "mask_root", "images/val"),
    ],
)
def test_every_task_predicts_in_bf16(train, predict, root, images, request, tmp_path, capsys):
    root = request.getfixturevalue(root)
    flags = ("--data.ignore_index", UNLABELLED) if train is train_segmenter else ()
    run(train, "--data.root", root, "--image_size", 64, "--epochs", 1, "--batch_size", 4, "--device", "cpu", "--output",
        tmp_path / "run", *flags)  # fmt: skip
    run(predict, "--checkpoint", tmp_path / "run", "--images", root / images, "--output", tmp_path / "out",
        "--precision", "bf16", "--device", "cpu")  # fmt: skip
    assert (tmp_path / "out" / "predictions.json").is_file()
    assert "bf16, channels-last, batch norm folded" in " ".join(capsys.readouterr().out.split())
