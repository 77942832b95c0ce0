"""Read an ONNX file that anyone may have written.

onnxruntime reads other files that a model names, and allocates what its constants describe. So the file is checked
before onnxruntime sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from backbones.errors import BadInput, first_line

# Largest number of values of a constant that a few bytes can describe: more than the largest map of a 2048 px image.
MAX_FILLED = 2**28
STANDARD = ("", "ai.onnx")  # names of the domain of ONNX's own operators


def read_onnx(file: Path) -> onnx.ModelProto:
    """The model in a file, without reading any other file.

    Raises BadInput for a damaged file, for data outside of the file, for operators other than ONNX's own, and for
    constants that are far larger than the file.
    """
    try:
        model = onnx.load(str(file), load_external_data=False)
    except (DecodeError, ValueError, OSError, RecursionError) as error:
        raise BadInput(f"{file} is not a complete ONNX file ({first_line(error)}): export it again") from error
    if not model.graph.node:
        raise BadInput(f"{file} is not a complete ONNX file (it has no graph): export it again")
    if model.functions:
        raise BadInput(f"{file} defines operators of its own, which an export of this package does not")
    for graph in _graphs(model.graph):
        constants = {tensor.name: tensor for tensor in graph.initializer}
        for tensor in _tensors(graph):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                place = {entry.key: entry.value for entry in tensor.external_data}.get("location", "another file")
                raise BadInput(
                    f"{file} keeps its weights in {place!r}: only files that hold their own weights are read, as the "
                    "export command writes them"
                )
        for node in graph.node:
            if node.domain not in STANDARD:
                raise BadInput(f"{file} needs the operator {node.op_type} of '{node.domain}', which is not ONNX's own")
            if node.op_type in ("ConstantOfShape", "Expand", "Tile", "RandomNormal", "RandomUniform"):
                _check_filled(node, constants, file)
    return model


def _check_filled(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], file: Path) -> None:
    """Raise BadInput for a node that repeats a value far too often."""
    shape: Any = next((list(a.ints) for a in node.attribute if a.name == "shape"), None)
    place = 0 if node.op_type == "ConstantOfShape" else 1
    if shape is None and len(node.input) > place and node.input[place] in constants:
        shape = onnx.numpy_helper.to_array(constants[node.input[place]]).tolist()
    if shape is not None and prod(max(int(side), 1) for side in shape) > MAX_FILLED:
        raise BadInput(f"{file} asks for a constant of shape {shape}, which does not fit in memory")


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                if inner.node:
                    yield from _graphs(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The constants of one graph, in all places where ONNX keeps them."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
