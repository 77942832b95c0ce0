"""The `predict` command of all tasks."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from rich.progress import Progress

from backbones.errors import BadInput, UserError
from data.batch import Sample
from data.images import read_frames, read_header
from engine.checkpoint import make_folder
from engine.config import PredictConfig
from engine.console import err, log_to_terminal, out
from engine.execution import device_of, execution_for
from engine.image_sources import ImageSource, find_images
from engine.json_stream import JsonStream
from engine.predictor import Predictor
from engine.restore import restore_task
from engine.spec import CommandSpec
from engine.system_errors import cannot_write
from engine.task import Task

AHEAD = 4  # images to read in advance, and pictures that can wait to be written
NAMED = 20  # unreadable images that the last message names

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Frame:
    """One image, or one frame of an animation, ready for the network; or the error of a file.

    Attributes:
        index: index of the file.
        image: as the network's transform takes it, in the frame of the results.
        sample: the network's input.
        output: name of the result files, without suffix.
        fields: what the results state of the image: `file`, `frame`, `exif`, `image_id`.
        error: why the file cannot be read from here on; the other attributes are then empty.
    """

    index: int
    image: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    sample: Sample | None = None
    output: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    error: BadInput | None = None


def predict(spec: CommandSpec, config: PredictConfig) -> None:
    """Predict images. Writes a picture of each, `predictions.json` and `images.json`.

    Raises BadInput at the end if files could not be read. The results of all others are complete.
    """
    log_to_terminal(spec.name)
    device = device_of(config.device)
    execution_for(device.type, config.precision, "predict")  # raises at once for a precision that the device lacks
    sources = find_images(config.images, config.recursive, config.output)
    folders = {Path(source.path).parent for source in sources}
    if Path(config.output).resolve() in {folder.resolve() for folder in folders}:
        raise UserError(
            f"--output {config.output} contains the images, and they would be overwritten: choose another folder"
        )
    task = restore_task(spec, config)
    folder = make_folder(config.output)
    predictor = Predictor(task, device, config.precision)
    skipped: list[dict[str, str]] = []
    done = 0
    with (
        JsonStream(folder / "predictions.json") as records,
        JsonStream(folder / "images.json", "images") as images,
        # Reading and writing run in threads while the network computes: image codecs release Python's global lock.
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(1) as writer,
        Progress(console=err, transient=True) as progress,
    ):
        images.more["skipped"] = skipped
        bar = progress.add_task(f"predicting {len(sources)} images", total=len(sources))
        pending: deque[Future[None]] = deque()
        try:
            for frame in _in_advance(reader, _frames(sources, predictor, config.exif)):
                progress.update(bar, completed=frame.index)
                if frame.sample is None:
                    skipped.append({"file_name": sources[frame.index].name, "reason": str(frame.error)})
                    log.warning("skipped: %s", frame.error)
                    continue
                predictions = predictor(frame.sample)
                for record in task.prediction_records(predictions, frame.fields["image_id"]):
                    records.write(frame.fields | record)
                images.write(_image_record(frame))
                pending.append(writer.submit(_write, task, config, folder / frame.output, predictions, frame.image))
                done += 1
                if len(pending) > AHEAD:
                    pending.popleft().result()
            for future in pending:
                future.result()
        except KeyboardInterrupt as stop:
            are = "image is" if done == 1 else "images are"
            raise KeyboardInterrupt(f"stopped; the results of {done} {are} in {folder}") from stop
    count = f"{done} image{'' if done == 1 else 's'}"
    out.print(f"{count}: {'pictures and ' * config.pictures}predictions.json in {folder}; on {predictor.ran_on}")
    if skipped:
        raise BadInput(_summary(skipped, len(sources), folder))


def _frames(sources: Iterable[ImageSource], predictor: Predictor, exif: str) -> Iterator[_Frame]:
    """The frames of all files in order, and the error of each file that cannot be read.

    Images are numbered from 0, unless they have ids. A file of several frames has a number for each frame, and one that
    cannot be read has one.
    """
    outputs = {source.output.casefold() for source in sources}
    number = 0
    for index, source in enumerate(sources):
        try:
            for frame, image, fields in _numbered(source, predictor, exif):
                image_id = number if source.image_id is None else source.image_id
                output = source.output
                if frame:
                    output = f"{source.output}-{frame:04d}"
                    output = output if output.casefold() not in outputs else f"{source.name}-{frame:04d}"
                sample = predictor.prepare(image, image_id)
                yield _Frame(index, image, sample, output, {"file": source.name, **fields, "image_id": image_id})
                number += 1
        except BadInput as error:
            number += 1
            yield _Frame(index, error=error)


def _numbered(source: ImageSource, predictor: Predictor, exif: str) -> Iterator[tuple[int, np.ndarray, dict[str, Any]]]:
    """Number, pixels and fields of each frame. Frames count from 1; the number of a single image is 0.

    An image of a COCO file is the first frame, since it has one id.
    """
    is_turned, fields = _turned(source, exif)
    if predictor.channels is not None:  # the pages of a file may be its channels
        yield 0, predictor.channels.read(source.path, exif=is_turned), fields
        return
    frames = read_frames(source.path, exif=is_turned, levels=predictor.levels)
    first = next(frames)
    if source.image_id is not None:
        yield 0, first, fields
        return
    error = None
    try:
        second = next(frames, None)
    except BadInput as found:
        second, error = None, found
    if second is None and error is None:
        yield 0, first, fields
        return
    yield 1, first, fields | {"frame": 1}
    if error is not None:
        raise error
    yield 2, second, fields | {"frame": 2}  # type: ignore[misc]
    for frame, image in enumerate(frames, 3):
        yield frame, image, fields | {"frame": frame}


def _turned(source: ImageSource, exif: str) -> tuple[bool, dict[str, Any]]:
    """Whether to turn an image upright, and for one with an EXIF orientation the field that says so."""
    header = None
    with suppress(BadInput):  # raised again, with the cause, by the reader of the pixels
        header = read_header(source.path)
    if header is None or header.orientation == 1:
        return False, {}
    stored = (header.width, header.height)
    upright = stored[::-1] if header.orientation >= 5 else stored
    listed_as_stored = source.size == stored != upright
    is_turned = exif == "apply" or (exif == "auto" and not listed_as_stored)
    return is_turned, {"exif": "applied" if is_turned else "ignored"}


def _image_record(frame: _Frame) -> dict[str, Any]:
    """The image in COCO's format, with the fields that predictions have."""
    fields = frame.fields.copy()
    height, width = frame.image.shape[:2]
    named = {"id": fields.pop("image_id"), "file_name": fields.pop("file"), "width": width, "height": height}
    return named | fields


