"""Where the trainings of an experiment run: the choices of `--runner` and `--slots`."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from backbones.errors import UserError

if TYPE_CHECKING:
    from experiments.jobs.runner import Runner

RunnerName = Literal["local", "ray", "slurm"]


def check_slots(slots: int) -> None:
    """Raise UserError for fewer than one training at a time."""
    if slots < 1:
        raise UserError(f"--slots {slots} is too small: it must be at least 1")


def create_runner(name: RunnerName, slots: int, folder: Path, lock: IO[str] | None = None) -> Runner:
    """A runner for an experiment.

    Args:
        name: "local" for this machine; "ray" or "slurm" for a cluster.
        slots: number of trainings at the same time.
        folder: of the experiment.
        lock: the folder's lock, which trainings on this machine inherit.

    Raises UserError for more slots than the machine or the cluster has, and for a cluster that cannot be reached.
    """
    if name == "ray":
        from experiments.jobs.ray_runner import RayRunner

        return RayRunner(slots)
    if name == "slurm":
        from experiments.jobs.slurm_runner import SlurmRunner

        return SlurmRunner(folder / "slurm", slots)
    from experiments.jobs.runner import LocalRunner

    return LocalRunner(lock, slots)
