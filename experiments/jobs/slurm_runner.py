"""Trains cells as jobs of a SLURM cluster. Submitit is an optional dependency: the extra `slurm`.

The nodes need this package, the data and the experiment's folder at the same paths. A job that SLURM stops, because its
time is over or its node is needed, saves a checkpoint, is queued again and continues from there. If a job is lost with
its node, its training is submitted again. If this process is lost, its jobs go on, and the same command waits for them.

Partition, account, memory, GPUs and time limit are those of sbatch's own variables, such as SBATCH_PARTITION.
"""

from __future__ import annotations

import getpass
import json
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from engine.record import SHARED, write_json
from experiments.jobs.cell import Cell
from experiments.jobs.local import Outcome, Trainings, on_sigterm, run
from experiments.jobs.runner import Runner

POLL = 2.0  # seconds between two looks at the queue and at the lines of a training
COLLECT = 1.0  # seconds in which trainings are collected for one job array
LATE = 60.0  # seconds after which a job without a result is lost; network file systems show new files late
RETRIES = 3  # how often a training is submitted again after its job was lost
CORES = 4  # of a training, or all of the largest node if that has fewer
MINUTES = 240  # time limit of a job, without SBATCH_TIMELIMIT
SAVING = 120  # seconds before the end of a job at which SLURM asks it to save


class SlurmTraining:
    """A training as submitit runs it on a node."""

    def __init__(self, task: str, arguments: Sequence[str], folder: str) -> None:
        self.task, self.arguments, self.folder = task, tuple(arguments), folder
        self._trainings = Trainings()

    def __call__(self) -> Outcome:
        """Train the cell, or continue from its checkpoint."""
        cell = Cell(self.task, self.arguments)
        return run(cell, Path(self.folder), variables={SHARED: "1"}, trainings=self._trainings)

    def checkpoint(self) -> Any:
        """Have the training save a checkpoint; called before SLURM ends the job. Returns what is submitted again."""
        from submitit.helpers import DelayedSubmission

        for process in self._trainings.end():
            process.wait()
        return DelayedSubmission(SlurmTraining(self.task, self.arguments, self.folder))


