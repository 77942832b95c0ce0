"""8-bit integers by NNCF's quantisation after training."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import BadInput, UserError
from backbones.names import split_tag
from backbones.plain import is_plain
from data.batch import collate
from data.scan import evenly_spaced
from engine.export.check import score
from engine.export.graphs import Graphs

CALIBRATION = 300  # training images, NNCF's default


def quantised(graphs: Graphs, dataset: Any, max_drop: float | None, model: Any) -> Any:
    """An OpenVINO model with 8-bit integers.

    Args:
        graphs: of the task. Its training images are the calibration set.
        dataset: validation images.
        max_drop: keep layers in floating point until the headline metric is at most this much below that
            of the model in float32. None to quantise all layers that NNCF can.
        model: the model in float32.

    Raises UserError if NNCF is not installed, BadInput if the training images cannot be read.
    """
    if find_spec("nncf") is None:
        raise UserError("`int8` needs nncf: python -m pip install 'backbone-swap[int8]'", settings=("int8",))
    import nncf

    from engine.runtimes.openvino_network import OpenVinoNetwork

    nncf.set_log_level(logging.ERROR)
    images = _calibration_images(graphs)
    calibration = nncf.Dataset(images)
    kind = nncf.ModelType.TRANSFORMER if is_plain(split_tag(graphs.task.config.backbone)[0]) else None
    # Mixed: weights of both signs, activations from 0 after ReLU and of both signs elsewhere, as after swish.
    options: dict[str, Any] = {"preset": nncf.QuantizationPreset.MIXED, "model_type": kind}
    options["subset_size"] = len(images)
    if max_drop is None:
        return nncf.quantize(model, calibration, **options)
    task = graphs.task

    def validate(compiled: Any, _: Iterable[Any]) -> tuple[float, None]:
        network = OpenVinoNetwork.of_compiled(compiled, model)
        return score(task, network, dataset, 8, lambda loader: loader)[task.metric], None

    return nncf.quantize_with_accuracy_control(
        model, calibration, nncf.Dataset([0]), validate, max_drop=max_drop, drop_type=nncf.DropType.ABSOLUTE, **options
    )


def _calibration_images(graphs: Graphs) -> list[np.ndarray]:
    """Normalised training images (1, C, H, W), evenly spaced, with the transform of evaluation."""
    task = graphs.task
    root = task.info.dataset.get("folder")
    if root is None:
        raise BadInput("the training images of these weights are not known, which `int8` needs", settings=("int8",))
    train, _ = task.read(task.config, Path(task.info.dataset["root"]))
    train = train.with_transform(task.transform())
    indices = evenly_spaced(len(train), CALIBRATION).tolist()
    return [task.normalised(collate([train[index]])).numpy() for index in indices]
