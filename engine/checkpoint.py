"""Run folders and checkpoints. Writing is atomic, so a crash cannot damage a checkpoint; reading executes no code."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from backbones.errors import BadInput, UserError
from backbones.lora import merged_state
from backbones.weight_files import read_file
from data.lock import lock_or_warn
from data.protocols import LabelledDataset
from data.reader import ImageReader
from engine.schema import run_fields

log = logging.getLogger(__name__)

RUNS = Path("runs")
PATIENCE = 15.0  # seconds to wait for the loader processes of a killed trainer to exit
# The file whose lock a trainer holds. On Windows other processes cannot read a locked file.
LOCKED = ".lock" if sys.platform == "win32" else "config.yaml"
# What a run and its trackers write before the first checkpoint.
BEGUN = (
    "config.yaml", ".config.yaml.*", ".lock", "metrics.csv", ".metrics.csv.*", "checkpoints", "events.out.tfevents.*",
    "mlflow.id", "wandb.id", "wandb",
)  # fmt: skip


@dataclass
class RunInfo:
    """The description of a run that each checkpoint contains besides weights. All values are plain Python values.

    Attributes:
        task: name of the task, such as "detection".
        dataset: root folder, fingerprints and counts, see `describe_data`.
        config: the settings of the run.
        classes: class names by index.
        preprocessing: mean and std of the normalisation, and input size (height, width) in pixels; see `values_of`.
        provenance: origin of the initial weights.
        extra: other values that the task needs to rebuild the model.
    """

    task: str
    dataset: dict[str, Any]
    config: dict[str, Any]
    classes: list[str]
    preprocessing: dict[str, Any]
    provenance: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)


def describe_data(root: Path, train: LabelledDataset, val: LabelledDataset) -> dict[str, Any]:
    """`RunInfo.dataset` for these training and validation sets: how they were read, fingerprints and reports."""
    return {
        "root": str(root),
        "folder": str(train.folder),
        "format": train.columns.format,
        "exif": train.exif,
        "fingerprint": {"train": train.fingerprint, "val": val.fingerprint},
        "fingerprint_version": train.fingerprint_version,
        "digests": {"train": train.digests, "val": val.digests},
        "train": asdict(train.report),
        "val": asdict(val.report),
    }


def values_of(train: ImageReader) -> dict[str, Any]:
    """The entries of `RunInfo.preprocessing` about the values of images that are not 8-bit RGB.

    `levels` is the range of 16-bit values that is mapped to 0..255. `channels` describes images of other channels; the
    `mean` and `std` are then theirs, not those of the weights.
    """
    if train.channels is not None:
        return train.channels.preprocessing()
    return {} if train.levels is None else {"levels": list(train.levels)}


def sweep(folder: Path) -> None:
    """Delete the temporary files of killed processes from a checkpoints folder."""
    for leftover in folder.glob(".*.ckpt.*"):
        leftover.unlink()


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a run folder. Raises UserError if one does.

    Loader processes share the lock. If a trainer is killed, they keep it for some seconds. If the file system has no
    locks, a warning states that other processes cannot be kept away. Raises BadInput if the folder cannot be written.
    """
    try:
        file = open(folder / LOCKED, "a" if LOCKED == ".lock" else "r+")  # noqa: SIM115 - closed below
    except OSError as error:
        raise BadInput(f"{folder} cannot be written: {error.strerror}") from error
    with file:
        if not lock_or_warn(file, PATIENCE, folder, "training"):
            raise UserError(f"another process is training in {folder}: wait for it, or stop it")
        yield


def new_run_folder(task: str, backbone: str, output: str | None) -> Path:
    """The folder for a new run: `output`, or runs/TASK/BACKBONE-TIME. Creates nothing, see `begin_run`.

    Raises UserError if it exists and holds anything but a run that stopped before its first checkpoint.
    """
    path = Path(output) if output else RUNS / task / f"{Path(backbone).name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if path.exists() and not (path.is_dir() and (_is_begun(path) or not any(path.iterdir()))):
        raise UserError(
            f"`output={path}` already exists: choose another folder, or resume that run with `resume={path}`",
            settings=("output", "resume"),
        )
    return path


