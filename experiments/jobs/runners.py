"""Where the trainings of an experiment run: the choices of `--runner`."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from backbones.errors import UserError
from experiments.jobs.runner import LocalRunner, Runner

RUNNERS = ("local", "ray", "slurm")


def create_runner(name: str, slots: int, folder: Path, lock: IO[str]) -> Runner:
    """A runner for an experiment.

    Args:
        name: "local" for this machine; "ray" or "slurm" for a cluster.
        slots: number of trainings at the same time.
        folder: of the experiment.
        lock: the folder's lock, which trainings on this machine inherit.

    Raises UserError for fewer than one slot, for more than the machine or the cluster has, and for a cluster that
    cannot be reached.
    """
    if slots < 1:
        raise UserError(f"`slots={slots}` is too small: it must be at least 1", settings=("slots",))
    if name == "ray":
        from experiments.jobs.ray_runner import RayRunner

        return RayRunner(slots)
    if name == "slurm":
        from experiments.jobs.slurm_runner import SlurmRunner

        return SlurmRunner(folder / "slurm", slots)
    return LocalRunner(lock, slots)
