"""The images that a finished run was scored on, read again to draw them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.batch import Sample
from data.open import read_scored
from data.reader import ImageReader
from engine.config import TrainConfig
from engine.image_results import ImageResults

CHUNK = 256  # images to score at once


def scored_images(kind: type[ImageReader], record: dict[str, Any], config: TrainConfig) -> Any:
    """The images that the run with this record and these settings was scored on, without a transform.

    Raises BadInput if they are absent or damaged.
    """
    options = kind.options.of(config.data)
    with _training_has_warned():
        columns = read_scored(kind.kind, Path(record["dataset"]["root"]), options, config.data.holdout, config.seed)
        return kind(columns, None, config.data.skip_bad, options)


def pictures_of(
    run: Path, dataset: ImageReader, wanted: dict[str, int], draw: Callable[[str, Sample], np.ndarray]
) -> dict[str, np.ndarray]:
    """Pictures (H, W, 3) uint8 RGB by key: those in the run folder, and drawn ones for the other images.

    Args:
        run: a run folder.
        dataset: its scored images.
        wanted: key -> index of each image.
        draw: key and image -> the picture.
    """
    drawn = {path.stem: path for path in sorted((run / "pictures").glob("*.jpg"))}
    found = {}
    for key, index in wanted.items():
        # As `Task.picture_indices` names them: by index, or by place and name of the image.
        name = re.compile(rf"[a-z]+-{index:05d}|[a-z]+-\d+-{re.escape(Path(dataset.path(index)).stem)}")
        path = next((path for stem, path in drawn.items() if name.fullmatch(stem)), None)
        if path is None:
            found[key] = draw(key, dataset[index])
            continue
        with Image.open(path) as picture:
            found[key] = np.asarray(picture.convert("RGB"))
    return found


def scores_of_images(results: ImageResults) -> dict[str, float]:
    """The metric of each image alone, by key; NaN where it is undefined."""
    count = len(results.keys)
    scores = [
        results.score((np.arange(start, min(start + CHUNK, count))[:, None] == np.arange(count)).astype(np.int64))
        for start in range(0, count, CHUNK)
    ]
    return dict(zip(results.keys, np.concatenate(scores).tolist(), strict=True)) if count else {}


def positions(names: Sequence[str], keys: Sequence[str]) -> dict[str, int]:
    """Key -> position of each of `keys` among `names`; unknown keys are left out."""
    index = {name: i for i, name in enumerate(names)}
    return {key: index[key] for key in keys if key in index}


@contextmanager
def _training_has_warned() -> Iterator[None]:
    """Silence warnings about the data: the training printed them."""
    logger = logging.getLogger("data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
