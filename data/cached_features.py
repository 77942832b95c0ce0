"""Features of a frozen backbone, cached: computed once for each image, stored on disk, and read instead of the images.

For images with one class each. Detection and segmentation spend most of a training in neck and head, so that cached
features save little time there: docs/guides/frozen.md has the measurement.

A folder holds these files. A row is one augmentation of one image; rows are ordered by image, then by augmentation.
    map0.bin, map1.bin, ...   the feature maps of each level, channels last, one row after the other
    labels.npz                the other fields of the samples
    complete.json             number of rows, augmentations, image size, and dtype and shape of each map
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from backbones.base import CachedFeatures
from backbones.errors import BadInput
from data.atomic_directory import CACHE_VARIABLE, create_once
from data.batch import Batch, Draw, Sample
from data.loader import Source
from data.sampling import draw_seed

MARKER = "complete.json"
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


class Augmentations:
    """The samples to cache: each image in `augmentations` forms, which are those of the first epochs.

    Row r is of image r // augmentations. With `augmentations=0` each image occurs once, as in evaluation.
    """

    def __init__(self, source: Source, augmentations: int, seed: int) -> None:
        self.source, self.augmentations, self.seed = source, augmentations, seed

    def __len__(self) -> int:
        return len(self.source) * max(1, self.augmentations)

    def __getitem__(self, row: Any) -> Sample:
        if not self.augmentations:
            return self.source[row]
        index, epoch = divmod(row, self.augmentations)
        return self.source[Draw(index, draw_seed(self.seed, epoch, index))]


class CachedDataset:
    """Samples whose image is `CachedFeatures`: `dataset[index]` for evaluation, `dataset[Draw]` for training.

    Epoch e uses augmentation e modulo the number of augmentations. The first epochs therefore equal those without a
    cache.

    Args:
        folder: a folder written by `cache_features`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        layout = json.loads((folder / MARKER).read_text())
        self.augmentations, self.size, rows = layout["augmentations"], tuple(layout["size"]), layout["rows"]
        self._dtypes = [getattr(torch, dtype) for dtype, _ in layout["maps"]]
        self._maps = [
            _mapped(folder / f"map{i}.bin", (rows, *shape[:-1], shape[-1] * dtype.itemsize))
            for i, (dtype, (_, shape)) in enumerate(zip(self._dtypes, layout["maps"], strict=True))
        ]
        with np.load(folder / "labels.npz") as file:
            self._labels = dict(file)

    def __reduce__(self) -> tuple[type[CachedDataset], tuple[Path]]:
        """Open the files again in a spawned worker: a mapped file would be sent there as a copy of its content."""
        return CachedDataset, (self._folder,)

    def __len__(self) -> int:
        return len(self._maps[0]) // max(1, self.augmentations)

    def __getitem__(self, draw: int | Draw) -> Sample:
        index, epoch = (draw.index, draw.epoch) if isinstance(draw, Draw) else (int(draw), 0)
        row = index * self.augmentations + epoch % self.augmentations if self.augmentations else index
        labels = self._labels
        height, width = labels["sizes"][row].tolist()
        return Sample(
            image=CachedFeatures([self._map(i, row) for i in range(len(self._maps))], self.size),  # type: ignore[arg-type]  # see Sample.image
            image_id=int(labels["image_ids"][row]),
            size=(height, width),
            scale=tuple(labels["scales"][row].tolist()),
            boxes=np.zeros((1, 4), np.float32),
            labels=labels["labels"][row],
            readable=bool(labels["readable"][row]),
        )

    def _map(self, number: int, row: int) -> Tensor:
        return torch.from_numpy(np.array(self._maps[number][row])).view(self._dtypes[number])


def cache_features(
    folder: Path, batches: Iterator[tuple[Batch, CachedFeatures]], rows: int, augmentations: int
) -> CachedDataset:
    """The features in `folder`. If there are none yet, they are computed and stored first.

    Args:
        folder: its name must depend on everything that the features depend on.
        batches: batches of all rows in order, each with its features. Not consumed if the folder is complete.
        rows: number of rows: images, or images times augmentations.
        augmentations: see `Augmentations`.

    Raises BadInput if the disk has no room or the folder cannot be written.
    """
    try:
        create_once(
            folder, MARKER, lambda new: _write(new, batches, rows, augmentations), "computing the same features"
        )
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise _no_room(f"cannot write features to {folder}: {error.strerror or error}") from error
    return CachedDataset(folder)


def _write(folder: Path, batches: Iterator[tuple[Batch, CachedFeatures]], rows: int, augmentations: int) -> None:
    """Write all files. Written, not memory-mapped: on a full disk, writing to mapped memory kills the process."""
    labels: dict[str, list[np.ndarray]] = {}
    map_layouts: list[tuple[str, list[int]]] = []
    size = (0, 0)
    with ExitStack() as files:
        maps: list[IO[bytes]] = []
        for batch, features in batches:
            values = [x.permute(0, 2, 3, 1) if x.ndim == 4 else x for x in features.maps]
            if not maps:
                size = features.size
                map_layouts = [(str(x.dtype).removeprefix("torch."), list(x.shape[1:])) for x in values]
                _check_room(folder, rows * sum(x[0].numel() * x.element_size() for x in values))
                maps = [files.enter_context((folder / f"map{i}.bin").open("wb")) for i in range(len(values))]
            for file, x in zip(maps, values, strict=True):
                file.write(_bytes(x))
            for name, value in _labels(batch).items():
                labels.setdefault(name, []).append(value)
    columns: dict[str, Any] = {name: np.concatenate(values) for name, values in labels.items()}
    np.savez(folder / "labels.npz", **columns)
    layout = {"rows": rows, "augmentations": augmentations, "size": size, "maps": map_layouts}
    (folder / MARKER).write_text(json.dumps(layout))


def _labels(batch: Batch) -> dict[str, np.ndarray]:
    """The fields of the samples besides the images."""
    return {
        "image_ids": batch.image_ids.numpy(),
        "sizes": batch.sizes.numpy(),
        "scales": batch.scales.numpy(),
        "readable": batch.readable.numpy(),
        "labels": batch.labels.numpy(),
    }


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise _no_room(f"features take {needed / 1e9:.1f} GB, but {folder.parent} has room for {free / 1e9:.1f} GB")


def _no_room(cause: str) -> BadInput:
    return BadInput(
        f"{cause}. Set {CACHE_VARIABLE} to a folder with room, or lower `cached_augmentations`; 0 caches nothing.",
        settings=("data.cached_augmentations",),
    )


def _bytes(x: Tensor) -> memoryview:
    return x.contiguous().cpu().view(-1).view(torch.uint8).numpy().data


def _mapped(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The bytes of a file, mapped read-only. A writable private mapping would count against the memory limit."""
    return np.memmap(file, np.uint8, "r", shape=shape)
