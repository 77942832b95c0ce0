"""Finished runs, for use in Python."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from backbones.errors import BadInput, UserError
from data.channels import Channels
from data.image_header import ORIENTATION
from data.images import MAX_PIXELS, Levels, check_pixels, decode_image, orientation, read_image, to_rgb, upright
from engine.checkpoint import RunInfo, find_checkpoint, run_in
from engine.hub import local_checkpoint
from engine.predictor import Predictor
from engine.restore import restore_task
from engine.runtimes.files import exported_file, open_exported
from engine.spec import TaskSpec
from engine.task import Task
from experiments.tasks import TASKS

if TYPE_CHECKING:
    from classification.prediction import ClassificationResult
    from detection.prediction import DetectionResult
    from segmentation.prediction import SegmentationResult

    Result = DetectionResult | SegmentationResult | ClassificationResult

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray

Exif = Literal["apply", "ignore"]

_FORMS = "an image is a path, a PIL image, or a uint8 array (H, W, 3) or (H, W)"


class Run:
    """A trained model with its classes and preprocessing.

    Attributes:
        model: in evaluation mode, on the CPU, with the weights that the run was scored with; for an exported file, a
            module that returns the file's outputs.
        classes: names by index.
        preprocessing: `mean` and `std` by channel, of RGB in 0..1, `size` as (height, width), and other values
            that the task's transform needs.
        info: the checkpoint's description of the run.
    """

    def __init__(self, info: RunInfo, load: Any) -> None:
        self.info = info
        self.classes: tuple[str, ...] = tuple(info.classes)
        self.preprocessing = info.preprocessing
        self._load = load
        task: Task = load()
        self.model: nn.Module = task.model.eval() if task.runtime is None else Computed(task)

    def __repr__(self) -> str:
        backbone, data = self.info.config["backbone"], self.info.dataset.get("root")
        return f"{self.info.task} run: {backbone}, {len(self.classes)} classes, trained on {data or 'the demo scenes'}"

    # mypy: a str is an iterable of str as well; the first form applies to it.
    @overload
    def predict(self, images: ImageLike, *, exif: Exif = "apply") -> Result: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, images: Iterable[ImageLike], *, exif: Exif = "apply") -> list[Result]: ...

    def predict(self, images: ImageLike | Iterable[ImageLike], *, exif: Exif = "apply") -> Result | list[Result]:
        """Predict boxes, a class map or class probabilities for one or several images, in pixels of the original.

        The results equal those of the task's `predict` command. Runs on the CPU, one image at a time, with the stored
        weights: changes to `model` have no effect here.

        Args:
            images: a path, a PIL image, or an array (H, W, 3) or (H, W), uint8, RGB or gray, in 0..255; or several of
                them in a list, a generator or any other iterable. For animations, the first frame of a file is used, or
                the current frame of a PIL image. If the run was trained with `data.channels`: a path, or an array
                (H, W, C) of the type that the run's preprocessing states.
            exif: "apply" turns photographs upright by their EXIF orientation, from files and from PIL; "ignore" keeps
                the pixels as they are stored. Boxes and class maps are in the frame of the result's `image`. Arrays
                are used as they are.

        Returns a `DetectionResult`, `SegmentationResult` or `ClassificationResult`, each with `plot()`; a list of them
        for several images.

        Raises BadInput for a file that cannot be read and for a folder, TypeError for anything that is not an image,
        UserError for another value of `exif`.
        """
        applied = _applies(exif)
        if isinstance(images, Iterable) and not isinstance(images, _SINGLE):
            return [self._predictor.task.result(*self._predict(image, applied)) for image in images]
        return self._predictor.task.result(*self._predict(images, applied))  # type: ignore[arg-type]

    def predict_with_records(self, image: ImageLike, *, exif: Exif = "apply") -> tuple[Result, list[dict[str, Any]]]:
        """As `predict` for one image, with the predictions as the `predict` command writes them to predictions.json.

        The records have the image id 0, and no fields about the file.
        """
        array, predictions = self._predict(image, _applies(exif))
        task = self._predictor.task
        return task.result(array, predictions), task.prediction_records(predictions, 0)

    def decode(self, data: bytes, name: str, *, exif: Exif = "apply", max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """The content of an image file as an array that `predict` takes, read as the training images were.

        Args:
            data: content of the file.
            name: of the file, for messages.
            exif: see `predict`.
            max_pixels: largest number of pixels, read from the header, before memory is allocated.

        Raises BadInput for anything but a complete image of the run's channels with at most `max_pixels`.
        """
        channels = self._predictor.channels
        if channels is None:
            return decode_image(data, name, exif=_applies(exif), levels=self._predictor.levels, max_pixels=max_pixels)
        check_pixels(data, name, max_pixels)
        return upright(channels.decode(data, name), orientation(data) if _applies(exif) else 1)

    def _predict(self, source: ImageLike, exif: bool) -> tuple[np.ndarray, Any]:
        """The image as an array, and the task's predictions."""
        channels = self._predictor.channels
        image = as_array(source, exif, self._predictor.levels) if channels is None else as_bands(source, exif, channels)
        return image, self._predictor(self._predictor.prepare(image))

    @cached_property
    def _predictor(self) -> Predictor:
        task: Task = self._load()  # a second model, since prediction replaces it by a folded copy
        return Predictor(task, torch.device("cpu"))


