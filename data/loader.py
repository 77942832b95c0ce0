"""Data loaders: processes that read the images of each batch, and how errors leave them.

Batches do not depend on the number of workers, see `data.sampling`.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from backbones.errors import BadInput, StoreError, UserError
from data.batch import Batch, Draw, Sample, collate
from data.cores import available_cores
from data.sampling import EvalBatches, TrainBatches


class Source(Protocol):
    """A data set: its length, and a sample for each plain index (evaluation) or `Draw` (training)."""

    def __len__(self) -> int: ...

    def __getitem__(self, draw: int | Draw, /) -> Sample: ...


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
