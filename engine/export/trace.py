"""Trace a network with torch.export, with open dimensions, and convert it to ONNX."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from backbones.errors import UserError
from engine.export.onnx_steps import OPSET
from engine.runtimes.description import Dynamic

if TYPE_CHECKING:
    import onnx

TRACED_BATCH = 2  # torch.export takes a size of 1 for a constant
MAX_BATCH, MAX_SIDE = 1024, 8192  # of open dimensions


def trace(module: nn.Module, channels: int, size: tuple[int, int], dynamic: Dynamic, multiple: int) -> ExportedProgram:
    """The graph of a network for images (B, channels, *size).

    Args:
        module: in evaluation mode.
        channels: number of channels of an image.
        size: (height, width) in px. If they are open, the network is traced at the next multiples.
        dynamic: the open dimensions.
        multiple: height and width are multiples of this if they are open.

    Raises UserError if the network cannot be traced with these open dimensions.
    """
    shapes: dict[int, object] = {}
    batch = 1
    if dynamic != "none":
        batch = TRACED_BATCH
        shapes[0] = Dim("batch", min=1, max=MAX_BATCH)
    if dynamic == "size":
        size = traced_size(size, multiple)
        for axis, name in ((2, "rows"), (3, "columns")):
            shapes[axis] = multiple * Dim(name, min=1, max=MAX_SIDE // multiple)
    images = torch.zeros(batch, channels, *size)
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(module, (images,), dynamic_shapes={"images": shapes or None}, strict=False)
    except Exception as error:  # of many classes, also internal ones, by where the network cannot be traced
        cause = " ".join(str(error).split("\n\n")[0].split())[:300]
        raise UserError(
            f"this network cannot be traced with `dynamic={dynamic}`: {cause}. {_advice(dynamic)}",
            settings=("dynamic",),
        ) from error


def traced_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The next multiples of at least two units, which differ, so that height and width are not taken for one number."""
    height, width = (multiple * max(2, -(-side // multiple)) for side in size)
    return (height, width + multiple) if height == width else (height, width)


def to_onnx(program: ExportedProgram, outputs: Sequence[str]) -> onnx.ModelProto:
    """Convert a traced network to ONNX. Raises UserError that names the operators that ONNX does not have."""
    try:
        with quiet():
            converted = torch.onnx.export(
                program,
                input_names=["images"],
                output_names=list(outputs),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter's errors have no public base class
        causes = _causes(error)
        named = sorted(set(re.findall(r"(?:aten|torchvision|prims)[.:]+\w+", " ".join(causes))))
        what = f"the operator {', '.join(named[:3])}" if named else causes[-1].splitlines()[0][:200]
        raise UserError(f"this network cannot be converted to ONNX: it has no translation of {what}") from error
    assert converted is not None
    return converted.model_proto


def _causes(error: BaseException) -> list[str]:
    """The messages of an error and of those that it comes from, the innermost last."""
    messages = []
    found: BaseException | None = error
    while found is not None:
        messages.append(str(found))
        found = found.__cause__
    return messages


def _advice(dynamic: Dynamic) -> str:
    if dynamic == "none":
        return "It cannot be exported"
    return f"Use `dynamic={'batch' if dynamic == 'size' else 'none'}`"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's progress and its warnings on its own code from the terminal."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
