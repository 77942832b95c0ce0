"""The types that connect data sets and networks: `Draw` -> `Sample` -> `Batch`.

Coordinate frames: *original* pixels are the pixels of the stored file. *Network* pixels are the pixels of the network's
input. A letterboxed image is placed at the top left, so `original = network / scale`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from backbones.base import CachedFeatures

IGNORE = 255  # mask value of pixels without a class, such as padding


class Draw(NamedTuple):
    """A request for one training sample: index of the image, seed of its augmentation, and epoch (from 0).

    If an epoch draws an image again, the epoch of that draw is higher, so that its cached augmentation differs.
    """

    index: int  # type: ignore[assignment]  # replaces tuple.index, which nobody calls on a Draw
    seed: int
    epoch: int = 0


@dataclass
class Sample:
    """One image with its labels.

    image: (H, W, 3) uint8 RGB; or (H, W, C) uint8, uint16 or float32 with `data.channels`; or the backbone's features
        of the image, see `data.cached_features`.
    size: (height, width) of the original image.
    scale: (x, y), network pixels per original pixel.
    boxes: (N, 4) float32, x1 y1 x2 y2 in network pixels.
    labels: (N,) int64, contiguous class indices.
    mask: (H, W) uint8 class map, or None.
    readable: False for the black image that replaces an unreadable one in evaluation, see `ImageReader`.
    complete: (K,) bool, see `BoxColumns.complete`, or None.
    """

    image: np.ndarray
    image_id: int
    size: tuple[int, int]
    scale: tuple[float, float]
    boxes: np.ndarray
    labels: np.ndarray
    mask: np.ndarray | None = None
    readable: bool = True
    complete: np.ndarray | None = None


@dataclass
class Batch:
    """Stacked samples of equal size. B is the number of images, M the largest number of boxes in an image.

    images: (B, 3, H, W) uint8 RGB, or (B, C, H, W) with `data.channels`, channels-last in memory; or the backbone's
        features of the images.
    image_ids: (B,) int64.
    sizes: (B, 2) int64, original (height, width).
    scales: (B, 2) float32, network pixels per original pixel, (x, y).
    boxes: (B, M, 4) float32, x1 y1 x2 y2 in network pixels; padding rows are zero.
    labels: (B, M) int64; -1 in padding rows.
    readable: (B,) bool, see `Sample`.
    masks: (B, H, W) uint8 class maps, or None. Smaller masks are padded with 255 (no class) at the right and bottom.
    complete: (B, K) bool, see `BoxColumns.complete`, or None; (B, heads, K) in a group of a joint network.
    """

    images: Tensor
    image_ids: Tensor
    sizes: Tensor
    scales: Tensor
    boxes: Tensor
    labels: Tensor
    readable: Tensor
    masks: Tensor | None = None
    complete: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, images: slice) -> Batch:
        """A batch of the images in the slice. It shares memory with this one."""
        return self._map(lambda value: value[images])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on `device`."""
        return self._map(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, so that copies to a GPU can run asynchronously. Needs CUDA."""
        return self._map(lambda value: value.pin_memory())

    def share_memory(self) -> Batch:
        """The same batch in memory that other processes can read. Raises RuntimeError if that is full."""
        return self._map(lambda value: value.share_memory_())

    def _map(self, move: Callable[[Any], Any]) -> Batch:
        present = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        return Batch(**{name: move(tensor) for name, tensor in present.items()})


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples and pad their boxes to the largest count.

    Raises `ValueError` if there are no samples, if images differ in size, or if only some samples have a mask or
    `complete`.
    """
    longest = max(len(sample.boxes) for sample in samples)
    boxes = np.zeros((len(samples), longest, 4), np.float32)
    labels = np.full((len(samples), longest), -1, np.int64)
    for row, sample in enumerate(samples):
        boxes[row, : len(sample.boxes)] = sample.boxes
        labels[row, : len(sample.labels)] = sample.labels
    masks = [sample.mask for sample in samples if sample.mask is not None]
    if masks and len(masks) < len(samples):
        raise ValueError(f"{len(masks)} of {len(samples)} samples have a mask; expected all or none")
    complete = [sample.complete for sample in samples if sample.complete is not None]
    if complete and len(complete) < len(samples):
        raise ValueError(f"{len(complete)} of {len(samples)} samples have `complete`; expected all or none")
    return Batch(
        images=_images([sample.image for sample in samples]),
        image_ids=torch.tensor([sample.image_id for sample in samples]),
        sizes=torch.tensor([sample.size for sample in samples]),
        scales=torch.tensor([sample.scale for sample in samples], dtype=torch.float32),
        boxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(labels),
        readable=torch.tensor([sample.readable for sample in samples]),
        masks=torch.from_numpy(_stacked(masks)) if masks else None,
        complete=torch.from_numpy(np.stack(complete)) if complete else None,
    )


def _images(images: Sequence[Any]) -> Any:
    """Stacked pixels or feature maps. A permuted view of (B, H, W, C) is channels-last, so no second copy is needed."""
    features = [image for image in images if isinstance(image, CachedFeatures)]
    if not features:
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    stacked = [torch.stack(maps) for maps in zip(*(image.maps for image in features), strict=True)]
    return CachedFeatures([x.permute(0, 3, 1, 2) if x.ndim == 4 else x for x in stacked], features[0].size)


def _stacked(masks: Sequence[np.ndarray]) -> np.ndarray:
    """(B, H, W) uint8. Masks in original pixels may differ in size; each is placed at the top left."""
    height, width = np.max([mask.shape for mask in masks], axis=0)
    stacked = np.full((len(masks), height, width), IGNORE, np.uint8)
    for row, mask in zip(stacked, masks, strict=True):
        row[: mask.shape[0], : mask.shape[1]] = mask
    return stacked


def normalise(
    images: Tensor, mean: Sequence[float], std: Sequence[float], limits: tuple[float, float] = (0, 255)
) -> Tensor:
    """(B, C, H, W) -> float32 `(y - mean) / std`, channels-last, on the device of `images`.

    y are the values of `images`, scaled so that `limits` become 0 and 1. `mean` and `std` have one value per channel.
    """
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), tuple(limits), images.device)
    pixels = images.to(torch.float32, memory_format=torch.channels_last)
    return torch.addcmul(shift, pixels, scale)


@lru_cache(maxsize=16)  # because a copy from the host to a GPU waits for it
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], limits: tuple[float, float], device: torch.device
) -> tuple[Tensor, Tensor]:
    """(1, C, 1, 1) factor and summand of `normalise`."""
    low, high = limits
    offset = low / (high - low)
    scale = [1 / ((high - low) * s) for s in std]
    shift = [-(m + offset) / s for m, s in zip(mean, std, strict=True)]
    with torch.inference_mode(False):  # tensors created in inference mode cannot be used in training
        factor, summand = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (scale, shift))
    return factor, summand
