"""Steps of exported graphs in ONNX's own operators, and how they are joined with a traced network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data.resizing import AREA_BELOW

if TYPE_CHECKING:  # an extra, which other formats do not need
    import onnx

OPSET = 20  # torch's exporter writes it, and onnxruntime and OpenVINO read it; antialiased resizing needs 18
IR_VERSION = 10
HEADER = f'<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>'


def step(text: str) -> onnx.ModelProto:
    """The model of an ONNX text, which starts with the name of its graph."""
    import onnx
    from onnx import parser

    model = parser.parse_model(f"{HEADER}\n{text}")
    onnx.checker.check_model(model)
    return model


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
        first = compose.add_prefix(step(before), "before/", rename_inputs=False, rename_outputs=False)
        _close(model.graph, first)
        outputs = [output.name for output in model.graph.output]
        model = compose.merge_models(first, model, [("images", "images")], outputs=[*outputs, *through])
    if after is not None:
        last = compose.add_prefix(step(after), "after/", rename_inputs=False, rename_outputs=False)
        names = [(value.name, f"{value.name}/in") for value in last.graph.input]
        last = _renamed_inputs(last, dict(names))
        wanted = [value.name for value in last.graph.output]
        model = compose.merge_models(model, last, names, outputs=wanted)
    return model


def _close(graph: onnx.GraphProto, before: onnx.ModelProto) -> None:
    """Give the network's input the shape that the step before it produces."""
    graph.input[0].type.CopyFrom(before.graph.output[0].type)


def _renamed_inputs(model: onnx.ModelProto, names: Mapping[str, str]) -> onnx.ModelProto:
    """The model with other names of its inputs, which must differ from the outputs that they are connected to."""
    for value in model.graph.input:
        value.name = names[value.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return model


def normalisation(preprocessing: Mapping[str, Any]) -> str:
    """Initialisers of an ONNX text: `low` and `high`, the range of pixels, and `factor` and `shift` of `normalise`."""
    mean, std = preprocessing["mean"], preprocessing["std"]
    factors = ", ".join(repr(1 / (255 * s)) for s in std)
    shifts = ", ".join(repr(-m / s) for m, s in zip(mean, std, strict=True))
    return (
        "float low = {0.0}, float high = {255.0}, "
        f"float[1, 3, 1, 1] factor = {{{factors}}}, float[1, 3, 1, 1] shift = {{{shifts}}}"
    )


def letterbox(size: tuple[int, int], fill: Sequence[float], preprocessing: Mapping[str, Any]) -> str:
    """ONNX text of `data.letterbox` with the normalisation.

    OpenCV averages areas below a scale of 0.5, for which ONNX has no operator: antialiased linear interpolation
    replaces that. At larger scales, both interpolate linearly, and values differ by OpenCV's rounding.
    """
    height, width = size
    return f"""
    letterbox (uint8[H, W, 3] photo) => (float[1, 3, {height}, {width}] images, float[2] scale, int64[2] size)
    <float[1] area_below = {{{AREA_BELOW}}}, double[1] one = {{1.0}}, double[2] target = {{{height}.0, {width}.0}},
     int64[2] target_size = {{{height}, {width}}}, int64[1] zero = {{0}}, int64[1] two = {{2}},
     int64[2] batch_and_channels = {{1, 3}}, int64[4] nothing = {{0, 0, 0, 0}}, int64[2] nothing2 = {{0, 0}},
     float[1, 3, 1, 1] fill = {{{", ".join(str(float(v)) for v in fill)}}}, {normalisation(preprocessing)}>
    {{
      shape = Shape(photo)
      size = Slice(shape, zero, two)
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
      values = Cast<to = 1>(photo)
      channels_first = Transpose<perm = [2, 0, 1]>(values)
      image = Unsqueeze(channels_first, zero)
      out_shape = Concat<axis = 0>(batch_and_channels, out)
      fit32 = Cast<to = 1>(fit)
      shrinks = Less(fit32, area_below)
      resized = If (shrinks) <
        then_branch = averaged () => (float[1, 3, h1, w1] small)
          {{ small = Resize<mode = "linear", antialias = 1>(image, , , out_shape) }},
        else_branch = interpolated () => (float[1, 3, h2, w2] large)
          {{ large = Resize<mode = "linear">(image, , , out_shape) }}>
      whole = Round(resized)
      pixels = Clip(whole, low, high)
      centred = Sub(pixels, fill)
      missing = Sub(target_size, out)
      pads = Concat<axis = 0>(nothing, nothing2, missing)
      padded = Pad(centred, pads)
      filled = Add(padded, fill)
      scaled = Mul(filled, factor)
      images = Add(scaled, shift)
    }}"""
