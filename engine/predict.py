"""The `predict` command of all tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from rich.progress import track

from backbones.errors import BadInput, UserError
from data.batch import Sample
from data.images import read_image
from engine.checkpoint import make_folder
from engine.config import PredictConfig
from engine.console import err, log_to_terminal, out
from engine.execution import execution_for
from engine.predictor import Predictor
from engine.record import write_json
from engine.restore import restore_task
from engine.spec import TaskSpec
from engine.trainer import device_of

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
AHEAD = 4  # images to read in advance, and pictures that can wait to be written

T = TypeVar("T")


def predict(spec: TaskSpec, config: PredictConfig) -> None:
    """Predict one image or a folder of images. Writes a picture of each and `predictions.json`."""
    log_to_terminal(spec.name)
    device = device_of(config.device)
    execution_for(device.type, config.precision, "predict")  # raises at once for a precision that the device lacks
    files = image_files(config.images)
    task = restore_task(spec, config)
    folder = make_folder(config.output)
    if folder.resolve() in {file.parent.resolve() for file in files}:
        raise UserError(f"--output {folder} contains the images, and they would be overwritten: choose another folder")
    predictor = Predictor(task, device, config.precision)

    def read(number: int) -> tuple[np.ndarray, Sample]:
        image = read_image(files[number])
        return image, predictor.prepare(image, number)

    def write(predictions: Any, image: np.ndarray, name: str) -> None:
        if config.pictures:
            picture = Image.fromarray(task.picture(image, predictions, config=config))
            picture.save(folder / f"{name}.jpg", quality=92)
        task.save(predictions, folder / name)

    records: list[dict[str, Any]] = []
    # Reading and writing run in threads while the network computes: image codecs release Python's global lock.
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        numbers = track(range(len(files)), f"predicting {len(files)} images", console=err, transient=True)
        pending: deque[Future[None]] = deque()
        for number, (image, sample) in zip(numbers, _in_advance(reader, read, len(files)), strict=True):
            predictions = predictor(sample)
            image_records = task.prediction_records(predictions, number)
            records += [{"file": files[number].name, **record} for record in image_records]
            pending.append(writer.submit(write, predictions, image, files[number].stem))
            if len(pending) > AHEAD:
                pending.popleft().result()
        for future in pending:
            future.result()
    write_json(folder / "predictions.json", records)
    pictures = f"{len(files)} pictures and " if config.pictures else ""
    out.print(f"{pictures}predictions.json in {folder}; on {device} ({predictor.execution})")


def image_files(path: str) -> list[Path]:
    """The image file `path`, or the image files in the folder `path`, sorted by name.

    Raises UserError if `path` is empty, BadInput if it does not exist or contains no images.
    """
    if not path:
        raise UserError("--images FILE_OR_FOLDER is required")
    place = Path(path)
    if place.is_file():
        return [place]
    files = sorted(p for p in place.glob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if place.is_dir() else []
    if not files:
        problem = "contains no images" if place.is_dir() else "does not exist"
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise BadInput(f"--images {path} {problem}: it must be an image, or a folder of {suffixes} files")
    return files


def _in_advance(pool: ThreadPoolExecutor, work: Callable[[int], T], count: int) -> Iterator[T]:
    """`work(0)`, `work(1)`, ... `work(count - 1)`, in order. The pool computes up to `AHEAD` of them in advance."""
    pending: deque[Future[T]] = deque(pool.submit(work, number) for number in range(min(AHEAD, count)))
    for number in range(AHEAD, count + AHEAD):
        result = pending.popleft().result()
        if number < count:
            pending.append(pool.submit(work, number))
        yield result
        if not pending:
            return
