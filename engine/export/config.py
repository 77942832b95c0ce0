"""Settings of the `export` command of all tasks. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from backbones.errors import UserError
from engine.config import EvalData, parse_size


@dataclass
class ExportConfig:
    """Export a trained network for another runtime, and check the file against the checkpoint."""

    checkpoint: str | None = None
    """Run folder or checkpoint file. By default the latest run of this task."""
    backbone: str | None = None
    """Export the published weights of this backbone instead of a run, in tasks that have such weights."""
    image_size: int | str | None = None
    """Input size in pixels: N for a square, or HxW. By default the size of the training."""
    format: Literal["onnx", "openvino", "torch", "safetensors"] = "onnx"
    """Format of the file: model.onnx for onnxruntime and others, model.xml with model.bin for OpenVINO, model.pt2, a
    program of torch.export, or model.safetensors, a checkpoint for this package without code and optimiser state."""
    dynamic: Literal["batch", "size", "none"] | None = None
    """Dimensions of the input that stay open: the batch size; size for batch, height and width; or none. By default
    batch, with --int8 none."""
    postprocess: bool = False
    """Put the post-processing into the graph: boxes after hard non-maximum suppression, class maps, probabilities.
    Soft non-maximum suppression needs a loop and stays outside."""
    preprocess: bool = False
    """Put the preprocessing into the graph, too: it then takes one photograph (height, width, 3), uint8 RGB, of any
    size, and returns results in its pixels. Includes --postprocess."""
    int8: bool = False
    """Quantise an OpenVINO file to 8-bit integers, calibrated on training images. It takes one image at a time."""
    max_drop: float | None = None
    """With --int8: keep layers in floating point until the score is at most this much lower, in 0..1. Takes many
    evaluations."""
    output: str = "export"
    """Folder to create, for the file and for export.json, which holds the results of the checks."""
    push: str | None = None
    """Repository of the Hugging Face Hub, OWNER/NAME, to upload the folder to, with a model card. `--checkpoint
    hf://OWNER/NAME` reads it."""
    private: bool = False
    """With --push: create a private repository."""
    data: EvalData = field(default_factory=EvalData)

    @property
    def open_dimensions(self) -> Literal["batch", "size", "none"]:
        """`dynamic`, or its default."""
        return self.dynamic or ("none" if self.int8 else "batch")

    def check(self) -> None:
        """Raise UserError for settings that contradict each other."""
        if self.preprocess and self.dynamic == "size":
            raise UserError("--preprocess resizes photographs of any size to one size: leave --dynamic size out")
        if self.private and self.push is None:
            raise UserError("--private needs --push")
        if (self.preprocess or self.postprocess) and self.format in ("torch", "safetensors"):
            raise UserError(
                "--preprocess and --postprocess are made of ONNX's operators: use --format onnx or openvino"
            )
        if self.int8 and self.format != "openvino":
            raise UserError("--int8 needs --format openvino")
        if self.int8 and (self.preprocess or self.postprocess):
            raise UserError("--int8 quantises the network alone: leave --preprocess and --postprocess out")
        if self.int8 and self.dynamic not in (None, "none"):
            # OpenVINO 2026.4 ends with a segmentation fault in detectors whose batch size is open.
            raise UserError(f"--int8 writes a file for one image at a time: leave --dynamic {self.dynamic} out")
        if self.max_drop is not None and not (self.int8 and 0 <= self.max_drop < 1):
            raise UserError(f"--max_drop {self.max_drop} must be from 0 to 1, and needs --int8")
        if self.image_size is not None:
            parse_size(self.image_size)
