"""Exported files of trained networks have the checkpoint's score, in both formats, for each kind of network."""

import json
from importlib import import_module

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from experiments.tasks import TASKS
from tests.commands import run

# The drawn scenes at 128 px; a few minutes for each network on one core.
BUDGETS = {
    "detection": ("--epochs", 4, "--batch_size", 8),
    "segmentation": ("--epochs", 3, "--eval_size", 128, "--jitter", 0.7, 1.6, "--losses", "ce", "lovasz"),
    "classification": ("--epochs", 3, "--batch_size", 16),
}
NETWORKS = {
    "D0": ("detection", ("--backbone", "efficientnet_b0")),
    "Lite0": ("detection", ("--backbone", "tf_efficientnet_lite0")),
    "resnet18 detector": ("detection", ("--backbone", "resnet18")),
    "ViT detector": ("detection", ("--backbone", "vit_tiny_patch16_224", "--epochs", 8, "--lr", 0.001)),
    "bifpn": ("segmentation", ("--backbone", "tf_efficientnet_lite0")),
    "unet": ("segmentation", ("--backbone", "resnet18", "--decoder", "unet")),
    "B0": ("classification", ("--backbone", "efficientnet_b0")),
    "Lite0 classifier": ("classification", ("--backbone", "tf_efficientnet_lite0")),
    "resnet50": ("classification", ("--backbone", "resnet50")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_scores_of_trained_networks(name, tmp_path):
    task, backbone = NETWORKS[name]
    packaged = backbone[1].startswith("tf_efficientnet_lite")
    start = () if packaged else ("--pretrained", "false", "--protocol", "scratch")
    flags = ("--image_size", 128, "--data.workers", 0, "--device", "cpu", *BUDGETS[task], *start, *backbone)
    run(import_module(f"{task}.train"), "--config", "demo", *flags, "--output", tmp_path / "run")
    found = []
    for form in ("onnx", "openvino"):
        folder = tmp_path / form
        run(import_module(f"{task}.export"), "--checkpoint", tmp_path / "run", "--format", form, "--output", folder)
        metrics = json.loads((folder / "export.json").read_text())["metrics"]
        expected, score = (100 * metrics[which][TASKS[task].metric] for which in ("checkpoint", "exported"))
        assert expected > 5  # else the comparison says little
        assert score == pytest.approx(expected, abs=0.1)
        found.append(score)
    print(f"{name}: {expected:.2f}, ONNX {found[0]:.2f}, OpenVINO {found[1]:.2f} {TASKS[task].metric}")