@contextmanager
def begin_run(path: Path) -> Iterator[None]:
    """Create the folder of a new run. If the block fails before the first checkpoint, remove what it wrote there.

    So a corrected command can use the same folder. Also removes the files of a run that was killed before its first
    checkpoint. Raises UserError if that run is still in progress, BadInput if the folder cannot be created.
    """
    exists = path.exists()
    if exists and _is_begun(path):
        with occupied(path):
            log.warning("%s holds a run that stopped before its first checkpoint: this run replaces it", path)
            _remove_begun(path)
    make_folder(path)
    try:
        yield
    except BaseException:
        if not has_checkpoint(path):
            _remove_begun(path)
            if not exists and not any(path.iterdir()):
                path.rmdir()
        raise


def has_checkpoint(path: Path) -> bool:
    """Whether a run folder has a checkpoint."""
    return any((path / "checkpoints").glob("[!.]*.ckpt"))


def _is_begun(path: Path) -> bool:
    """Whether a folder holds a run without a checkpoint, and nothing else. Settings by hand have no `resume`."""
    if not (path / "config.yaml").is_file() or has_checkpoint(path):
        return False
    if any(not any(entry.match(pattern) for pattern in BEGUN) for entry in path.iterdir()):
        return False
    try:
        config = yaml.safe_load((path / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(config, dict) and "resume" in config


def _remove_begun(path: Path) -> None:
    """Delete what a run writes before its first checkpoint. Other files stay."""
    for entry in [entry for pattern in BEGUN for entry in path.glob(pattern)]:
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def make_folder(path: str | Path) -> Path:
    """Create a folder with its parents, unless it exists. Raises BadInput if that fails."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot create the folder {path}: {error.strerror}") from error
    return path


def find_checkpoint(path: str | Path, name: str = "last") -> Path:
    """The checkpoint file for `path`: in a run folder, its checkpoints folder, or a folder with a run as safetensors.

    A file is returned unchanged.

    `name` is "last" or "best". Raises BadInput if there is no such file.
    """
    path = Path(path)
    if path.is_file():
        return path
    for candidate in (path / "checkpoints" / f"{name}.ckpt", path / f"{name}.ckpt", path / "model.safetensors"):
        if candidate.is_file():
            return candidate
    if (path / "record.json").is_file():
        raise BadInput(f"the run {path} has no checkpoints/{name}.ckpt any more: it was deleted, or not kept (--keep)")
    raise BadInput(f"{path} is neither a checkpoint nor a run folder with checkpoints/{name}.ckpt")


def latest_run(task: str, program: str | None = None) -> Path:
    """The folder of the task's run with the newest checkpoint. Raises BadInput if the task has no run.

    `program`: the package of its commands; by default the task's name.
    """
    found = sorted((RUNS / task).glob("*/checkpoints/last.ckpt"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise BadInput(f"{RUNS / task} contains no run: train one with `python -m {program or task}.train`")
    return found[-1].parent.parent


def read_run(path: str | Path) -> tuple[RunInfo, dict[str, torch.Tensor]]:
    """A run's description, and the weights that it was evaluated with.

    Raises BadInput if `path` is not a run, or a run of a newer version of this package.
    """
    file = find_checkpoint(path)
    found = run_in(file)
    if found is None:
        raise BadInput(f"{file} is not a checkpoint of this package: it contains no run description")
    return found


def run_in(file: Path) -> tuple[RunInfo, dict[str, torch.Tensor]] | None:
    """What `read_run` returns for a file, which is read once; None for a file of another kind.

    Raises BadInput if it cannot be read, or is a run of a newer version of this package.
    """
    checkpoint = read_file(file)
    if not _is_run(checkpoint):
        return None
    prefix = "model."
    state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    try:
        return RunInfo(**run_fields(checkpoint["run"], file)), merged_state(state)
    except TypeError as error:
        raise BadInput(f"{file} contains a run description that this version cannot read ({error})") from error


def _is_run(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("run"), dict) and "state_dict" in content
