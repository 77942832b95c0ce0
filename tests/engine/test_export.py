"""Exported files compute what the checkpoint computes, in every format, and bad files are refused."""

import json
import re
import subprocess
import sys
from importlib import import_module

import cv2
import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from backbones.errors import BadInput, UserError
from data.batch import Sample, collate, normalise
from data.demo import demo_root
from data.letterbox import Letterbox
from detection.postprocess import Detections, hard_nms
from engine.export.build import describe, onnx_model
from engine.export.check import TOLERANCE, compare_outputs, some_images
from engine.export.onnx_steps import letterbox, step
from engine.export.write import as_openvino
from engine.restore import restore_task
from engine.runtimes.description import KEY
from engine.runtimes.files import open_exported
from engine.runtimes.onnx_network import OnnxNetwork
from engine.runtimes.openvino_network import OpenVinoNetwork
from experiments import load_run
from experiments.tasks import TASKS
from tests.classification.conftest import write_folders
from tests.commands import fails, run
from tests.detection.conftest import write_coco
from tests.docs.blocks import blocks_of
from tests.segmentation.conftest import write_masks

# task, settings, whether sizes can be open
NETWORKS = {
    "D0": ("detection", {"backbone": "efficientnet_b0"}, True),
    "Lite0": ("detection", {"backbone": "tf_efficientnet_lite0"}, True),
    "resnet18 detector": ("detection", {"backbone": "resnet18"}, True),
    "ViT detector": ("detection", {"backbone": "vit_tiny_patch16_224"}, False),
    "bifpn": ("segmentation", {"backbone": "tf_efficientnet_lite0"}, True),
    "unet": ("segmentation", {"backbone": "efficientnet_b0", "decoder": "unet"}, True),
    "B0": ("classification", {"backbone": "efficientnet_b0"}, True),
    "Lite0 classifier": ("classification", {"backbone": "tf_efficientnet_lite0"}, True),
    "resnet50": ("classification", {"backbone": "resnet50"}, True),
}
FEW = ("Lite0", "bifpn", "Lite0 classifier")


def graphs_of(task, settings, size=128):
    """Graphs of a task with random weights on the demo scenes, and their validation images."""
    spec = TASKS[task]
    torch.manual_seed(0)
    config = spec.train_config(**settings, pretrained=False, image_size=size, protocol="scratch")
    made, _, val = spec.load_task().prepare(config, demo_root(task))
    return spec.load_graphs()(made), val


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FEW else pytest.mark.slow) for name in NETWORKS]
)
def test_outputs(name):
    task, settings, can_be_open = NETWORKS[name]
    graphs, val = graphs_of(task, settings)
    description = describe(graphs, "size" if can_be_open else "batch", preprocess=False, postprocess=False)
    model = onnx_model(graphs, description)
    onnx.checker.check_model(model, full_check=True)
    batch = some_images(val, 5)
    for network in (OnnxNetwork(model), OpenVinoNetwork(as_openvino(model, description))):
        rows = compare_outputs(graphs, network, batch)
        assert len(rows) == (6 if can_be_open else 2)
        assert {row["batch"] for row in rows} == {1, 5}
        assert max(row["difference"] for row in rows) < TOLERANCE / 10


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of each task on few images, by name of the task; `TASK-data` are its images."""
    folder = tmp_path_factory.mktemp("runs")
    writers = {"detection": write_coco, "segmentation": write_masks, "classification": write_folders}
    for task, write in writers.items():
        write(folder / f"{task}-data")
        flags = [
            "--image_size",
            "96",
            "--epochs",
            "1",
            "--data.root",
            folder / f"{task}-data",
            "--output",
            folder / task,
        ]
        more = ["--data.ignore_index", "9"] if task == "segmentation" else []
        run(import_module(f"{task}.train"), *flags, *more, "--output", folder / task)
    spread_scores(folder / "detection" / "checkpoints" / "last.ckpt")
    return folder


def spread_scores(checkpoint):
    """Make a detector's scores differ: after one epoch they are so close that rounding decides what is suppressed."""
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["model.class_head.predict.pointwise.weight"] *= 100
    torch.save(content, checkpoint)


