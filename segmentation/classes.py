"""Compare the classes of a model with those of a data set, and count the pixels of each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich.progress import track
from scipy.sparse import csr_array, vstack

from backbones.errors import BadInput
from data.batch import IGNORE
from data.formats.masks import MaskFolders
from engine.console import err


def check_same_classes(model: Sequence[str], data: Sequence[str], root: Path) -> None:
    """Raise BadInput unless the data in the folder `root` has the model's classes, in the same order."""
    if list(data) == list(model):
        return
    pairs = enumerate(zip(model, data, strict=False))
    shorter = min(len(model), len(data))
    difference = next(
        (f"class {i} is '{a}' in the model and '{b}' in the data" for i, (a, b) in pairs if a != b),
        f"only one of them has a class {shorter}",
    )
    raise BadInput(
        f"the model has {len(model)} classes and the data in {root} has {len(data)}, and they differ: {difference}. "
        "Both must have the same classes in the same order."
    )


def pixel_counts(dataset: MaskFolders) -> csr_array:
    """(N, K) number of pixels of each class in each image. Reads all masks, in threads.

    Raises BadInput for a mask that cannot be read, unless `skip_bad` allows it: it then has no pixels.
    """
    classes = len(dataset.classes)

    def counts(index: int) -> csr_array:
        try:
            mask = dataset.mask(index)
        except BadInput:
            if not dataset.skip_bad:
                raise
            return csr_array((1, classes), dtype=np.int64)
        return csr_array(np.bincount(mask[mask != IGNORE], minlength=classes)[None])

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        rows = threads.map(counts, range(len(dataset)))
        text = f"counting the pixels of {len(dataset)} masks"
        return vstack(list(track(rows, text, len(dataset), console=err, transient=True)), format="csr")
