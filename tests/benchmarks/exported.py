"""Benchmarks of exported detectors in OpenVINO, against effdet's network as people run it."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

import numpy as np
import torch

from data.demo.writer import demo_root
from detection.config import TrainConfig
from detection.graphs import DetectionGraphs
from detection.task import DetectionTask
from engine.export.write import converted
from tests.benchmarks.common import Row, compare_apart
from tests.benchmarks.networks import effdets_d0

SIZE = 512
PEER = "effdet D0, fp32, default settings"


def inference() -> list[Row]:
    """D0 and Lite0 at 512 px in OpenVINO, one image at a time; none without OpenVINO."""
    if not find_spec("openvino"):
        return []
    from engine.runtimes.openvino_network import has_bf16

    kinds = [("D0", "fp32", 3.5), ("Lite0", "fp32", None)]
    kinds += [("D0", "bf16", 5.0), ("Lite0", "bf16", None)] if has_bf16() else []
    kinds += [("Lite0", "int8", 9.0)] if find_spec("nncf") else []
    return [
        compare_apart(
            f"{name} {SIZE} px inference in OpenVINO, {precision}", PEER, goal, partial(ours, name, precision),
            effdets_d0, calls=5,
        )
        for name, precision, goal in kinds
    ]  # fmt: skip


def ours(name, precision):
    """A pass of a detector with random weights, as `--runtime openvino` runs it."""
    backbone, phi = {"D0": ("efficientnet_b0", 0), "Lite0": ("tf_efficientnet_lite0", "lite0")}[name]
    config = TrainConfig(backbone=backbone, phi=phi, image_size=SIZE, pretrained=False, protocol="scratch")
    task, _, _ = DetectionTask.prepare(config, demo_root("detection"))
    network = in_integers(task) if precision == "int8" else converted(DetectionGraphs(task), "openvino", precision)
    images = torch.randn(1, 3, SIZE, SIZE)
    return lambda: network(images)


def in_integers(task):
    """The network in 8-bit integers, calibrated on noise: times do not depend on the values."""
    import nncf

    from engine.export.build import describe, onnx_model
    from engine.export.write import add_metadata, as_openvino
    from engine.runtimes.openvino_network import OpenVinoNetwork

    graphs = DetectionGraphs(task)
    description = describe(graphs, "none", preprocess=False, postprocess=False)
    model = as_openvino(onnx_model(graphs, description), description)
    noise = [np.random.default_rng(0).normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)]
    quantised = nncf.quantize(model, nncf.Dataset(noise), subset_size=1)
    add_metadata(quantised, description)
    return OpenVinoNetwork(quantised, "fp32")
