"""The batches of a joint training: in each step one of every group of heads; in evaluation those of head after head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backbones.errors import BadInput
from data.batch import Batch
from data.loader import Loader
from experiments.joint.groups import GroupBatch


@dataclass
class JointBatch:
    """The batches of all groups in one step."""

    parts: list[GroupBatch]

    def __len__(self) -> int:
        return sum(len(part.batch) for part in self.parts)

    @property
    def image_ids(self) -> Tensor:
        """Ids of all images, group after group."""
        return torch.cat([part.batch.image_ids for part in self.parts])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> JointBatch:
        """The same on `device`."""
        return JointBatch([part.to(device, non_blocking) for part in self.parts])


@dataclass
class HeadBatch:
    """A batch of evaluation for one head."""

    name: str
    batch: Batch

    def __len__(self) -> int:
        return len(self.batch)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> HeadBatch:
        """The same on `device`."""
        return HeadBatch(self.name, self.batch.to(device, non_blocking))


class JointLoader:
    """Steps with one batch of each group.

    An epoch has as many steps as the longest group has batches. The others start again with their next epoch when they
    end. Step t of the training, counted over all epochs, has batch t of each group, so that a training resumes at the
    same batches.

    Args:
        loaders: training batches of each group, all with the same seed.
        heads: names of the heads of each group.
        seed: of the loaders.
    """

    def __init__(self, loaders: Sequence[Loader], heads: Sequence[Sequence[str]], seed: int) -> None:
        self.loaders, self.heads, self.seed = list(loaders), [list(names) for names in heads], seed
        self.epoch = self.start_batch = self._yielded = 0
        self._streams: list[Iterator[Batch]] = []
        self._position = -1  # of the streams, in steps of the training

    @property
    def batch_sampler(self) -> JointLoader:
        """Itself: Lightning calls `batch_sampler.sampler.set_epoch`."""
        return self

    @property
    def sampler(self) -> JointLoader:
        return self

    def __len__(self) -> int:
        return max(len(loader) for loader in self.loaders)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration. A loaded `start_batch` applies only to its own epoch."""
        if epoch != self.epoch:
            self.start_batch = 0
        self.epoch = epoch

    def __iter__(self) -> Iterator[JointBatch]:
        first, self.start_batch = self.start_batch, 0
        position = self.epoch * len(self) + first
        if position != self._position:
            self._streams = [_stream(loader, position) for loader in self.loaders]
            self._position = position
        self._yielded = first
        for _ in range(first, len(self)):
            self._position += 1
            self._yielded += 1
            yield JointBatch(
                [
                    GroupBatch.of(number, next(stream), heads)
                    for number, (stream, heads) in enumerate(zip(self._streams, self.heads, strict=True))
                ]
            )

    def state_dict(self) -> dict[str, int]:
        """The state to resume from, which Lightning stores in checkpoints."""
        return {"seed": self.seed, "epoch": self.epoch, "start_batch": self._yielded}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume at the stored batch. Raises `BadInput` if the stored run used another seed."""
        if state["seed"] != self.seed:
            raise BadInput(f"the stored run used seed {state['seed']}, this run uses seed {self.seed}")
        self.epoch, self.start_batch = state["epoch"], state["start_batch"]


def _stream(loader: Loader, position: int) -> Iterator[Batch]:
    """The batches of a group from `position` on, epoch after epoch."""
    batches: Any = loader.batch_sampler
    while True:
        epoch, start = divmod(position, len(loader))
        batches.set_epoch(epoch)
        batches.start_batch = start
        for batch in loader:
            position += 1
            yield batch


class EvalLoader:
    """The evaluation batches of all heads, head after head."""

    def __init__(self, loaders: Mapping[str, Loader]) -> None:
        self.loaders = dict(loaders)

    def __len__(self) -> int:
        return sum(len(loader) for loader in self.loaders.values())

    def __iter__(self) -> Iterator[HeadBatch]:
        for name, loader in self.loaders.items():
            for batch in loader:
                yield HeadBatch(name, batch)


@dataclass
class HeadSets:
    """Data sets by head. `photographs` is their number of different images."""

    by_head: dict[str, Any]
    photographs: int

    def __len__(self) -> int:
        return self.photographs
