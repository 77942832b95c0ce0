"""Count the pixels of each class."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from rich.progress import track
from scipy.sparse import csr_array, vstack

from backbones.errors import BadInput
from data.batch import IGNORE
from data.mask_dataset import MaskDataset
from engine.console import err


def pixel_counts(dataset: MaskDataset) -> csr_array:
    """(N, K) number of pixels of each class in each image. Reads all masks, in threads.

    Raises BadInput for a mask that cannot be read, unless `skip_bad` allows it: it then has no pixels.
    """
    classes = len(dataset.classes)

    def counts(index: int) -> csr_array:
        try:
            mask = dataset.columns.class_map(index)
        except BadInput:
            if not dataset.skip_bad:
                raise
            return csr_array((1, classes), dtype=np.int64)
        return csr_array(np.bincount(mask[mask != IGNORE], minlength=classes)[None])

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        rows = threads.map(counts, range(len(dataset)))
        text = f"counting the pixels of {len(dataset)} masks"
        return vstack(list(track(rows, text, len(dataset), console=err, transient=True)), format="csr")
