"""The segmentation network's exported graph."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from backbones.errors import UserError
from engine.export.graphs import Graphs
from segmentation.task import SegmentationTask


class SegmentationGraphs(Graphs[SegmentationTask]):
    """The exported graph of a segmentation network. Without post-processing, logits are at the decoder's stride."""

    results: ClassVar[tuple[str, ...]] = ("labels", "confidence")
    compared: ClassVar[str] = "pixels with another class"

    def differing(self, expected: list[Tensor], found: list[Tensor]) -> tuple[int, int]:
        """Pixels with another class, and all pixels."""
        return int((expected[0] != found[0]).sum()), expected[0].numel()

    def after(self, photograph: bool) -> str:
        """ONNX text: `logits` (B, K, h, w) -> `labels` (B, H, W) uint8, `confidence` (B, H, W) in 0..1.

        Each pixel has the class with the largest logit, by bilinear interpolation, as in `segmentation.tta`: pixels
        are those of a photograph, or else of the network's input.
        """
        spec = self.task.model.spec
        if spec.corners and spec.stride > 1:
            raise UserError(
                f"`postprocess` is not available with the decoder {self.task.info.extra['neck']}, whose logits are "
                "upsampled from corner to corner. Leave it out: logits are then upsampled outside of the graph",
                settings=("postprocess",),
            )
        if photograph:
            inputs = "float[1, K, h, w] logits, float[2] scale, int64[2] size"
            steps = """
          x, y = Split<num_outputs = 2>(scale)
          yx = Concat<axis = 0>(y, x)
          growth = Div(stride, yx)
          scales = Concat<axis = 0>(same, growth)
          covering = Resize<mode = "linear">(logits, , scales)
          full = Slice(covering, start, size, axes)"""
        else:
            inputs = "float[B, K, h, w] logits"
            steps = """
          scales = Concat<axis = 0>(same, stride)
          full = Resize<mode = "linear">(logits, , scales)"""
        return f"""
        class_map ({inputs}) => (uint8[B, H, W] labels, float[B, H, W] confidence)
        <float[2] stride = {{{spec.stride}.0, {spec.stride}.0}}, float[2] same = {{1.0, 1.0}}, int64[1] one = {{1}},
         int64[2] start = {{0, 0}}, int64[2] axes = {{2, 3}}>
        {{{steps}
          best = ArgMax<axis = 1, keepdims = 0>(full)
          labels = Cast<to = 2>(best)
          shares = Softmax<axis = 1>(full)
          confidence = ReduceMax<keepdims = 0>(shares, one)
        }}"""
