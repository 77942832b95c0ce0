"""The base class of the graphs of all tasks: what is traced, and what is put before and after it."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn

from backbones.errors import UserError
from backbones.inference import prepare_for_inference
from engine.export.onnx_steps import letterbox
from engine.task import Task

T = TypeVar("T", bound=Task)


class Outputs(nn.Module):
    """A task's network as a module of its own: normalised images (B, C, H, W) -> the task's `network_outputs`."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self._outputs = task.network_outputs

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self._outputs(images)


class Graphs(Generic[T]):
    """The parts of a task's exported graph.

    ONNX text is the syntax of `onnx.parser`, for opset `onnx_steps.OPSET`.

    Args:
        task: a trained task. Its model is replaced by the copy for inference, which `predict` runs.

    Attributes:
        original: the model before it was replaced.
        results: names of the outputs with post-processing.
        compared: what `differing` counts.
        multiple: sides of images are multiples of this where they are open, so that every map has whole cells.
    """

    results: ClassVar[tuple[str, ...]]
    compared: ClassVar[str]
    multiple: int = 128

    def __init__(self, task: T) -> None:
        self.task = task.eval()
        self.original = task.model
        task.model = prepare_for_inference(task.model)

    @classmethod
    def use_exported_results(cls, task: Any) -> None:
        """Configure a task so that its results are comparable with the post-processing of the graph."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network's input in px."""
        height, width = self.task.info.preprocessing["size"]
        return height, width

    def network(self, with_results: bool) -> nn.Module:
        """The module to trace: images -> `task.outputs`, or what `after` takes if `with_results`."""
        return Outputs(self.task).eval()

    def traced_outputs(self, with_results: bool) -> tuple[str, ...]:
        """Names of the outputs of `network`."""
        return self.task.outputs

    def before(self) -> str:
        """ONNX text: `photo` (H, W, 3) uint8 RGB -> `images` (1, 3, h, w) float32, `scale` and `size`.

        `scale` is (x, y), network pixels per original pixel; `size` is (H, W) as int64. Raises UserError if the
        preprocessing of the task cannot be part of a graph.
        """
        self.raise_unless_rgb()
        return letterbox(self.size, self.task.fill, self.task.info.preprocessing)

    def after(self, photograph: bool) -> str:
        """ONNX text: the outputs of `network`, with `scale` and `size` of a photograph -> `results`.

        Raises UserError if the post-processing cannot be part of a graph.
        """
        raise NotImplementedError

    def differing(self, expected: Any, found: Any) -> tuple[int, int]:
        """Number of results of one image that differ between two predictions of the task, and number of all."""
        raise NotImplementedError

    def raise_unless_rgb(self) -> None:
        """Raise UserError for images that are not 8-bit RGB."""
        if self.task.channels is not None:
            raise UserError(
                "`preprocess` takes 8-bit RGB images, and this run has other channels: leave it out",
                settings=("preprocess",),
            )
