"""The runs of a server, and what they predict for one photo."""

from __future__ import annotations

import base64
import io
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from backbones.errors import BadInput
from data.channels import Channels
from data.image_header import read_header
from engine.record import plain
from experiments.runs import load_run

SIDE = 1024  # px: longer side of the pictures that the page shows
QUALITY = 85  # of their JPEG files
BLANK = 480, 640  # height and width in px of the first image, which is predicted before the server starts


class Runs:
    """Loaded runs, ready to predict on the CPU.

    Args:
        paths: run folders or checkpoint files.
        exif: "apply" turns photographs upright by their EXIF orientation, "ignore" does not.
        max_pixels: largest number of pixels of an image.

    Raises BadInput if a run cannot be loaded.
    """

    def __init__(self, paths: Sequence[str], exif: Literal["apply", "ignore"], max_pixels: int) -> None:
        self.exif, self.max_pixels = exif, max_pixels
        self.runs = dict(zip(_names(paths), map(load_run, paths), strict=True))
        for run in self.runs.values():  # the first prediction folds the network, so it takes longer
            channels = Channels.stored(run.preprocessing)
            run.predict(np.zeros((*BLANK, 3), np.uint8) if channels is None else channels.blank(*BLANK))

    def describe(self) -> list[dict[str, Any]]:
        """Name, task, backbone, input size (height, width) in px and class names of each run.

        Detectors also have the `category_ids` of the classes, which their predictions refer to.
        """
        return [
            {
                "name": name,
                "task": run.info.task,
                "backbone": run.info.config["backbone"],
                "size": list(run.preprocessing["size"]),
                "classes": list(run.classes),
                **{key: value for key, value in run.info.extra.items() if key == "category_ids"},
            }
            for name, run in self.runs.items()
        ]

    def answer(self, data: bytes, file_name: str, pictures: bool) -> dict[str, Any]:
        """The predictions of all runs for an image file, as plain values.

        `image` is the image as in images.json of `predict`. `runs` has for each run its `name` and `task`, the
        `milliseconds` from the decoded image to the predictions, the `predictions` as in predictions.json, and `text`,
        the same as lines for people; or the `error` of a run that cannot read this image. With `pictures`, `picture` is
        the image with the predictions drawn on it, a JPEG file as a data: address.

        Args:
            data: content of the file.
            file_name: for the results.
            pictures: whether to draw the predictions.

        Raises BadInput if no run can read the image.
        """
        fields = {"file": file_name, **self._turned(data)}
        answers, sizes, errors = [], [], []
        for name, run in self.runs.items():
            answer: dict[str, Any] = {"name": name, "task": run.info.task}
            answers.append(answer)
            try:
                image = run.decode(data, file_name, exif=self.exif, max_pixels=self.max_pixels)
                start = time.perf_counter()
                result, records = run.predict_with_records(image)
            except BadInput as error:
                errors.append(error)
                answer["error"] = str(error)
                continue
            answer["milliseconds"] = round(1000 * (time.perf_counter() - start), 1)
            answer["text"] = [line.strip() for line in repr(result).splitlines()]
            answer["predictions"] = [{**fields, "image_id": 0, **record} for record in records]
            sizes.append(image.shape)
            if pictures:
                answer["picture"] = _data_uri(result.shrunk(SIDE).plot())
        if not sizes:
            raise errors[0]
        height, width = sizes[0][:2]
        named = {"id": 0, "file_name": file_name, "width": width, "height": height, **self._turned(data)}
        return plain({"image": named, "runs": answers})

    def _turned(self, data: bytes) -> dict[str, str]:
        """For a photograph with an EXIF orientation, the field that states whether it was applied."""
        try:
            is_upright = read_header(data).orientation == 1
        except BadInput:
            return {}
        return {} if is_upright else {"exif": "applied" if self.exif == "apply" else "ignored"}


def _names(paths: Sequence[str]) -> list[str]:
    """A name for each run: the last folder of its path, or the whole path where several would have the same name."""
    short = [Path(path).resolve().name for path in paths]
    counts, whole = Counter(short), Counter(paths)
    repeated = next((path for path in paths if whole[path] > 1), None)
    if repeated is not None:
        raise BadInput(f"`runs` has {repeated} more than once", settings=("runs",))
    return [name if counts[name] == 1 else path for name, path in zip(short, paths, strict=True)]


def _data_uri(picture: Image.Image) -> str:
    picture.thumbnail((2 * SIDE, 2 * SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
