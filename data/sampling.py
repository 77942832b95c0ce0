"""Which images are in which batch. Order and augmentation depend only on (seed, epoch, index).

They do not depend on the number of processes or on global random generators.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from backbones.errors import BadInput, UserError
from data.balance import draw_images
from data.batch import Draw


def draw_seed(seed: int, epoch: int, index: int) -> int:
    """A 64-bit seed that depends on all three numbers. It is equal on all machines and library versions."""
    return int.from_bytes(hashlib.blake2b(struct.pack("<qqq", seed, epoch, index), digest_size=8).digest(), "little")


class TrainBatches(Sampler[list[Draw]]):
    """Batches of draws in a new random order each epoch. The processes of a distributed run share each batch.

    The batches do not depend on the number of processes: each process has an equal part of each of them, the first
    process the first part. With `drop_last`, a last batch of less than `batch_size` is dropped unless it is the only
    batch. Of a short batch that cannot be divided equally, the last draws are left out. Lightning calls
    `sampler.set_epoch`; its Trainer needs `use_distributed_sampler=False`.

    An epoch has `length` draws. By default each image is drawn once. With `expected`, the (length,) expected number of
    draws of each image, some are drawn several times and others not at all: see `data.balance.draw_images`. Repeated
    draws of an image have different seeds.

    Raises `BadInput` if there are fewer images than processes, UserError if they cannot divide a batch equally.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        drop_last: bool = True,
        rank: int = 0,
        world: int = 1,
        expected: np.ndarray | None = None,
    ) -> None:
        if length < world:
            raise BadInput(f"{length} training images are too few for {world} processes: each needs one")
        if batch_size % world:
            raise UserError(
                f"`batch_size={batch_size}` is the number of images of all {world} processes together, and cannot be "
                f"divided among them: use a multiple of {world}",
                settings=("batch_size",),
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.drop_last, self.rank, self.world = drop_last, rank, world
        self.expected = expected
        self.epoch = self.start_batch = 0

    @property
    def sampler(self) -> TrainBatches:
        """Itself. Lightning calls `set_epoch` on this attribute."""
        return self

    def __len__(self) -> int:
        """Batches in a full epoch, also where the next epoch starts at a later batch."""
        full, rest = divmod(self.length, self.batch_size)
        return full + bool(rest >= self.world and not (self.drop_last and full))

    def __iter__(self) -> Iterator[list[Draw]]:
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(self.length) if self.expected is None else draw_images(self.expected, random)
        repeats = _earlier_occurrences(order)
        epoch, first, self.start_batch = self.epoch, self.start_batch, 0
        for batch in range(first, len(self)):
            start = batch * self.batch_size
            own = min(self.batch_size, self.length - start) // self.world
            part = slice(start + self.rank * own, start + (self.rank + 1) * own)
            yield [
                # A repeat has the seed of an index beyond the images, and the cached augmentation of a later epoch.
                Draw(index, draw_seed(self.seed, epoch, index + repeat * self.length), epoch + repeat)
                for index, repeat in zip(order[part].tolist(), repeats[part].tolist(), strict=True)
            ]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration. A loaded `start_batch` applies only to its own epoch."""
        if epoch != self.epoch:
            self.start_batch = 0
        self.epoch = epoch

    def state_dict(self, batches_done: int = 0) -> dict[str, int]:
        """The state to resume from after training on `batches_done` batches of this epoch.

        The caller counts them, because workers load batches ahead.
        """
        return {"seed": self.seed, "epoch": self.epoch, "start_batch": batches_done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume at the stored batch. Raises `BadInput` if the stored run used another seed."""
        if state["seed"] != self.seed:
            raise BadInput(f"the stored run used seed {state['seed']}, this run uses seed {self.seed}")
        self.epoch, self.start_batch = state["epoch"], state["start_batch"]


def _earlier_occurrences(values: np.ndarray) -> np.ndarray:
    """For each value, how often it occurs before this position: [7, 3, 7, 7] -> [0, 0, 1, 2]."""
    by_value = values.argsort(kind="stable")
    ordered = values[by_value]
    starts = np.searchsorted(ordered, ordered, side="left")
    counts = np.empty(len(values), np.int64)
    counts[by_value] = np.arange(len(values)) - starts
    return counts


class EvalBatches(Sampler[list[int]]):
    """Batches of plain indices in order. Each index occurs in exactly one process; there is no padding.

    The batches do not depend on the number of processes, so that kernels compute the same numbers. The first process
    has the first of them, and so on, so that joined results are in order. Processes may have different numbers of
    batches: exchange results once at the end, not after each batch.
    """

    def __init__(self, length: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.length, self.batch_size = length, batch_size
        batches = -(-length // batch_size)
        self.batches = range(batches * rank // world, batches * (rank + 1) // world)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            start = batch * self.batch_size
            yield list(range(start, min(start + self.batch_size, self.length)))
