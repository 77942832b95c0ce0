"""Run an ONNX file by onnxruntime, on the CPU."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor

from backbones.errors import BadInput, UserError
from engine.runtimes.description import description_of
from engine.runtimes.onnx_file import read_onnx


class OnnxNetwork:
    """An ONNX file that the export command wrote, see `engine.runtimes.files.Network`.

    Args:
        source: the file, or a model that is not saved.
        precision: "fp32".

    Raises BadInput for a file that cannot be used, and UserError for another precision.
    """

    def __init__(self, source: Path | onnx.ModelProto, precision: str = "fp32") -> None:
        if precision != "fp32":
            raise UserError(
                f"`precision={precision}` is not available in onnxruntime on a CPU: use fp32, or openvino for bf16",
                settings=("precision",),
            )
        file = source if isinstance(source, Path) else Path("the exported model")
        model = read_onnx(source) if isinstance(source, Path) else source
        self.description = description_of({entry.key: entry.value for entry in model.metadata_props}, file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors: its warnings concern nodes that it removes
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no base class of their own
            raise BadInput(f"onnxruntime cannot read {file}: {str(error).splitlines()[0]}") from error
        self.name = f"onnxruntime {onnxruntime.__version__}, fp32"
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs for one batch of images."""
        found = self._session.run(self.description.outputs, {self._input: self.description.input_array(images)})
        return tuple(torch.from_numpy(output) for output in found)