def photographs(folder, task):
    """Paths of validation images."""
    return sorted(path for path in (folder / f"{task}-data").rglob("*val*/**/*.*") if path.suffix in (".jpg", ".png"))


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Each run as an ONNX file in a folder of the task's name, and the classifier in OpenVINO's format."""
    folder = tmp_path_factory.mktemp("exported")
    for task in TASKS:
        run(import_module(f"{task}.export"), "--checkpoint", trained / task, "--output", folder / task)
    flags = "--format", "openvino", "--output", folder / "openvino"
    run(import_module("classification.export"), "--checkpoint", trained / "classification", *flags)
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_scores_and_predictions(trained, exported, tmp_path, task):
    """`eval`, `predict` and `load_run` return for the file what they return for the checkpoint."""
    for name, place in (("run", trained / task), ("file", exported / task)):
        run(import_module(f"{task}.eval"), "--checkpoint", place, "--output", tmp_path / name)
    expected, found = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("run", "file"))
    metric = TASKS[task].metric
    assert found[metric] == pytest.approx(expected[metric], abs=1e-3)
    images = photographs(trained, task)[:2]
    results = [load_run(place).predict(images) for place in (trained / task, exported / task)]
    for first, second in zip(*results, strict=True):
        assert type(first) is type(second)
        values = {"detection": "scores", "segmentation": "class_map", "classification": "probabilities"}[task]
        a, b = getattr(first, values), getattr(second, values)
        assert np.abs(a[:5].astype(float) - b[:5].astype(float)).mean() < 1e-3
    run(
        import_module(f"{task}.predict"),
        "--checkpoint",
        exported / task,
        "--images",
        images[0],
        "--output",
        tmp_path / "p",
    )
    assert (tmp_path / "p" / "predictions.json").is_file()


def test_document(exported):
    document = json.loads((exported / "detection" / "export.json").read_text())
    assert document["file"] == "model.onnx"
    assert document["outputs"] == ["logits", "deltas"]
    assert document["bytes"] == (exported / "detection" / "model.onnx").stat().st_size
    assert {"p50", "p95"} == set(document["latency_ms"]["exported"])
    assert document["metrics"]["checkpoint"].keys() == document["metrics"]["exported"].keys()
    model = onnx.load(str(exported / "detection" / "model.onnx"))
    texts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(texts["classes"]) == json.loads(texts[KEY])["run"]["classes"]
    assert texts["channel_order"] == "RGB"


def test_another_runtime(trained, exported, tmp_path):
    """`--runtime` scores a checkpoint as the file is scored, and cannot run a file of another format."""
    evaluate = import_module("classification.eval")
    run(evaluate, "--checkpoint", trained / "classification", "--runtime", "openvino", "--output", tmp_path / "a")
    run(evaluate, "--checkpoint", exported / "openvino", "--output", tmp_path / "b")
    assert (tmp_path / "a" / "metrics.json").read_text() == (tmp_path / "b" / "metrics.json").read_text()


@pytest.mark.parametrize("task", TASKS)
def test_photographs(trained, tmp_path, task):
    """A graph with pre- and post-processing returns what `predict` returns, in pixels of the photograph."""
    photo = photographs(trained, task)[1]
    nms = ["--nms", "hard"] if task == "detection" else []
    run(import_module(f"{task}.export"), "--checkpoint", trained / task, "--preprocess", "--output", tmp_path / "file")
    for name, place in (("run", trained / task), ("file", tmp_path / "file")):
        arguments = "--checkpoint", place, "--images", photo, "--output", tmp_path / f"from-{name}"
        run(import_module(f"{task}.predict"), *arguments, *nms)
    first, second = (
        json.loads((tmp_path / f"from-{name}" / "predictions.json").read_text()) for name in ("run", "file")
    )
    if task == "detection":
        assert len(first) == len(second) == 100
        boxes, others = (np.array([each["bbox"] for each in result]) for result in (first, second))
        assert np.abs(boxes[:, None] - others[None]).max(-1).min(1).max() < 1  # scores are close, so the order differs
    elif task == "segmentation":
        assert first[0]["share"] == pytest.approx(second[0]["share"], abs=0.002)
    else:
        assert first[0]["probability"] == pytest.approx(second[0]["probability"], abs=0.005)


def test_script_of_the_docs(trained, tmp_path):
    """The script of the guide, with a lower threshold, finds the boxes of `predict`, without this package."""
    (script,) = (block.text for block in blocks_of("docs/guides/export.md") if block.script)
    assert len(script.strip().splitlines()) <= 15
    checkpoint = "--checkpoint", trained / "detection"
    run(import_module("detection.export"), *checkpoint, "--preprocess", "--output", tmp_path / "export")
    photo = cv2.imread(str(photographs(trained, "detection")[0]))
    cv2.imwrite(str(tmp_path / "photo.jpg"), photo)
    arguments = "--images", tmp_path / "photo.jpg", "--nms", "hard", "--output", tmp_path / "predictions"
    run(import_module("detection.predict"), *checkpoint, *arguments)
    command = [sys.executable, "-I", "-c", script.replace("0.3", "0.001")]
    lines = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.splitlines()
    expected = json.loads((tmp_path / "predictions" / "predictions.json").read_text())
    assert abs(len(lines) - len(expected)) <= 1  # a score at the threshold
    corners = np.array([(x, y, x + width, y + height) for x, y, width, height in (each["bbox"] for each in expected)])
    found = np.array([[int(number) for number in re.findall(r"-?\d+", line)[-4:]] for line in lines])[:, [0, 2, 1, 3]]
    distances = np.abs(found[:, None] - corners[None]).max(-1)
    assert distances.min(1).max() <= 1.5  # printed as integers
    assert (tmp_path / "objects.jpg").is_file()


@pytest.mark.parametrize(("scale", "differing"), [(1.6, 0), (1.0, 0), (0.8, 0), (0.55, 0), (0.45, 0.01), (0.17, 0.01)])
def test_letterbox(scale, differing):
    """The graph's letterbox is that of evaluation. Below half size, a few values are rounded to the other side."""
    mean, std, fill = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (124, 116, 104)
    height, width = round(96 / scale), round(100 / scale)
    photo = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    session = onnxruntime.InferenceSession(
        step(letterbox((96, 128), fill, {"mean": mean, "std": std})).SerializeToString()
    )
    images, found_scale, size = session.run(None, {"photo": photo})
    sample = Sample(photo, 0, (height, width), (1.0, 1.0), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    expected = Letterbox((96, 128), fill)(sample, 0)
    np.testing.assert_allclose(found_scale, expected.scale, rtol=1e-6)
    assert size.tolist() == [height, width]
    values = normalise(collate([expected]).images, mean, std).numpy()
    assert np.abs(images - values).max() <= (1.01 / (255 * min(std)) if differing else 1e-5)
    assert (np.abs(images - values) > 1e-5).mean() <= differing


def test_suppression_equals_torchvision(trained):
    """The graph's suppression keeps the boxes of `hard_nms`, for several images at once."""
    spec = TASKS["detection"]
    task = restore_task(spec, spec.predict_config(checkpoint=str(trained / "detection"), device="cpu"))
    graphs = spec.load_graphs()(task)
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(3, 400, 2, generator=generator) * 80
    boxes = torch.cat([corners, corners + 5 + 30 * torch.rand(3, 400, 2, generator=generator)], 2)
    scores = torch.rand(3, 400, 4, generator=generator) ** 3
    session = onnxruntime.InferenceSession(step(graphs.after(photograph=False)).SerializeToString())
    found = session.run(None, {"anchor_boxes": boxes.numpy(), "anchor_scores": scores.numpy()})
    top, index = scores.flatten(1).sort(descending=True)
    candidates = Detections(boxes.gather(1, (index // 4)[..., None].expand(-1, -1, 4)), top, index % 4)
    for a, b in zip(found, hard_nms(candidates), strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-5, atol=1e-4)


def test_difference_is_an_error(trained, tmp_path, capsys, monkeypatch):
    """A file that differs from the checkpoint is kept under another name, and the command exits with 3."""
    monkeypatch.setattr("engine.export.check.TOLERANCE", 0.0)
    arguments = "--checkpoint", trained / "classification", "--output", tmp_path / "file"
    message = fails(capsys, 3, import_module("classification.export"), *arguments)
    assert "outputs differ" in message
    assert "model.onnx.failed" in message
    assert json.loads((tmp_path / "file" / "export.json").read_text())["file"] == "model.onnx.failed"
    assert not (tmp_path / "file" / "model.onnx").exists()


def test_wrong_usage(trained, exported, tmp_path, capsys):
    export, evaluate = (import_module(f"classification.{name}") for name in ("export", "eval"))
    checkpoint = "--checkpoint", trained / "classification"
    output = "--output", tmp_path / "new"
    assert "already exists" in fails(capsys, 2, export, *checkpoint, "--output", exported / "classification")
    assert "exported file already" in fails(capsys, 2, export, "--checkpoint", exported / "classification", *output)
    assert "--format openvino" in fails(capsys, 2, export, *checkpoint, "--int8", "true", *output)
    file = "--checkpoint", exported / "classification" / "model.onnx"
    assert "96x96" in fails(capsys, 2, evaluate, *file, "--image_size", 128)
    assert "cannot run" in fails(capsys, 2, evaluate, *file, "--runtime", "openvino")
    assert "detection.eval" in fails(capsys, 3, evaluate, "--checkpoint", exported / "detection")
    assert "fp32" in fails(capsys, 2, evaluate, *file, "--precision", "bf16")
    assert not (tmp_path / "new").exists()


def test_interpolation_that_the_graph_lacks():
    graphs, _ = graphs_of("classification", {"backbone": "test_efficientnet"})
    for wrong in ("lanczos", "nearest"):
        graphs.task.info.preprocessing["interpolation"] = wrong
        with pytest.raises(UserError, match=f"'{wrong}'"):
            graphs.before()


def hostile(model):
    """Damaged and dangerous versions of a model, by name."""
    whole = model.SerializeToString()
    yield "truncated", whole[: len(whole) // 2]
    yield "empty", b""
    yield "text", b"not a model"
    outside = onnx.ModelProto.FromString(whole)
    tensor = outside.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret.bin")
    yield "outside", outside.SerializeToString()
    huge = onnx.ModelProto.FromString(whole)
    huge.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2**20, 2**20]), "huge_shape"))
    huge.graph.node.append(onnx.helper.make_node("ConstantOfShape", ["huge_shape"], ["huge"]))
    yield "huge", huge.SerializeToString()
    foreign = onnx.ModelProto.FromString(whole)
    foreign.graph.node.append(onnx.helper.make_node("Shell", ["images"], ["x"], domain="com.example"))
    yield "foreign operator", foreign.SerializeToString()
    anonymous = onnx.ModelProto.FromString(whole)
    del anonymous.metadata_props[:]
    yield "no description", anonymous.SerializeToString()


@pytest.mark.case("R15")
def test_hostile_files(exported, tmp_path, capsys):
    model = onnx.load(str(exported / "classification" / "model.onnx"))
    evaluate = import_module("classification.eval")
    for name, content in hostile(model):
        file = tmp_path / f"{name}.onnx"
        file.write_bytes(content)
        message = fails(capsys, 3, evaluate, "--checkpoint", file)
        assert str(file) in message, name
        assert message.count("error:") == 1, name


def test_hostile_openvino_files(exported, tmp_path):
    xml, weights = ((exported / "openvino" / f"model.{suffix}").read_bytes() for suffix in ("xml", "bin"))
    for name, texts in {
        "no weights": (xml, None),
        "short weights": (xml, weights[: len(weights) // 2]),
        "truncated": (xml[: len(xml) // 2], weights),
        "text": (b"nothing", weights),
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        for suffix, content in zip(("xml", "bin"), texts, strict=True):
            if content is not None:
                (folder / f"model.{suffix}").write_bytes(content)
        with pytest.raises(BadInput, match=r"model\.xml"):
            open_exported(folder / "model.xml")


@pytest.mark.case("R15")
def test_programs_are_not_opened(tmp_path):
    """A program of torch.export can contain Python code."""
    (tmp_path / "model.pt2").write_bytes(b"")
    with pytest.raises(BadInput, match="trust"):
        open_exported(tmp_path / "model.pt2")
