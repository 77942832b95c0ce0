"""Run an OpenVINO file, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openvino
import torch
from torch import Tensor

from backbones.errors import BadInput, UserError
from engine.runtimes.description import KEY, description_of

DEVICE = "CPU"
# OpenVINO chooses bf16 by itself on a CPU that has it, so the precision is always stated.
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
INFO = "metadata"  # the section of a file's runtime information that holds our texts


class OpenVinoNetwork:
    """An OpenVINO file that the export command wrote, see `engine.runtimes.files.Network`.

    Args:
        source: the .xml file, or a model that is not saved.
        precision: "fp32", or "bf16" where the CPU has it.

    Raises BadInput for a file that cannot be used, UserError for a precision that the CPU does not have.
    """

    def __init__(self, source: Path | openvino.Model, precision: str = "fp32") -> None:
        core = openvino.Core()
        if precision not in PRECISIONS or (precision == "bf16" and not has_bf16(core)):
            having = " or ".join(["fp32"] + ["bf16"] * has_bf16(core))
            raise UserError(
                f"`precision={precision}` is not available in OpenVINO on this CPU: use {having}",
                settings=("precision",),
            )
        file = source if isinstance(source, Path) else Path("the exported model")
        model = _read(core, source) if isinstance(source, Path) else source
        self.description = description_of(metadata_of(model), file)
        hints: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        try:
            self._compiled = core.compile_model(model, DEVICE, hints)
        except RuntimeError as error:
            raise BadInput(f"OpenVINO cannot run {file}: {last_line(error)}") from error
        integer = " int8" if is_quantised(model) else ""
        self.name = f"OpenVINO {openvino.__version__.split('-')[0]},{integer} {precision}"

    @classmethod
    def of_compiled(cls, compiled: Any, described: openvino.Model) -> OpenVinoNetwork:
        """The network for a compiled model, with the description of another model."""
        network = cls.__new__(cls)
        network.description = description_of(metadata_of(described), Path("the exported model"))
        network.name, network._compiled = "OpenVINO", compiled
        return network

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs for one batch of images."""
        found = self._compiled([self.description.input_array(images)])
        return tuple(torch.from_numpy(found[name].copy()) for name in self.description.outputs)


def has_bf16(core: openvino.Core | None = None) -> bool:
    """Whether OpenVINO computes in bf16 on this CPU."""
    return "BF16" in (core or openvino.Core()).get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")


def is_quantised(model: openvino.Model) -> bool:
    """Whether a model has the nodes that quantisation adds."""
    return any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())


def metadata_of(model: openvino.Model) -> dict[str, str]:
    """Our texts in a model, by key; none in other models."""
    if not model.has_rt_info([INFO, KEY]):
        return {}
    return {KEY: model.get_rt_info([INFO, KEY]).astype(str)}


def _read(core: openvino.Core, file: Path) -> openvino.Model:
    """Read a file. Its weights are in the .bin file of the same name."""
    weights = file.with_suffix(".bin")
    if not weights.is_file():
        raise BadInput(f"{file} needs {weights.name} beside it, which holds the weights")
    try:
        return core.read_model(str(file), str(weights))
    except RuntimeError as error:
        raise BadInput(f"{file} is not a complete OpenVINO file: {last_line(error)}") from error


def last_line(error: BaseException) -> str:
    """The line of OpenVINO's message that states the cause: the last one, after the places in its source."""
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1]
