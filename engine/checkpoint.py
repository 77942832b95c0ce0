"""Run folders and their checkpoints: written so that a crash cannot spoil them, read so that nothing is executed."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from backbones.errors import BadInput, UserError
from backbones.weights import read_file
from data.lock import LocksMissing, lock_file
from data.reader import LabelledDataset
from engine.compat import TorchCheckpointIO
from engine.schema import run_fields
from engine.system_errors import loader_died

RUNS = Path("runs")
PATIENCE = 15.0  # seconds that a killed trainer's loader processes may live on
# The file whose lock a trainer holds. Windows keeps others from reading a locked file.
LOCKED = ".lock" if sys.platform == "win32" else "config.yaml"


@dataclass
class RunInfo:
    """What a checkpoint says about itself besides its weights, all of it plain values.

    task: "detection" and so on. dataset: name, root, fingerprint and counts. config: the settings of the run.
    classes: names by index. preprocessing: mean and std of the normalisation, and input size (height, width).
    provenance: of the weights it started from. extra: what the task needs to build the model again.
    """

    task: str
    dataset: dict[str, Any]
    config: dict[str, Any]
    classes: list[str]
    preprocessing: dict[str, Any]
    provenance: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)


def describe_data(root: Path, train: LabelledDataset, val: LabelledDataset) -> dict[str, Any]:
    """What `RunInfo.dataset` says of the two readers: where they read, their fingerprints, and their reports."""
    return {
        "root": str(root),
        "fingerprint": {"train": train.fingerprint, "val": val.fingerprint},
        "train": asdict(train.report),
        "val": asdict(val.report),
    }


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, and renames: a file that exists is whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`. Raises BadInput where the disk is full or the folder cannot be written."""
        target = Path(path)
        temporary = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
                temporary = Path(file.name)
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            if loader_died(error):
                raise
            raise BadInput(
                f"cannot write {target}: {_first_line(error)}. Earlier checkpoints are intact; free some space and "
                "continue with --resume."
            ) from error


def sweep(folder: Path) -> None:
    """Remove from a checkpoints folder what a process left that was killed while it wrote."""
    for leftover in folder.glob(".*.ckpt.*"):
        leftover.unlink()


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a run folder. Raises UserError where one does.

    Loader processes hold on to the lock as well, and outlive a trainer that was killed by some seconds. Where the file
    system has no locks, nothing keeps others away: a warning says so. Raises BadInput where nothing can be written.
    """
    try:
        file = open(folder / LOCKED, "a" if LOCKED == ".lock" else "r+")  # noqa: SIM115 - closed below
    except OSError as error:
        raise BadInput(f"{folder} cannot be written: {error.strerror}") from error
    with file:
        try:
            free = lock_file(file, PATIENCE)
        except LocksMissing as error:
            warning = f"the file system of {folder} has no locks ({error.strerror}): start only one training there"
            print(f"warning: {warning}", file=sys.stderr)
            free = True
        if not free:
            raise UserError(f"another process is training in {folder}: wait for it, or stop it")
        yield


def new_run_folder(task: str, backbone: str, output: str | None) -> Path:
    """Make the folder of a new run: `output`, or runs/TASK/BACKBONE-TIME. Raises UserError where it is in use."""
    path = Path(output) if output else RUNS / task / f"{Path(backbone).name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(
            f"--output {path} exists already: choose another folder, or continue that run with --resume {path}"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the run folder {path}: {error.strerror}") from error
    return path


def find_checkpoint(path: str | Path, name: str = "last") -> Path:
    """The checkpoint file meant by a run folder, its checkpoints folder, or the file itself. Raises BadInput."""
    path = Path(path)
    if path.is_file():
        return path
    for candidate in (path / "checkpoints" / f"{name}.ckpt", path / f"{name}.ckpt"):
        if candidate.is_file():
            return candidate
    raise BadInput(f"{path} is neither a checkpoint nor a run folder with checkpoints/{name}.ckpt")


def latest_run(task: str) -> Path:
    """The run of a task whose last checkpoint is the newest. Raises BadInput where there is none."""
    found = sorted((RUNS / task).glob("*/checkpoints/last.ckpt"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise BadInput(f"there is no run under {RUNS / task} yet: make one with `python -m {task}.train`")
    return found[-1].parent.parent


def is_run(file: Path) -> bool:
    """Whether a file is a checkpoint of this suite. Raises BadInput where it cannot be read at all."""
    content = read_file(file)
    return isinstance(content, dict) and isinstance(content.get("run"), dict) and "state_dict" in content


def read_run(path: str | Path) -> tuple[RunInfo, dict[str, torch.Tensor]]:
    """A run's description and the weights it was evaluated with. Raises BadInput for any other file, and for a newer
    version's.
    """
    file = find_checkpoint(path)
    if not is_run(file):
        raise BadInput(f"{file} is not a checkpoint of this suite: it carries no run description")
    checkpoint = read_file(file)
    prefix = "model."
    state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    try:
        return RunInfo(**run_fields(checkpoint["run"], file)), state
    except TypeError as error:
        raise BadInput(f"{file} describes its run otherwise than this version does ({error})") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