class Computed(nn.Module):
    """An exported file as a module: normalised images (B, C, H, W) -> the file's outputs."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self._compute = task.computed

    def forward(self, images: Tensor) -> Any:
        outputs = self._compute(images)
        return outputs if len(outputs) > 1 else outputs[0]


def _applies(exif: str) -> bool:
    if exif not in get_args(Exif):
        raise UserError(f"`exif` must be apply or ignore, not {exif!r}")
    return exif == "apply"


# Types of one image, or of one wrong argument: iterating over that would produce a misleading message.
_SINGLE = (str, os.PathLike, Image.Image, np.ndarray, Tensor, bytes, bytearray, dict)


def load_run(path: str | os.PathLike[str]) -> Run:
    """Load the run at `path`: a run folder (its last checkpoint is used), a checkpoint file, an exported file,
    or a run of the Hugging Face Hub, hf://OWNER/NAME.

    Raises BadInput if there is no checkpoint, if it cannot be read, and for weight files of other kinds.
    """
    path = local_checkpoint(os.fspath(path))
    exported = exported_file(path)
    if exported is not None:
        info = open_exported(exported).description.info
        spec = _spec_of(info, path)
        return Run(info, lambda: restore_task(spec, spec.predict_config(checkpoint=str(exported))))
    file = find_checkpoint(path)
    run = run_in(file)
    if run is None:
        raise BadInput(
            f"{file} is not a run's checkpoint. If it is a weight file, build a model with it: "
            f"detection.create_detector(NAME, CLASSES, pretrained={str(file)!r}), "
            "segmentation.create_segmenter, classification.create_classifier or backbones.create_backbone. The command "
            "detection.predict accepts published detectors in effdet's format directly."
        )
    info, state = run
    spec = _spec_of(info, path)
    return Run(info, lambda: spec.load_task().from_run(info, state, spec.predict_config()))


def _spec_of(info: RunInfo, path: str | os.PathLike[str]) -> TaskSpec:
    """The task of a run. Raises BadInput for an unknown one."""
    if info.task == "joint":
        raise BadInput(f"{path} is a run with several heads: load it with experiments.joint.load_run")
    if info.task not in TASKS:
        raise BadInput(f"{path} holds a run of an unknown task, '{info.task}'")
    return TASKS[info.task]


def as_array(image: ImageLike, exif: bool = True, levels: Levels | None = None) -> np.ndarray:
    """An image from a file, from PIL, or as an array -> (H, W, 3) uint8 RGB, upright if `exif`, else as stored.

    `levels` are the 16-bit values that become 0 and 255, see `read_image`.

    Raises BadInput for an image that cannot be read and for a folder, TypeError for anything that is not an image.
    """
    if isinstance(image, (str, os.PathLike)):
        if os.path.isdir(image):
            raise BadInput(
                f"{os.fspath(image)} is a folder: pass a list of its files, such as "
                f"sorted(Path({os.fspath(image)!r}).glob('*.jpg'))"
            )
        return read_image(image, exif=exif, levels=levels)
    if isinstance(image, Image.Image):
        return _from_pil(image, exif, levels)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"{_FORMS}, not {_described(image)}")
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
        raise TypeError(f"{_FORMS}, not an array {image.shape} of {image.dtype}{_remedy(image)}")
    return np.ascontiguousarray(image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2))


def as_bands(image: ImageLike, exif: bool, channels: Channels) -> np.ndarray:
    """An image of other channels than 8-bit RGB, from a file or as an array -> (H, W, C), as training reads it.

    Raises BadInput for an image that cannot be read, TypeError for anything but a path and an array (H, W, C) of the
    type of the training images; (H, W) for one channel.
    """
    if isinstance(image, (str, os.PathLike)):
        return channels.read(image, exif=exif)
    forms = f"an image is a path, or an array (H, W, {channels.count}) of {channels.dtype}, as in the training"
    if not isinstance(image, np.ndarray):
        raise TypeError(f"{forms}, not {_described(image)}")
    array = image[..., None] if image.ndim == 2 else image
    if array.dtype != channels.dtype or array.ndim != 3 or array.shape[2] != channels.count or not array.size:
        raise TypeError(f"{forms}, not an array {image.shape} of {image.dtype}")
    return channels.checked(np.ascontiguousarray(array), "array")


def _from_pil(image: Image.Image, exif: bool, levels: Levels | None) -> np.ndarray:
    """Convert as `read_image` converts the file."""
    name = getattr(image, "filename", "") or f"in mode {image.mode}"
    try:
        tag = image.getexif().get(ORIENTATION) or 1  # before the pixels are loaded: loading a TIFF removes it
        pixels = to_rgb(image, name, levels)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BadInput(f"cannot decode image {name}: {error}") from error
    if image.format == "TIFF":  # Pillow has turned it upright
        return pixels if exif else upright(pixels, {6: 8, 8: 6}.get(tag, tag))
    return upright(pixels, tag) if exif and image.format != "JXL" else pixels


def _described(thing: object) -> str:
    """The type of an object that is not an image, and what to pass instead if that is known."""
    if isinstance(thing, Tensor):
        return (
            f"a tensor {tuple(thing.shape)}. `predict` resizes and normalises images itself; `model` takes tensors of "
            "normalised images (B, 3, H, W)"
        )
    if isinstance(thing, (bytes, bytearray)):
        return "bytes: open them with PIL.Image.open(io.BytesIO(...))"
    return f"{type(thing).__name__}"


def _remedy(array: np.ndarray) -> str:
    """How to turn an array into an image, if its shape or type suggests a way."""
    if array.ndim == 4:
        return ": pass `list(array)` for several images"
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3, 4):
        return ": channels come last, `array.transpose(1, 2, 0)`"
    if array.ndim == 3 and array.shape[2] == 1:
        return ": pass `array[..., 0]` for gray"
    if array.ndim == 3 and array.shape[2] == 4:
        return ": pass `array[..., :3]` to drop alpha"
    if np.issubdtype(array.dtype, np.floating):
        return ": scale its values to 0..255 and call `astype(np.uint8)`"
    return ""
