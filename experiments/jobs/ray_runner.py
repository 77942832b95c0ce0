"""Trains cells on a Ray cluster, or on this machine by Ray. Ray is an optional dependency: the extra `cluster`.

A training runs in a temporary folder of its worker, and its run folder is sent to this process, which writes it. The
workers need this package and the data at the same paths, and no shared folder for results. If a worker is lost, Ray
starts its training again on another one.
"""

from __future__ import annotations

import io
import logging
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from engine.record import SHARED, write_json
from experiments.jobs.cell import Cell
from experiments.jobs.local import COMPLETE, Outcome, Pruned, run
from experiments.jobs.runner import Runner

POLL = 0.5  # seconds between reads of the lines that a training prints
RETRIES = 3  # how often a training is started again after its worker was lost


class Mailbox:
    """Passes lines of trainings to the driver, and its requests to end a training to the workers. An actor of Ray."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = {}
        self.ended: set[str] = set()

    def put(self, name: str, line: str) -> bool:
        """Add a line of a training. Returns whether the training has to end."""
        self.lines.setdefault(name, []).append(line)
        return name in self.ended

    def take(self, name: str) -> list[str]:
        """The new lines of a training."""
        return self.lines.pop(name, [])

    def end(self, name: str) -> None:
        """Have a training end at its next line."""
        self.ended.add(name)


class RayRunner(Runner):
    """Runs trainings as tasks of a Ray cluster.

    Args:
        slots: number of trainings at the same time. The cluster's cores, and its GPUs if there are any, are divided
            among them.
        address: of the cluster; by default that of RAY_ADDRESS, a cluster that was started on this machine, or a new
            one on this machine.

    Raises UserError if Ray is not installed, or the cluster cannot be reached or has too few cores.
    """

    def __init__(self, slots: int = 1, address: str | None = None) -> None:
        super().__init__(slots)
        try:
            import ray
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
        except ImportError as error:
            raise UserError("`runner='ray'` needs Ray: python -m pip install 'backbone-swap[cluster]'") from error
        self.ray: Any = ray
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"no Ray cluster could be reached or started: {error}") from error
        resources = ray.cluster_resources()
        cores, gpus = int(resources.get("CPU", 0)), resources.get("GPU", 0.0)
        if slots > cores:
            raise UserError(f"`slots={slots}`, but the cluster has {cores} cores", settings=("slots",))
        share = {"num_cpus": cores // slots, "num_gpus": min(1.0, gpus / slots) if gpus else 0}
        self._stopped = False
        # On this node, which is lost only together with this process.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.mailbox: Any = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        self._train = ray.remote(train_in_worker).options(max_retries=RETRIES, **share)
        self._cores = cores // slots

    def train(self, cell: Cell, folder: Path, report: Callable[[str], None], lock: Any = None) -> Outcome:
        """Train a cell on a worker and write its run folder. Several threads may call it."""
        ray, name = self.ray, str(folder)
        task = self._train.remote(cell.task, cell.arguments, name, self._cores, self.mailbox)
        while True:
            if self._stopped:
                ray.cancel(task, force=True)
                raise KeyboardInterrupt
            ended, _ = ray.wait([task], timeout=POLL)
            try:
                for line in ray.get(self.mailbox.take.remote(name)):
                    report(line)
            except Pruned:
                self.mailbox.end.remote(name)
                ray.get(task)
                raise
            if ended:
                break
        try:
            outcome, archive = ray.get(task)
        except ray.exceptions.RayError as error:
            return Outcome(0.0, f"its worker was lost {RETRIES + 1} times: {str(error).splitlines()[0]}", 1)
        unpack(archive, folder)
        if not outcome.error:
            write_json(folder / COMPLETE, {"key": cell.key, "seconds": outcome.seconds})
        return outcome

    def stop(self) -> None:
        """End all trainings, which are lost, and start none afterwards. Returns before they have ended."""
        self._stopped = True


def train_in_worker(task: str, arguments: Sequence[str], name: str, cores: int, mailbox: Any) -> tuple[Outcome, bytes]:
    """Train a cell on a worker. Returns the outcome, and its run folder and log as a tar archive."""
    import ray

    def report(line: str) -> None:
        if ray.get(mailbox.put.remote(name, line)):
            raise Pruned

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        variables = {SHARED: "1", "OMP_NUM_THREADS": str(cores)}
        try:
            outcome = run(Cell(task, tuple(arguments)), folder, None, report, variables)
        except Pruned:
            outcome = Outcome(0.0, "pruned")
        return outcome, packed(folder)


def packed(folder: Path) -> bytes:
    """A run folder and its log as a tar archive."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for path in (folder, folder.with_suffix(".log")):
            if path.exists():
                archive.add(path, path.name)
    return content.getvalue()


def unpack(content: bytes, folder: Path) -> None:
    """Write the run folder in an archive of `packed` to `folder`, at once, and its log next to it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as place:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(place, filter="data")
        if (log := Path(place) / "run.log").exists():
            log.replace(folder.with_suffix(".log"))
        if (run_folder := Path(place) / "run").exists():
            shutil.rmtree(folder, ignore_errors=True)
            run_folder.replace(folder)
