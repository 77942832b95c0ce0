"""Data loaders. Order and augmentation depend only on (seed, epoch, index).

They do not depend on the number of workers or on global random generators.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
import struct
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from backbones.errors import BadInput, StoreError, UserError
from data.balance import draw_images
from data.batch import Batch, Draw, Sample, collate
from data.cores import available_cores


class Source(Protocol):
    """A data set: its length, and a sample for each plain index (evaluation) or `Draw` (training)."""

    def __len__(self) -> int: ...

    def __getitem__(self, draw: int | Draw, /) -> Sample: ...


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


class Loader(DataLoader[Batch]):
    """A `DataLoader` that raises errors that a user can cause unchanged, also if they occurred in a worker process.

    torch alone would put the worker's traceback into the message. `source` is the data set; `dataset` is its wrapper.
    """

    def __init__(self, source: Source, **options: Any) -> None:
        super().__init__(_ErrorsAsValues(source), collate_fn=_collate, **options)
        self.source = source
        self._yielded = 0  # batches of this epoch

    def __iter__(self) -> Any:
        """Batches.

        Raises `BadInput` for an unreadable sample, StoreError if an object store does not answer, and RuntimeError if
        shared memory is full.
        """
        self._yielded = getattr(self.batch_sampler, "start_batch", 0)
        for batch in super().__iter__():
            if isinstance(batch, Exception):
                raise batch
            self._yielded += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The state of the training batches, which Lightning stores in checkpoints; empty for evaluation."""
        return self.batch_sampler.state_dict(self._yielded) if isinstance(self.batch_sampler, TrainBatches) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next iteration at `state`. Raises `BadInput` if the stored run used another seed."""
        if isinstance(self.batch_sampler, TrainBatches) and state:
            self.batch_sampler.load_state_dict(state)


class _ErrorsAsValues(Dataset[Any]):
    """Returns an error that a user can cause instead of raising it, so that it reaches the trainer unchanged."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, draw: int | Draw) -> Sample | UserError:
        try:
            return self.source[draw]
        except (BadInput, StoreError) as error:
            return error

    def __getitems__(self, draws: list[int | Draw]) -> list[Sample | UserError]:
        """The samples of a batch. torch calls this instead of `__getitem__`."""
        if (prefetch := getattr(self.source, "prefetch", None)) is not None:
            try:
                prefetch([draw.index if isinstance(draw, Draw) else draw for draw in draws])
            except (BadInput, StoreError) as error:
                return [error]
        samples: list[Sample | UserError] = []
        for draw in draws:
            samples.append(self[draw])
            if isinstance(samples[-1], StoreError):
                break  # each further image would wait as long
        return samples


def _collate(samples: list[Sample | UserError]) -> Batch | Exception:
    good = [sample for sample in samples if isinstance(sample, Sample)]
    if len(good) < len(samples):
        return next(s for s in samples if isinstance(s, UserError))
    batch = collate(good)
    if get_worker_info() is None:
        return batch
    try:
        # Otherwise a thread of the worker moves it while sending, and the trainer never sees the errors of that thread.
        return batch.share_memory()
    except RuntimeError as error:
        return RuntimeError(str(error))


def train_loader(
    dataset: Source,
    batch_size: int,
    seed: int,
    workers: int | None = None,
    drop_last: bool = True,
    expected: np.ndarray | None = None,
    rank: int = 0,
    world: int = 1,
) -> Loader:
    """Shuffled and augmented batches. Call `loader.batch_sampler.set_epoch(epoch)` before each epoch.

    Args:
        dataset: receives a `Draw` for each sample.
        batch_size: of all processes together.
        seed: of order and augmentation.
        workers: processes that load data; `default_workers()` by default. Where they are spawned, a script needs
            `if __name__ == "__main__":`.
        drop_last: drop a short last batch, unless it is the only one.
        expected: (N,) expected number of draws of each image in an epoch; by default each is drawn once.
        rank: number of this process in a distributed run.
        world: number of its processes.

    Raises `BadInput` if there are fewer images than processes, UserError if they cannot divide a batch equally.
    """
    return _loader(dataset, TrainBatches(len(dataset), batch_size, seed, drop_last, rank, world, expected), workers)


def eval_loader(dataset: Source, batch_size: int, workers: int | None = None, rank: int = 0, world: int = 1) -> Loader:
    """Every image once and in order; in a distributed run, every image in one process. The last batch may be short.

    Args:
        dataset: receives an index for each sample.
        batch_size: per process.
        workers: processes that load data; `default_workers()` by default.
        rank: number of this process in a distributed run.
        world: number of its processes.
    """
    return _loader(dataset, EvalBatches(len(dataset), batch_size, rank, world), workers)


def default_workers(processes: int = 1) -> int:
    """Number of data loading processes, at most 8: cores - 1 with an accelerator, else cores / 4.

    The cores are divided among the `processes` of a distributed run on this machine.

    Without an accelerator the network itself uses all cores. On two cores, training was 9% slower with one worker than
    with none, and 35% slower with two (BCCD at 320 px, small network). A script whose processes are spawned gets no
    workers: each would run the script again, and whether it has an `if __name__ == "__main__":` cannot be known.
    """
    if not _forks() and _main_is_script():
        return 0
    cores = len(available_cores()) // processes
    return min(8, max(0, cores - 1) if torch.accelerator.is_available() else cores // 4)


def _forks() -> bool:
    """Whether workers are forked: on Linux, unless the program has chosen another start method.

    Forked workers share the memory of the annotations and start in milliseconds. Other systems cannot fork safely.
    """
    return sys.platform == "linux" and multiprocessing.get_start_method(allow_none=True) in (None, "fork")


def _main_is_script() -> bool:
    """Whether the program is `python FILE`, as opposed to `python -m`, `python -c`, a notebook or a prompt."""
    main = sys.modules["__main__"]
    return getattr(main, "__spec__", None) is None and hasattr(main, "__file__")


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
        # The loader draws the seeds of its workers from this. The global generator belongs to the network.
        generator=torch.Generator().manual_seed(0),
    )


def _start_worker(_: int) -> None:
    """Use one thread per worker, and ignore Ctrl-C, so that workers live until the trainer has saved."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
