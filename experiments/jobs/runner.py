"""Trains cells, one or several at a time, on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import IO, TypeVar

from backbones.errors import UserError
from data.cores import available_cores
from engine.record import SHARED
from experiments.jobs.cell import Cell
from experiments.jobs.local import Outcome, Trainings, on_sigterm, run

Item = TypeVar("Item")
Result = TypeVar("Result")


class Runner:
    """Trains cells, several at a time. Subclasses decide where.

    Args:
        slots: number of trainings at the same time.
    """

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots

    def train(self, cell: Cell, folder: Path, report: Callable[[str], None], lock: IO[str] | None = None) -> Outcome:
        """Train a cell in `folder` and wait for it, see `experiments.jobs.local.run`. Several threads may call it.

        `lock`: a locked file that a training on this machine inherits, instead of the experiment's.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """End all trainings."""
        raise NotImplementedError

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        """Call a function, which trains, with each item. Yields items and results in the order in which they end.

        Raises what the function raises; the other trainings end first. SIGTERM and Ctrl-C stop all trainings, which
        save a checkpoint, and raise KeyboardInterrupt.
        """
        if self.slots == 1:
            for item in items:
                yield item, function(item)
            return
        with on_sigterm(self.stop), ThreadPoolExecutor(self.slots) as pool:
            items_by_future = {pool.submit(function, item): item for item in items}
            try:
                for future in as_completed(items_by_future):
                    yield items_by_future[future], future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.stop()
                raise


class LocalRunner(Runner):
    """Runs trainings as processes of this machine.

    Each of several slots has its own part of the cores and, where there are several GPUs, a GPU of its own.

    Args:
        lock: the experiment's lock, which trainings inherit; None if each training has its own.
        slots: number of trainings at the same time.

    Raises UserError for more slots than cores.
    """

    def __init__(self, lock: IO[str] | None, slots: int = 1) -> None:
        super().__init__(slots)
        self.lock = lock
        cores = available_cores()
        if slots > len(cores):
            raise UserError(f"`slots={slots}`, but this machine has {len(cores)} cores", settings=("slots",))
        share = len(cores) // slots
        self._free: SimpleQueue[int] = SimpleQueue()
        for slot in range(slots):
            self._free.put(slot)
        self._cores = [cores[slot * share : (slot + 1) * share] for slot in range(slots)]
        self._trainings = Trainings()

    def train(self, cell: Cell, folder: Path, report: Callable[[str], None], lock: IO[str] | None = None) -> Outcome:
        """Train a cell in `folder` and wait for it. Several threads may call it."""
        lock = lock or self.lock
        if self.slots == 1:
            return run(cell, folder, lock, report)
        slot = self._free.get()
        try:
            return run(cell, folder, lock, report, self._place(cell, slot), self._cores[slot], self._trainings)
        finally:
            self._free.put(slot)

    def stop(self) -> None:
        """End all trainings. They save a checkpoint, and none starts afterwards."""
        self._trainings.end()

    def _place(self, cell: Cell, slot: int) -> dict[str, str]:
        """Environment variables for a training in a slot."""
        variables = {SHARED: "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(len(self._cores[slot])))}
        if cell.config.device in ("auto", "cuda"):
            import torch

            count = torch.cuda.device_count()
            if count > 1:
                visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
                variables["CUDA_VISIBLE_DEVICES"] = visible[slot % count]
        return variables
