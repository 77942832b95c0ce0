"""Features of a frozen backbone for the images of a data set: computed once, cached on disk, read instead of images.

A folder holds one file per map. Its rows are in the order of the images, then of the augmentations of each, channels
last; `masks.bin`, all masks one after the other; `labels.npz`, what else a sample has; and `complete.json`.
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
from data.loader import Source, draw_seed

MARKER = "complete.json"
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


class Augmentations:
    """Each image of a source in `augmentations` forms, those of the first epochs; 0 for one form, as in evaluation."""

    def __init__(self, source: Source, augmentations: int, seed: int) -> None:
        self.source, self.augmentations, self.seed = source, augmentations, seed

    def __len__(self) -> int:
        return len(self.source) * max(1, self.augmentations)

    def __getitem__(self, row: Any) -> Sample:
        if not self.augmentations:
            return self.source[row]
        index, view = divmod(row, self.augmentations)
        return self.source[Draw(index, draw_seed(self.seed, view, index))]


class CachedDataset:
    """Samples with `CachedFeatures` for the image: `dataset[index]` for evaluation, `dataset[Draw]` for training.

    Epochs take the augmentations in turn: as many as there are augmentations see what they would have seen without.

    Args:
        folder: that `cache_features` filled.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        told = json.loads((folder / MARKER).read_text())
        self.augmentations, self.size, rows = told["augmentations"], tuple(told["size"]), told["rows"]
        self._dtypes = [getattr(torch, dtype) for dtype, _ in told["maps"]]
        self._maps = [
            _mapped(folder / f"map{i}.bin", (rows, *shape[:-1], shape[-1] * dtype.itemsize))
            for i, (dtype, (_, shape)) in enumerate(zip(self._dtypes, told["maps"], strict=True))
        ]
        with np.load(folder / "labels.npz") as file:
            self._labels = dict(file)
        self._first_box = np.append(0, self._labels["boxes_of"].cumsum())
        areas = self._labels["mask_sizes"].prod(1)
        self._first_pixel = np.append(0, areas.cumsum())
        self._masks = _mapped(folder / "masks.bin", (int(areas.sum()),)) if areas.any() else None

    def __reduce__(self) -> tuple[type[CachedDataset], tuple[Path]]:
        """Open the files again in a spawned worker: a mapped file would be sent there as a copy of its content."""
        return CachedDataset, (self._folder,)

    def __len__(self) -> int:
        return len(self._maps[0]) // max(1, self.augmentations)

    def __getitem__(self, draw: int | Draw) -> Sample:
        index, epoch = (draw.index, draw.epoch) if isinstance(draw, Draw) else (int(draw), 0)
        row = index * self.augmentations + epoch % self.augmentations if self.augmentations else index
        of = self._labels
        boxes = slice(self._first_box[row], self._first_box[row + 1])
        pixels = slice(self._first_pixel[row], self._first_pixel[row + 1])
        height, width = of["sizes"][row].tolist()
        return Sample(
            image=CachedFeatures([self._map(i, row) for i in range(len(self._maps))], self.size),  # type: ignore[arg-type]  # see Sample.image
            image_id=int(of["image_ids"][row]),
            size=(height, width),
            scale=tuple(of["scales"][row].tolist()),
            boxes=of["boxes"][boxes],
            labels=of["labels"][boxes],
            mask=None if self._masks is None else np.array(self._masks[pixels]).reshape(of["mask_sizes"][row]),
            readable=bool(of["readable"][row]),
        )

    def _map(self, number: int, row: int) -> Tensor:
        return torch.from_numpy(np.array(self._maps[number][row])).view(self._dtypes[number])


def cache_features(
    folder: Path, batches: Iterator[tuple[Batch, CachedFeatures]], rows: int, augmentations: int
) -> CachedDataset:
    """The features in `folder`, filled first where it has none yet.

    Args:
        folder: named after all that the features depend on.
        batches: of all rows, in order, as they are and as the backbone sees them; asked for only if need be.
        rows: how many there are: images, or images times augmentations.
        augmentations: see `Augmentations`.

    Raises BadInput where there is no room for them.
    """
    try:
        create_once(
            folder, MARKER, lambda place: _write(place, batches, rows, augmentations), "computing the same features"
        )
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise BadInput(f"cannot write features to {folder}: {error.strerror or error}. {_remedy()}") from error
    return CachedDataset(folder)


def _write(folder: Path, batches: Iterator[tuple[Batch, CachedFeatures]], rows: int, augmentations: int) -> None:
    """Write everything, as far as the disk has room. Plain writes: a full disk kills what writes to mapped memory."""
    labels: dict[str, list[np.ndarray]] = {}
    described: list[tuple[str, list[int]]] = []
    size = (0, 0)
    with ExitStack() as files:
        masks = files.enter_context((folder / "masks.bin").open("wb"))
        maps: list[IO[bytes]] = []
        for batch, kept in batches:
            values = [x.permute(0, 2, 3, 1) if x.ndim == 4 else x for x in kept.maps]
            if not maps:
                size = kept.size
                described = [(str(x.dtype).removeprefix("torch."), list(x.shape[1:])) for x in values]
                _check_room(folder, rows * sum(x[0].numel() * x.element_size() for x in values))
                maps = [files.enter_context((folder / f"map{i}.bin").open("wb")) for i in range(len(values))]
            for file, x in zip(maps, values, strict=True):
                file.write(_bytes(x))
            for name, value in _labels(batch, masks, in_original_pixels=not augmentations).items():
                labels.setdefault(name, []).append(value)
    whole: dict[str, Any] = {name: np.concatenate(values) for name, values in labels.items()}
    np.savez(folder / "labels.npz", **whole)
    told = {"rows": rows, "augmentations": augmentations, "size": size, "maps": described}
    (folder / MARKER).write_text(json.dumps(told))


def _labels(batch: Batch, masks: IO[bytes], in_original_pixels: bool) -> dict[str, np.ndarray]:
    """What samples have besides images, undone of the batch's padding; writes the masks."""
    present = batch.labels >= 0
    mask_sizes = np.zeros((len(batch), 2), np.int64)
    if batch.masks is not None:
        mask_sizes[:] = batch.sizes if in_original_pixels else batch.masks.shape[1:]
        for mask, (height, width) in zip(batch.masks, mask_sizes, strict=True):
            masks.write(_bytes(mask[:height, :width].to(torch.uint8)))
    return {
        "image_ids": batch.image_ids.numpy(),
        "sizes": batch.sizes.numpy(),
        "scales": batch.scales.numpy(),
        "readable": batch.readable.numpy(),
        "boxes": batch.boxes[present].numpy(),
        "labels": batch.labels[present].numpy(),
        "boxes_of": present.sum(1).numpy(),
        "mask_sizes": mask_sizes,
    }


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BadInput(
            f"features take {needed / 1e9:.1f} GB, and {folder.parent} has room for {free / 1e9:.1f} GB. {_remedy()}"
        )


def _remedy() -> str:
    return f"Set {CACHE_VARIABLE} to a folder with room, or lower --data.cached_augmentations; 0 does without."


def _bytes(x: Tensor) -> memoryview:
    return x.contiguous().cpu().view(-1).view(torch.uint8).numpy().data


def _mapped(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The bytes of a file, for reading alone: what may be written to has to fit into memory, however it is used."""
    return np.memmap(file, np.uint8, "r", shape=shape)
