"""`--data.cached_augmentations`: training on a frozen backbone's features of a few augmentations of each image."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from backbones.base import CachedFeatures
from data.atomic_directory import cache_folder
from data.batch import Batch
from data.cached_features import Augmentations, CachedDataset, cache_features
from data.loader import eval_loader
from data.reader import LabelledDataset
from engine.execution import execution_for
from engine.record import PACKAGES
from engine.task import Task

# Settings that features do not depend on, or by what is told apart from them: images, draws, weights. Any other, known
# or new, makes features of its own.
FREE = (
    "protocol", "freeze_stride", "epochs", "lr", "backbone_lr", "optimizer", "weight_decay", "warmup_epochs",
    "ema_decay", "norm_momentum", "clip", "accumulate", "eval_every", "output", "resume", "seed",
    "logger",
)  # fmt: skip
FREE_DATA = ("workers", "skip_bad", "fraction", "holdout", "cached_augmentations")


def cached_features(
    task: Task, train_set: LabelledDataset, val_set: LabelledDataset, err: Console
) -> tuple[CachedDataset, CachedDataset]:
    """Training and validation images as the backbone of `task` sees them; the task is left on its device.

    Raises BadInput where the cache has no room for them, or where an image cannot be read.
    """
    config = task.config
    common = _told(task)
    found = []
    for dataset, augmentations, seed in ((train_set, config.data.cached_augmentations, config.seed), (val_set, 0, 0)):
        told = [*common, dataset.fingerprint, _times(dataset), augmentations, seed]
        folder = cache_folder() / "features" / hashlib.sha256(json.dumps(told).encode()).hexdigest()[:20]
        source = Augmentations(dataset, augmentations, seed)
        found.append(cache_features(folder, _seen(task, source, err), len(source), augmentations))
        size = sum(file.stat().st_size for file in folder.iterdir())
        err.print(f"features of {len(source)} images, {size / 1e6:.0f} MB, in {folder}; they can be deleted any time")
    return found[0], found[1]


def _told(task: Task) -> list[Any]:
    """What features depend on besides images and draws, as plain values: settings, weights, code."""
    settings = {name: value for name, value in asdict(task.config).items() if name not in FREE}
    settings["data"] = {name: value for name, value in settings["data"].items() if name not in FREE_DATA}
    backbone: nn.Module = task.model.backbone  # type: ignore[assignment]
    weights = hashlib.sha256()
    for name, value in backbone.state_dict().items():
        weights.update(name.encode())
        weights.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    versions = {name: metadata.version(name) for name in PACKAGES}
    return [task.name, settings, task.info.preprocessing, weights.hexdigest(), _code(task, backbone), versions]


def _code(task: Task, backbone: nn.Module) -> str:
    """SHA-256 (hex) of the files that features are computed by: networks, transforms, and the backbone's own."""
    ours = Path(__file__).parents[1]
    files = {file for package in ("backbones", "data", task.name) for file in (ours / package).rglob("*.py")}
    for module in backbone.modules():
        file = getattr(sys.modules[type(module).__module__], "__file__", None)
        files |= {Path(file)} if file else set()
    digest = hashlib.sha256()
    for content in sorted(file.read_bytes() for file in files):
        digest.update(content)
    return digest.hexdigest()


def _times(dataset: LabelledDataset) -> str:
    """SHA-256 (hex) of when the data set's files were last changed: content may change where names and sizes do not."""
    digest = hashlib.sha256()
    for index in range(len(dataset)):
        for file in dataset.files(index):
            digest.update(b"%d " % (file.stat().st_mtime_ns if file.exists() else -1))
    return digest.hexdigest()


@torch.inference_mode()
def _seen(task: Task, source: Augmentations, err: Console) -> Iterator[tuple[Batch, CachedFeatures]]:
    """Batches, and the backbone's maps of them, in the arithmetic of the training."""
    device = task.device
    arithmetic = execution_for(device.type, task.config.precision, "train").arithmetic
    task.model.eval()
    loader = eval_loader(source, task.config.batch_size, task.config.data.workers)
    for batch in track(loader, f"features of {len(source)} images", console=err, transient=True):
        with arithmetic(device.type):
            maps = task.model.maps(task.normalised(batch.to(device)))  # type: ignore[operator]
        yield batch, CachedFeatures(maps, (batch.images.shape[2], batch.images.shape[3]))
