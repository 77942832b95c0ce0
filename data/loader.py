"""Loaders whose order and augmentation depend on (seed, epoch, index) alone, not on workers or global generators."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import struct
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import cv2
import numpy as np
import torch
import torch.distributed
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from backbones.errors import BadInput
from data.batch import Batch, Draw, Sample, collate


class Source(Protocol):
    """What a reader offers: a length, and a sample per plain index (evaluation) or `Draw` (training)."""

    def __len__(self) -> int: ...

    def __getitem__(self, draw: int | Draw, /) -> Sample: ...


def draw_seed(seed: int, epoch: int, index: int) -> int:
    """64 bits that depend on all three; equal on every machine and library version."""
    return int.from_bytes(hashlib.blake2b(struct.pack("<qqq", seed, epoch, index), digest_size=8).digest(), "little")


class TrainBatches(Sampler[list[Draw]]):
    """Batches of draws, shuffled anew each epoch; every process of a distributed run gets equally many.

    Without `drop_last` the last batch may be short; with it, it is dropped unless it is the only one.
    Lightning calls `set_epoch` through `sampler`; run its Trainer with `use_distributed_sampler=False`.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, drop_last: bool = True, rank: int = 0, world: int = 1
    ) -> None:
        if length < world:
            raise BadInput(f"{length} training images cannot be shared among {world} processes")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.drop_last, self.rank, self.world = drop_last, rank, world
        self.epoch = self.start_batch = 0

    @property
    def sampler(self) -> TrainBatches:
        """Itself: where Lightning looks for `set_epoch`."""
        return self

    def __len__(self) -> int:
        """Batches in a whole epoch, wherever this one starts."""
        share = self.length // self.world
        whole, rest = divmod(share, self.batch_size)
        return whole + bool(rest and not (self.drop_last and whole))

    def __iter__(self) -> Iterator[list[Draw]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        # The few images left over would give some process one batch more, and the others would wait for it forever.
        share = order[self.rank :: self.world][: self.length // self.world]
        epoch, first, self.start_batch = self.epoch, self.start_batch, 0
        for batch in range(first, len(self)):
            indices = share[batch * self.batch_size : (batch + 1) * self.batch_size].tolist()
            yield [Draw(index, draw_seed(self.seed, epoch, index), epoch) for index in indices]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration shuffles for. A pending `start_batch` belongs to its own epoch."""
        if epoch != self.epoch:
            self.start_batch = 0
        self.epoch = epoch

    def state_dict(self, batches_done: int = 0) -> dict[str, int]:
        """Where to go on after `batches_done` batches of this epoch were trained on.

        The caller counts them: workers have fetched more than were used.
        """
        return {"seed": self.seed, "epoch": self.epoch, "start_batch": batches_done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at the stored batch. Raises `BadInput` if the stored run shuffled with another seed."""
        if state["seed"] != self.seed:
            raise BadInput(f"the stored run shuffled with seed {state['seed']}, this one with {self.seed}")
        self.epoch, self.start_batch = state["epoch"], state["start_batch"]


class EvalBatches(Sampler[list[int]]):
    """Batches of plain indices in order; each index in exactly one process, without padding.

    Processes may get unequally many: exchange results once at the end, not after each batch.
    """

    def __init__(self, length: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.indices, self.batch_size = range(rank, length, world), batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield list(self.indices[start : start + self.batch_size])


class Loader(DataLoader[Batch]):
    """A `DataLoader` from which bad data raises the reader's own one-message `BadInput`, whichever process found it.

    torch would raise it again with the worker's traceback inside the message. `source` is the dataset; `dataset`, its
    wrapped form.
    """

    def __init__(self, source: Source, **options: Any) -> None:
        super().__init__(_Guarded(source), collate_fn=_collate, **options)
        self.source = source
        self._handed_out = 0  # batches of this epoch

    def __iter__(self) -> Any:
        """Batches; raises `BadInput` for an unreadable sample, RuntimeError where shared memory is full."""
        self._handed_out = getattr(self.batch_sampler, "start_batch", 0)
        for batch in super().__iter__():
            if isinstance(batch, Exception):
                raise batch
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where a resumed run goes on; Lightning keeps it in checkpoints. Of use for training batches alone."""
        return self.batch_sampler.state_dict(self._handed_out) if isinstance(self.batch_sampler, TrainBatches) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the next pass where `state` was taken. Raises `BadInput` if that run shuffled with another seed."""
        if isinstance(self.batch_sampler, TrainBatches) and state:
            self.batch_sampler.load_state_dict(state)


class _Guarded(Dataset[Any]):
    """Hands out `BadInput` as a value, which crosses process borders unchanged."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, draw: int | Draw) -> Sample | BadInput:
        try:
            return self.source[draw]
        except BadInput as error:
            return error


def _collate(samples: list[Sample | BadInput]) -> Batch | Exception:
    good = [sample for sample in samples if isinstance(sample, Sample)]
    if len(good) < len(samples):
        return next(s for s in samples if isinstance(s, BadInput))
    batch = collate(good)
    if get_worker_info() is None:
        return batch
    try:
        # Moved here, not when it is sent: a thread of the worker does that, whose errors the trainer would never hear.
        return batch.share_memory()
    except RuntimeError as error:
        return RuntimeError(str(error))


def train_loader(
    dataset: Source, batch_size: int, seed: int, workers: int | None = None, drop_last: bool = True
) -> Loader:
    """Shuffled, augmented batches; call `loader.batch_sampler.set_epoch(epoch)` before each epoch.

    `batch_size` is per process. `workers` defaults to `default_workers()`. Where they are spawned, a script needs
    `if __name__ == "__main__":`.
    """
    rank, world = _place()
    return _loader(dataset, TrainBatches(len(dataset), batch_size, seed, drop_last, rank, world), workers)


def eval_loader(dataset: Source, batch_size: int, workers: int | None = None) -> Loader:
    """Every image once, in order, the last batch as short as it comes; in a distributed run this process's share."""
    rank, world = _place()
    return _loader(dataset, EvalBatches(len(dataset), batch_size, rank, world), workers)


def default_workers() -> int:
    """Processes that feed a trainer best, at most 8: one per core but one beside an accelerator, else one per four.

    Without an accelerator the network itself wants every core: on two, one worker made training 9% slower than none,
    two 35% (BCCD at 320 px, small network). None where processes are spawned and the program is a script: each would
    run the script again, and whether that has an `if __name__ == "__main__":` cannot be seen.
    """
    if not _forks() and _main_is_script():
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores - 1 if torch.accelerator.is_available() else cores // 4)


def _forks() -> bool:
    """Whether workers are forked, which is so on Linux unless the program has chosen another start method.

    Forked workers share the annotations and start in milliseconds; other systems cannot fork safely.
    """
    return sys.platform == "linux" and multiprocessing.get_start_method(allow_none=True) in (None, "fork")


def _main_is_script() -> bool:
    """Whether the program is `python FILE`, as opposed to `python -m`, `python -c`, a notebook or a prompt."""
    main = sys.modules["__main__"]
    return getattr(main, "__spec__", None) is None and hasattr(main, "__file__")


def _place() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _loader(dataset: Source, batches: Sampler[Any], workers: int | None) -> Loader:
    workers = default_workers() if workers is None else workers
    return Loader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=2 if workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        multiprocessing_context="fork" if workers and _forks() else None,
        # The loader seeds its workers from this; from the global one it would shift the network's random numbers.
        generator=torch.Generator().manual_seed(0),
    )


def _start_worker(_: int) -> None:
    """Keep workers from starting threads of their own, and from leaving at Ctrl-C before the trainer has saved."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