class SlurmRunner(Runner):
    """Runs trainings as jobs of a SLURM cluster. Those that start together are one job array.

    Args:
        folder: where scripts and logs of the jobs are written, on a file system that all nodes share.
        slots: number of jobs at the same time.

    Raises UserError if submitit is not installed or this machine cannot submit jobs.
    """

    def __init__(self, folder: Path, slots: int = 1) -> None:
        super().__init__(slots)
        try:
            from submitit import SlurmExecutor, SlurmJob
        except ImportError as error:
            raise UserError("`runner='slurm'` needs submitit: python -m pip install 'backbone-swap[slurm]'") from error
        cores = min(CORES, largest_node())
        folder = folder.resolve()
        self._executor: Any = SlurmExecutor(folder, max_num_timeout=1000)  # a training continues where it stopped
        self._executor.update_parameters(
            job_name="backbone-swap",
            time=MINUTES,
            cpus_per_task=cores,
            srun_args=["--cpus-per-task", str(cores)],  # srun does not take it from the job in SLURM 22.05 and later
            signal_delay_s=SAVING,
            array_parallelism=slots,
        )
        self._job_at: Callable[[str], Any] = lambda number: SlurmJob(folder, number)
        self._lock = threading.Lock()
        self._waiting: list[tuple[SlurmTraining, Future[Any]]] = []
        self._active: dict[str, Any] = {}  # jobs by id
        self._stopped = False
        self._queue: tuple[float, set[str] | None] = (-POLL, None)

    def train(self, cell: Cell, folder: Path, report: Callable[[str], None], lock: Any = None) -> Outcome:
        """Train a cell in a job and wait for it. Several threads may call it."""
        training = SlurmTraining(cell.task, cell.arguments, str(folder.resolve()))
        note = folder.with_suffix(".job")
        note.parent.mkdir(parents=True, exist_ok=True)
        with on_sigterm(self.stop):
            job = self._left_behind(note) or self._submit(training)
            for _ in range(RETRIES + 1):
                write_json(note, {"job": job.job_id})
                outcome = self._wait(job, folder.with_suffix(".log"), report)
                note.unlink(missing_ok=True)
                if outcome is not None:
                    return outcome
                job = self._submit(training)
        return Outcome(0.0, f"its job was lost {RETRIES + 1} times; its log is {job.paths.stderr}", 1)

    def stop(self) -> None:
        """Cancel all jobs. They save a checkpoint."""
        self._stopped = True
        for job in list(self._active.values()):
            job.cancel(check=False)

    def _submit(self, training: SlurmTraining) -> Any:
        """The job of a training. Those that several threads submit within a second become an array."""
        submitted: Future[Any] = Future()
        with self._lock:
            self._waiting.append((training, submitted))
            if len(self._waiting) == 1:
                threading.Timer(COLLECT, self._submit_waiting).start()
        return submitted.result()

    def _submit_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        try:
            if self._stopped:
                raise KeyboardInterrupt
            jobs = self._executor.submit_array([training for training, _ in waiting])
        except BaseException as error:  # raised by each thread that waits
            reason = error if isinstance(error, KeyboardInterrupt) else UserError(f"sbatch refused a job: {error}")
            for _, submitted in waiting:
                submitted.set_exception(reason)
            return
        for (_, submitted), job in zip(waiting, jobs, strict=True):
            submitted.set_result(job)

    def _left_behind(self, note: Path) -> Any:
        """The job that an earlier process submitted for this training, if it is still in the queue; else None."""
        try:
            number = json.loads(note.read_text())["job"]
        except (OSError, ValueError, KeyError):
            return None
        return self._job_at(number) if number in (self._queued() or ()) else None

    def _wait(self, job: Any, log: Path, report: Callable[[str], None]) -> Outcome | None:
        """Pass on the lines of a training until its job ends. Returns None if the job was lost."""
        self._active[job.job_id] = job
        lines, last_seen = NewLines(log), time.monotonic()
        try:
            while True:
                ended = job.paths.result_pickle.exists()
                queued = self._queued()
                if queued is None or job.job_id in queued:  # None: squeue failed; the next time it may not
                    last_seen = time.monotonic()
                for line in lines:
                    report(line)
                if ended:
                    return outcome_of(job)
                gone = time.monotonic() - last_seen
                if self._stopped and gone > POLL:
                    raise KeyboardInterrupt
                if gone > LATE:
                    return None
                time.sleep(POLL)
        except BaseException:  # Pruned, Ctrl-C, SIGTERM
            job.cancel(check=False)
            raise
        finally:
            del self._active[job.job_id]

    def _queued(self) -> set[str] | None:
        """Ids of this user's jobs that wait or run; None if SLURM does not answer."""
        with self._lock:
            if time.monotonic() - self._queue[0] >= POLL:
                command = ["squeue", "--noheader", "--array", "--format=%i", "--user", getpass.getuser()]
                answer = subprocess.run(command, capture_output=True, text=True, check=False)
                ids = None if answer.returncode else {number.strip() for number in answer.stdout.splitlines()}
                self._queue = time.monotonic(), ids
            return self._queue[1]


class NewLines:
    """The complete lines that were added to a file since the last iteration; its old ones are not repeated."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = path.stat().st_size if path.exists() else 0

    def __iter__(self) -> Any:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.position += len(line)
                yield line.decode(errors="replace").rstrip()


def outcome_of(job: Any) -> Outcome:
    """What a job's training returned; an error of the job itself as the outcome's error."""
    try:
        return job.result()
    except Exception as error:
        return Outcome(0.0, f"its job failed: {str(error).strip().splitlines()[-1]} ({job.paths.stderr})", 1)


def largest_node() -> int:
    """The number of cores of the largest node. Raises UserError if this machine has no SLURM, or it does not answer."""
    try:
        answer = subprocess.run(["sinfo", "--noheader", "--format=%c"], capture_output=True, text=True, check=True)
        return max(int(count.rstrip("+")) for count in answer.stdout.split())
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        reason = getattr(error, "stderr", None) or error
        raise UserError(f"no SLURM cluster can be reached from this machine: sinfo: {reason}") from error
