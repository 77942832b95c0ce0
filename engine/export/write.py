"""Write an exported file, and open it again as a user would."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from backbones.errors import UserError
from engine.export.build import describe, onnx_model, traced
from engine.export.graphs import Graphs
from engine.export.trace import quiet
from engine.record import write_bytes
from engine.runtimes.description import KEY, Description
from engine.runtimes.files import FILES, Format, Network, open_exported
from engine.system_errors import cannot_write

if TYPE_CHECKING:
    import onnx

TORCH = f"torch {torch.__version__.split('+')[0]}, fp32"  # as a runtime
MAX_BYTES = 2**31  # a protobuf message cannot be larger


class TracedNetwork:
    """A program of torch.export that this process has traced, see `engine.runtimes.files.Network`."""

    def __init__(self, file: Path, description: Description) -> None:
        self.description = description
        self.name = TORCH
        self._run = torch.export.load(file).module()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self._run(images)
        return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def write_file(
    graphs: Graphs,
    description: Description,
    format: Format,
    folder: Path,
    quantise: Callable[[Any], Any] | None = None,
    precision: str = "fp32",
) -> tuple[Path, Network]:
    """Write the file of a task's network to a folder and open it.

    Args:
        graphs: of the task.
        description: what to write.
        format: of the file.
        folder: exists.
        quantise: converts the OpenVINO model before it is written.
        precision: to open it with.

    Raises UserError if the network cannot be exported, BadInput if the file cannot be written.
    """
    file = folder / FILES[format]
    try:
        if format == "torch":
            texts = {f"{name}.json": text for name, text in description.metadata().items()}
            with quiet():
                torch.export.save(traced(graphs, description), file, extra_files=texts)
            return file, TracedNetwork(file, description)
        model = onnx_model(graphs, description)
        if model.ByteSize() >= MAX_BYTES:
            raise UserError("this network has more than 2 GB of weights, which one ONNX file cannot hold")
        if format == "onnx":
            write_bytes(file, model.SerializeToString())
        else:
            save_openvino(model, description, file, quantise)
    except OSError as error:
        raise cannot_write(str(file), error) from error
    return file, open_exported(file, precision)


def converted(graphs: Graphs, runtime: str, precision: str) -> Network:
    """A task's network in another runtime, "onnx" or "openvino", without a file."""
    description = describe(graphs, "batch", preprocess=False, postprocess=False)
    model = onnx_model(graphs, description)
    if runtime == "onnx":
        from engine.runtimes.onnx_network import OnnxNetwork

        return OnnxNetwork(model, precision)
    from engine.runtimes.openvino_network import OpenVinoNetwork

    return OpenVinoNetwork(as_openvino(model, description), precision)


def save_openvino(model: Any, description: Description, file: Path, quantise: Callable[[Any], Any] | None) -> None:
    """Convert an ONNX model to OpenVINO's format and write it with its weights, in float32."""
    import openvino

    result = as_openvino(model, description)
    if quantise is not None:
        result = quantise(result)
        add_metadata(result, description)
    openvino.save_model(result, str(file), compress_to_fp16=False)


def as_openvino(model: Any, description: Description) -> Any:
    """Convert an ONNX model to OpenVINO's, with the description."""
    import openvino

    from engine.runtimes.openvino_network import last_line

    try:
        result = openvino.convert_model(io.BytesIO(_folded(model)))
    except RuntimeError as error:
        raise UserError(
            f"OpenVINO cannot convert this graph: {last_line(error)}. Use `format='onnx'`, or leave "
            "`preprocess` and `postprocess` out",
            settings=("format", "preprocess", "postprocess"),
        ) from error
    add_metadata(result, description)
    return result


def _folded(model: onnx.ModelProto) -> bytes:
    """The ONNX file of a model whose constant parts are computed, by onnxruntime.

    Position embeddings of transformers are resized in the graph, by bicubic interpolation with antialiasing. OpenVINO
    computes that operator without antialiasing.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # ONNX's own operators only
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return Path(options.optimized_model_filepath).read_bytes()


def add_metadata(model: Any, description: Description) -> None:
    """Store the description in an OpenVINO model."""
    from engine.runtimes.openvino_network import INFO

    for key, text in description.metadata().items():
        model.set_rt_info(text, [INFO, key])


def described(description: Description) -> dict[str, Any]:
    """The description for `export.json`: without the settings of the run."""
    values = json.loads(description.metadata()[KEY])
    del values["run"]
    return values
