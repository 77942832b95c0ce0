"""From a task to the graph that a file holds, with its description."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.export import ExportedProgram

from engine.export.graphs import Graphs
from engine.export.onnx_steps import joined, step
from engine.export.trace import to_onnx, trace
from engine.runtimes.description import Description, Dynamic

if TYPE_CHECKING:
    import onnx


def describe(graphs: Graphs, dynamic: Dynamic, preprocess: bool, postprocess: bool) -> Description:
    """The description of the file with these settings."""
    task = graphs.task
    open_side = f"multiple of {graphs.multiple}"
    sides: list[Any] = [open_side, open_side] if dynamic == "size" else list(graphs.size)
    images = [1 if dynamic == "none" else "batch", task.config.data.input_channels, *sides]
    inputs = (
        {"name": "photo", "type": "uint8", "shape": ["height", "width", 3]}
        if preprocess
        else {"name": "images", "type": "float32", "shape": images}
    )
    return Description.of(
        task.info,
        inputs=inputs,
        outputs=graphs.results if postprocess else task.outputs,
        dynamic=dynamic,
        multiple=graphs.multiple if dynamic == "size" else 1,
        preprocess=preprocess,
        postprocess=postprocess,
    )


def traced(graphs: Graphs, description: Description) -> ExportedProgram:
    """The network's traced graph. Raises UserError if it cannot be traced."""
    return trace(
        graphs.network(description.postprocess),
        graphs.task.config.data.input_channels,
        graphs.size,
        description.dynamic,
        graphs.multiple,
    )


def onnx_model(graphs: Graphs, description: Description) -> onnx.ModelProto:
    """The ONNX model, with steps before and after the network, and the description in its metadata."""
    before = graphs.before() if description.preprocess else None
    after = graphs.after(description.preprocess) if description.postprocess else None
    network = to_onnx(traced(graphs, description), graphs.traced_outputs(description.postprocess))
    through = [] if after is None else [v.name for v in step(after).graph.input if v.name in ("scale", "size")]
    model = joined(network, before, after, through)
    for key, text in description.metadata().items():
        model.metadata_props.add(key=key, value=text)
    return model