def _write(task: Task, config: PredictConfig, path: Path, predictions: Any, image: np.ndarray) -> None:
    """Write the files of one image. `path` has no suffix."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if config.pictures:
            Image.fromarray(task.picture(image, predictions, config=config)).save(f"{path}.jpg", quality=92)
        task.save(predictions, path)
    except OSError as error:
        raise cannot_write(f"the results {path}", error) from error


def _summary(skipped: list[dict[str, str]], total: int, folder: Path) -> str:
    """The message about files that could not be read."""
    names = ", ".join(image["file_name"] for image in skipped[:NAMED])
    more = f" and {len(skipped) - NAMED} more, which images.json lists" if len(skipped) > NAMED else ""
    if len(skipped) == total:
        return f"none of the {total} image files could be read: {names}{more}" if total > 1 else skipped[0]["reason"]
    return f"{len(skipped)} of {total} image files could not be read: {names}{more}. All others are in {folder}."


def _in_advance(pool: ThreadPoolExecutor, items: Iterator[T]) -> Iterator[T]:
    """The items in order. The pool, of one thread, computes up to `AHEAD` of them in advance."""
    end = object()
    pending: deque[Future[Any]] = deque(pool.submit(next, items, end) for _ in range(AHEAD))
    while (item := pending.popleft().result()) is not end:
        pending.append(pool.submit(next, items, end))
        yield item
