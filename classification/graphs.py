"""The classifier's exported graph."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from backbones.errors import UserError
from classification.task import ClassificationTask
from classification.transforms import FILTERS
from engine.export import resampling
from engine.export.graphs import Graphs
from engine.export.onnx_steps import normalisation


class ClassificationGraphs(Graphs[ClassificationTask]):
    """The exported graph of a classifier. With post-processing, it computes probabilities."""

    results: ClassVar[tuple[str, ...]] = ("probabilities",)
    compared: ClassVar[str] = "images with another most probable class"

    def differing(self, expected: Tensor, found: Tensor) -> tuple[int, int]:
        """Images with another most probable class, and all images."""
        return int((expected.argmax(1) != found.argmax(1)).sum()), len(expected)

    @property
    def multiple(self) -> int:  # type: ignore[override]
        """The coarsest stride: 32 without a neck, 128 with BiFPN's further levels."""
        return 128 if self.task.config.has_neck() else 32

    def before(self) -> str:
        """ONNX text of timm's evaluation crop, see `EvalCrop`, with the normalisation."""
        self.raise_unless_rgb()
        values = self.task.info.preprocessing
        height, width = self.size
        if values["crop_mode"] not in ("center", "squash") or (height != width and values["crop_mode"] == "center"):
            raise UserError(
                f"`preprocess` is not available for the crop '{values['crop_mode']}' of {height}x{width} px: leave it "
                "out, and resize images before the graph",
                settings=("preprocess",),
            )
        if values["interpolation"] not in FILTERS:
            raise UserError(
                f"`preprocess` is not available for the interpolation '{values['interpolation']}', only for "
                f"{' and '.join(FILTERS)}: leave it out, and resize images before the graph",
                settings=("preprocess",),
            )
        resized = math.floor(height / values["crop_pct"]), math.floor(width / values["crop_pct"])
        pixels = resampling.pillow(values["interpolation"])
        if values["crop_mode"] == "squash":
            out = "out = Identity(wanted)"
        else:  # the shorter side has the wanted length; the other one is rounded down
            out = """
          shorter = ReduceMin<keepdims = 1>(size)
          products = Mul(size, wanted)
          out = Div(products, shorter)"""
        return f"""
        crop (uint8[H, W, 3] photo) => (float[1, 3, {height}, {width}] images, float[2] scale, int64[2] size)
        <int64[2] wanted = {{{resized[0]}, {resized[1]}}}, double[2] crop = {{{height}.0, {width}.0}},
         double[1] half = {{0.5}}, int64[2] crop_size = {{{height}, {width}}}, int64[2] axes = {{1, 2}},
         int64[2] none = {{0, 0}}, {resampling.CONSTANTS}, {normalisation(values)}>
        {{
          shape = Shape(photo)
          size = Slice(shape, first, third)
          {out}
          sides = Cast<to = 1>(size)
          out_sides = Cast<to = 1>(out)
          yx = Div(out_sides, sides)
          y, x = Split<num_outputs = 2>(yx)
          scale = Concat<axis = 0>(x, y)
          {pixels}
          exact = Cast<to = 11>(out)
          margin = Sub(exact, crop)
          halves = Mul(margin, half)
          rounded = Round(halves)
          offset = Cast<to = 7>(rounded)
          start = Max(offset, none)
          end = Add(start, crop_size)
          cropped = Slice(pillow_pixels, start, end, axes)
          image = Unsqueeze(cropped, first)
          scaled = Mul(image, factor)
          images = Add(scaled, shift)
        }}"""

    def after(self, photograph: bool) -> str:
        """ONNX text: `logits` (B, K) -> `probabilities` (B, K)."""
        return """
        softmax (float[B, K] logits) => (float[B, K] probabilities)
        { probabilities = Softmax<axis = 1>(logits) }"""
