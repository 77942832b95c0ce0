"""Heads that train on the same photographs form a group: one augmentation and one pass serve all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones.errors import BadInput, UserError
from data.batch import IGNORE, Batch, Draw, Sample
from data.protocols import Transform
from data.reader import ImageReader

# A sample of several heads is an ordinary `Sample`. Its labels are BASE * (number of the head) + label, and each head
# that has labels for the image adds a row without a box: that of a classifier has the class, all others MARK. Its
# `complete`, if it has any, is (heads, largest K).
BASE = 1 << 20
MARK = BASE - 1


def group_heads(
    train: Mapping[str, ImageReader], kinds: Mapping[str, str], together: list[str] | None
) -> list[list[str]]:
    """The heads of each group, in order.

    Args:
        train: training images of each head.
        kinds: task of each head.
        together: names of the heads of one group; ["none"] for groups of one head; None for groups of heads whose
            images have the same names and sizes.

    A group has at most one segmentation head, because a sample has one mask.
    """
    groups: list[list[str]] = []
    for name in train:
        for group in groups:
            masks = [other for other in (*group, name) if kinds[other] == "segmentation"]
            if len(masks) <= 1 and _belongs(train[group[0]], train[name], group[0], name, together):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _belongs(first: ImageReader, other: ImageReader, name: str, other_name: str, together: list[str] | None) -> bool:
    if together is not None:
        return name in together and other_name in together
    ours, theirs = first.digests, other.digests
    return ours["names"] == theirs["names"] and ours["sizes"] == theirs["sizes"]


def leader(group: Sequence[str], kinds: Mapping[str, str]) -> str:
    """The head whose augmentation, image size and batch size its group has: the first with boxes or masks, if any."""
    return next((name for name in group if kinds[name] != "classification"), group[0])


class GroupSource:
    """The photographs of a group, with the labels that each head has for them.

    Args:
        sets: training images of each head, without transforms. Photographs are matched by file name.
        kinds: task of each head.
        transform: augmentation of image, boxes and mask.

    Attributes:
        partial: heads that have no labels for some of the photographs.
    """

    def __init__(self, sets: Mapping[str, ImageReader], kinds: Mapping[str, str], transform: Transform) -> None:
        self.sets, self.kinds, self.transform = dict(sets), dict(kinds), transform
        self._index = {name: {data.name(i): i for i in range(len(data))} for name, data in sets.items()}
        self.names = list(dict.fromkeys(photo for index in self._index.values() for photo in index))
        partly_labelled = [data for data in sets.values() if getattr(data.columns, "complete", None) is not None]
        self._classes = max(len(data.classes) for data in sets.values()) if partly_labelled else 0
        self.partial = {name for name, index in self._index.items() if len(index) < len(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, draw: int | Draw) -> Sample:
        """The transformed sample of a draw. The next readable photograph replaces one that cannot be read."""
        index, seed, _ = draw if isinstance(draw, Draw) else (int(draw), 0, 0)
        for candidate in range(index, index + len(self)):
            photo = self.names[candidate % len(self)]
            owner = next(name for name in self.sets if photo in self._index[name])
            try:
                return self._sample(photo, owner, seed)
            except BadInput as error:
                self.sets[owner].skip(self._index[owner][photo], error)
        raise BadInput(f"none of the {len(self)} images in {self.sets[next(iter(self.sets))].folder} can be read")

    def _sample(self, photo: str, owner: str, seed: int) -> Sample:
        first = self.sets[owner].read(self._index[owner][photo])
        boxes, labels, rows = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.int64)], list[int]()
        complete = np.ones((len(self.sets), self._classes), bool) if self._classes else None
        mask = None
        for number, (name, data) in enumerate(self.sets.items()):
            kind, place = self.kinds[name], self._index[name].get(photo)
            if kind == "segmentation" and mask is None:
                mask = np.full(first.image.shape[:2], IGNORE, np.uint8)
            if place is None:
                continue
            sample = first if name == owner else data.labels_for(place, first.image)
            if kind == "classification":
                rows.append(BASE * number + int(sample.labels[0]))
                continue
            rows.append(BASE * number + MARK)
            boxes.append(sample.boxes)
            labels.append(BASE * number + sample.labels)
            mask = mask if sample.mask is None else sample.mask
            if complete is not None and sample.complete is not None:
                complete[number, : len(sample.complete)] = sample.complete
        known = np.concatenate(labels)
        known_boxes = np.concatenate(boxes)
        whole = replace(first, boxes=known_boxes, labels=np.arange(len(known)), mask=mask, complete=complete)
        found = self.transform(whole, seed)
        return replace(
            found,
            boxes=np.concatenate([found.boxes, np.zeros((len(rows), 4), np.float32)]),
            labels=np.concatenate([known[found.labels], np.array(rows, np.int64)]),
        )


@dataclass
class GroupBatch:
    """The images of a group in a step.

    Attributes:
        group: number of the group.
        batch: its images. With several heads, labels of all of them, see `BASE`.
        rows: head -> (n,) indices of the images that it has labels for; None for all of them. In a group of one head
            that is the only entry.
    """

    group: int
    batch: Batch
    rows: dict[str, Tensor | None]

    @classmethod
    def of(cls, group: int, batch: Batch, heads: Sequence[str]) -> GroupBatch:
        """From a batch of the group's loader, on the CPU."""
        if len(heads) == 1:
            return cls(group, batch, {heads[0]: None})
        rows: dict[str, Tensor | None] = {}
        owner = batch.labels.div(BASE, rounding_mode="floor")
        for number, name in enumerate(heads):
            labelled = (owner == number).any(1)
            rows[name] = None if bool(labelled.all()) else labelled.nonzero()[:, 0]
        return cls(group, batch, rows)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> GroupBatch:
        """The same on `device`."""
        rows = {k: None if v is None else v.to(device, non_blocking=non_blocking) for k, v in self.rows.items()}
        return GroupBatch(self.group, self.batch.to(device, non_blocking), rows)

    def labelled(self, name: str, kind: str) -> Batch:
        """The batch with the labels of one head, as the head's task takes it. Some images may have none."""
        if len(self.rows) == 1:
            return self.batch
        labels = self.batch.labels
        number = list(self.rows).index(name)
        own = labels.div(BASE, rounding_mode="floor") == number
        if kind == "classification":
            place = own.to(torch.int64).argmax(1, keepdim=True)
            return replace(self.batch, labels=(labels.gather(1, place) % BASE))
        own &= labels % BASE != MARK
        complete = None if self.batch.complete is None else self.batch.complete[:, number]
        return replace(self.batch, labels=torch.where(own, labels % BASE, -1), complete=complete)


def without_labels(batch: Batch, kind: str) -> Batch:
    """The first image of a batch without labels: its loss is finite, and counts as 0."""
    first = batch[:1]
    if kind == "classification":
        return replace(first, labels=torch.zeros_like(first.labels[:, :1]))
    masks = None if first.masks is None else torch.full_like(first.masks, IGNORE)
    return replace(first, labels=torch.full_like(first.labels, -1), masks=masks)


def check_group(group: Sequence[str], configs: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Raise UserError for settings that a group of several heads cannot have."""
    if len(group) == 1:
        return
    names = " and ".join(group)
    if any(side % 32 for side in size):
        raise UserError(
            f"{names} share photographs, whose size in training must be a multiple of 32, not {size[0]}x{size[1]}: set "
            "`image_size`",
            settings=("image_size",),
        )
    for name in group:
        config = configs[name]
        mixes = getattr(config, "mixup", 0) or getattr(config, "cutmix", 0)
        if mixes or config.data.balance or not isinstance(config.data.augment, str):
            raise UserError(
                f"{names} share photographs: `mixup`, `cutmix`, `data.balance` and a pipeline in `data.augment` are "
                "not available. `together=['none']` trains them on batches of their own",
                settings=("together",),
            )
