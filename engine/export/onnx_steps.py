"""Steps of exported graphs in ONNX's own operators, and how they are joined with a traced network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data.resizing import AREA_BELOW
from engine.export import resampling

if TYPE_CHECKING:  # an extra, which other formats do not need
    import onnx

OPSET = 20  # torch's exporter writes it, and onnxruntime and OpenVINO read it; antialiased resizing needs 18
IR_VERSION = 10
HEADER = f'<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>'


def step(text: str) -> onnx.ModelProto:
    """The model of an ONNX text, which starts with the name of its graph, without its unused constants."""
    import onnx
    from onnx import parser

    model = parser.parse_model(f"{HEADER}\n{text}")
    used = set(_inputs(model.graph))
    kept = [constant for constant in model.graph.initializer if constant.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.checker.check_model(model)
    return model


def _inputs(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of the values that the nodes of a graph and of its branches take."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _inputs(attribute.g)


def joined(network: onnx.ModelProto, before: str | None, after: str | None, through: Sequence[str]) -> onnx.ModelProto:
    """A network with steps before and after it. Equal names are connected.

    Args:
        network: its input is called `images`.
        before: ONNX text with the output `images`, or None.
        after: ONNX text whose inputs are outputs of the network and of `before`, or None.
        through: outputs of `before` that `after` takes.
    """
    from onnx import compose

    model = network
    model.ir_version = IR_VERSION
    if before is not None:
        first = _with_prefix(step(before), "before/")
        _close(model.graph, first)
        outputs = [output.name for output in model.graph.output]
        model = compose.merge_models(first, model, [("images", "images")], outputs=[*outputs, *through])
    if after is not None:
        last = _with_prefix(step(after), "after/", "/in")
        names = [(value.name.removesuffix("/in"), value.name) for value in last.graph.input]
        wanted = [value.name for value in last.graph.output]
        model = compose.merge_models(model, last, names, outputs=wanted)
    return model


def _close(graph: onnx.GraphProto, before: onnx.ModelProto) -> None:
    """Give the network's input the shape that the step before it produces."""
    graph.input[0].type.CopyFrom(before.graph.output[0].type)


def _with_prefix(model: onnx.ModelProto, prefix: str, input_suffix: str = "") -> onnx.ModelProto:
    """The model with a prefix of all names but those of inputs and outputs. Inputs receive the suffix.

    `onnx.compose.add_prefix` does not rename the constants that branches take from the graph around them.
    """
    names = {value.name: value.name for value in model.graph.output}
    names |= {value.name: value.name + input_suffix for value in model.graph.input}
    _rename(model.graph, lambda name: names.get(name, prefix + name) if name else name)
    return model


def _rename(graph: onnx.GraphProto, renamed: Callable[[str], str]) -> None:
    """Rename all values of a graph and of its branches."""
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = renamed(value.name)
    for node in graph.node:
        node.name = renamed(node.name)
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, renamed)


def normalisation(preprocessing: Mapping[str, Any]) -> str:
    """Constants of an ONNX text: `factor` and `shift` of `data.channels.normalised`."""
    mean, std = preprocessing["mean"], preprocessing["std"]
    factors = ", ".join(repr(1 / (255 * s)) for s in std)
    shifts = ", ".join(repr(-m / s) for m, s in zip(mean, std, strict=True))
    return f"float[1, 3, 1, 1] factor = {{{factors}}}, float[1, 3, 1, 1] shift = {{{shifts}}}"


def letterbox(size: tuple[int, int], fill: Sequence[float], preprocessing: Mapping[str, Any]) -> str:
    """ONNX text of `data.letterbox` with the normalisation."""
    height, width = size
    return f"""
    letterbox (uint8[H, W, 3] photo) => (float[1, 3, {height}, {width}] images, float[2] scale, int64[2] size)
    <float[1] area_below = {{{AREA_BELOW}}}, double[1] one = {{1.0}}, double[2] target = {{{height}.0, {width}.0}},
     int64[2] target_size = {{{height}, {width}}}, int64[4] nothing = {{0, 0, 0, 0}}, int64[2] nothing2 = {{0, 0}},
     float[1, 3, 1, 1] fill = {{{", ".join(str(float(v)) for v in fill)}}}, {resampling.CONSTANTS},
     {normalisation(preprocessing)}>
    {{
      shape = Shape(photo)
      size = Slice(shape, first, third)
      sides = Cast<to = 11>(size)
      ratios = Div(target, sides)
      fit = ReduceMin<keepdims = 1>(ratios)
      exact = Mul(sides, fit)
      rounded = Round(exact)
      at_least_one = Max(rounded, one)
      limited = Min(at_least_one, target)
      out = Cast<to = 7>(limited)
      ratio = Div(limited, sides)
      yx = Cast<to = 1>(ratio)
      y, x = Split<num_outputs = 2>(yx)
      scale = Concat<axis = 0>(x, y)
      smaller = Min(x, y)
      shrinks = Less(smaller, area_below)
      pixels = If (shrinks) <
        then_branch = averaged () => (float[h1, w1, 3] area_pixels) {{ {resampling.area()} }},
        else_branch = interpolated () => (float[h2, w2, 3] linear_pixels) {{ {resampling.linear()} }}>
      channels_first = Transpose<perm = [2, 0, 1]>(pixels)
      image = Unsqueeze(channels_first, first)
      centred = Sub(image, fill)
      missing = Sub(target_size, out)
      pads = Concat<axis = 0>(nothing, nothing2, missing)
      padded = Pad(centred, pads)
      filled = Add(padded, fill)
      scaled = Mul(filled, factor)
      images = Add(scaled, shift)
    }}"""
