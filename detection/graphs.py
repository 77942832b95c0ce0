"""The detector's exported graph: decoding is traced; hard non-maximum suppression is ONNX's own operator."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from detection.anchors import decode
from detection.config import MAX_CANDIDATES
from detection.draw import above_score
from detection.model import Detector
from detection.postprocess import HARD_IOU, SCORE_THRESHOLD, Detections
from detection.task import DetectionTask
from engine.export.graphs import Graphs

SURE = 0.3  # score of boxes that are compared


class DecodedDetector(nn.Module):
    """A detector with decoded boxes: (B, C, H, W) normalised -> boxes (B, A, 4) xyxy px, scores (B, A, K) in 0..1.

    Boxes are clipped to the input.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = self.detector(images)
        height, width = images.shape[-2:]
        boxes = decode(deltas, self.detector.anchors.boxes(height, width))
        x, y = boxes[..., 0::2].clamp(min=0, max=width), boxes[..., 1::2].clamp(min=0, max=height)
        return torch.stack([x, y], dim=-1).flatten(-2), logits.sigmoid()


class DetectionGraphs(Graphs[DetectionTask]):
    """The exported graph of a detector.

    With post-processing, its outputs are those of `detection.postprocess.Detections`, by hard non-maximum suppression.
    Soft suppression reduces scores step by step, which ONNX could do in a loop only.
    """

    results: ClassVar[tuple[str, ...]] = ("boxes", "scores", "labels")
    compared: ClassVar[str] = f"boxes with a score of {SURE} or more, without a box of their class within 1 px"

    @classmethod
    def use_exported_results(cls, task: DetectionTask) -> None:
        """Use hard non-maximum suppression."""
        task.model.nms = "hard"

    def network(self, with_results: bool) -> nn.Module:
        return DecodedDetector(self.task.model).eval() if with_results else super().network(with_results)

    def traced_outputs(self, with_results: bool) -> tuple[str, ...]:
        return ("anchor_boxes", "anchor_scores") if with_results else super().traced_outputs(with_results)

    def differing(self, expected: Detections, found: Detections) -> tuple[int, int]:
        """Boxes with a score of `SURE` or more that have no counterpart in the other predictions, of both."""
        pairs = [tuple(torch.from_numpy(part) for part in above_score(each, 0.0)) for each in (expected, found)]
        differ = total = 0
        for (boxes, scores, labels), (others, _, other_labels) in (pairs, pairs[::-1]):
            sure = scores >= SURE
            total += int(sure.sum())
            distance = (boxes[sure][:, None] - others[None]).abs().amax(-1)
            distance = distance.masked_fill(labels[sure][:, None] != other_labels[None], float("inf"))
            differ += int((distance > 1).all(1).sum())
        return differ, total

    def after(self, photograph: bool) -> str:
        """ONNX text: `anchor_boxes` (B, A, 4), `anchor_scores` (B, A, K) -> boxes, scores and labels of D detections.

        The anchors with the highest scores are the candidates, as many as `predict` has pairs of anchor and class.
        ONNX's operator keeps up to `max_detections` boxes of each class in each image. The best of them are sorted.
        """
        limit = self.task.config.max_detections
        inputs = "float[B, A, 4] anchor_boxes, float[B, A, K] anchor_scores"
        if photograph:
            inputs += ", float[2] scale, int64[2] size"
        return f"""
        suppression ({inputs}) => (float[B, D, 4] boxes, float[B, D] scores, int64[B, D] labels)
        <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] minus_one = {{-1}},
         int64[1] most = {{{MAX_CANDIDATES}}}, int64[1] limit = {{{limit}}}, float[1] iou = {{{HARD_IOU}}},
         float[1] threshold = {{{SCORE_THRESHOLD}}}, float nothing = {{0.0}}, int64 no_class = {{-1}}>
        {{
          best = ReduceMax<keepdims = 0>(anchor_scores, two)
          shape = Shape(anchor_scores)
          anchors = Slice(shape, one, two)
          count = Min(anchors, most)
          best_scores, index = TopK(best, count)
          index3 = Unsqueeze(index, two)
          {"kept_boxes" if not photograph else "within_input"} = GatherND<batch_dims = 1>(anchor_boxes, index3)
          {_WITHIN_PHOTOGRAPH if photograph else ""}
          kept_scores = GatherND<batch_dims = 1>(anchor_scores, index3)
          by_class = Transpose<perm = [0, 2, 1]>(kept_scores)
          selected = NonMaxSuppression(kept_boxes, by_class, limit, iou, threshold)
          selected_scores = GatherND(by_class, selected)
          class_shape = Shape(by_class)
          empty = ConstantOfShape<value = float[1] {{0.0}}>(class_shape)
          survivors = ScatterND(empty, selected, selected_scores)
          flat = Flatten<axis = 1>(survivors)
          flat_shape = Shape(flat)
          pairs = Slice(flat_shape, one, two)
          returned = Min(pairs, limit)
          scores, place = TopK(flat, returned)
          label = Div(place, count)
          row = Mod(place, count)
          row3 = Unsqueeze(row, two)
          placed = GatherND<batch_dims = 1>(kept_boxes, row3)
          is_detection = Greater(scores, nothing)
          labels = Where(is_detection, label, no_class)
          {_IN_NETWORK_PIXELS if not photograph else _IN_ORIGINAL_PIXELS}
          mask = Cast<to = 1>(is_detection)
          mask3 = Unsqueeze(mask, two)
          boxes = Mul(found, mask3)
        }}"""


# The photograph is at the top left of the input, and padding follows.
_WITHIN_PHOTOGRAPH = """
          sides = Cast<to = 1>(size)
          high, wide = Split<num_outputs = 2>(sides)
          x, y = Split<num_outputs = 2>(scale)
          right_exact = Mul(wide, x)
          bottom_exact = Mul(high, y)
          right = Round(right_exact)
          bottom = Round(bottom_exact)
          corner = Concat<axis = 0>(right, bottom, right, bottom)
          kept_boxes = Min(within_input, corner)"""
_IN_NETWORK_PIXELS = "found = Identity(placed)"
_IN_ORIGINAL_PIXELS = """
          scale4 = Concat<axis = 0>(scale, scale)
          original = Div(placed, scale4)
          limits = Concat<axis = 0>(wide, high, wide, high)
          found = Min(original, limits)"""
