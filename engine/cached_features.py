"""Cached features for `data.cached_augmentations`: train on a frozen backbone's features of a few augmentations."""

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
from data.protocols import LabelledDataset
from engine.execution import execution_for
from engine.record import PACKAGES
from engine.task import Task

# Settings that are not part of the cache key. Features do not depend on them, or the key contains their effect: images,
# random draws, weights. Every other setting, also one that is added later, is part of the key.
IGNORED = (
    "protocol", "freeze_stride", "epochs", "lr", "backbone_lr", "optimizer", "weight_decay", "warmup_epochs",
    "ema_decay", "norm_momentum", "clip", "accumulate", "eval_every", "output", "resume", "seed",
    "devices", "num_nodes", "sync_batchnorm", "compile", "logger", "monitor", "patience", "class_weights",
    "lora_rank", "checkpointing",
)  # fmt: skip
IGNORED_DATA = ("workers", "skip_bad", "fraction", "holdout", "balance", "cached_augmentations")


def cached_features(
    task: Task, train_set: LabelledDataset, val_set: LabelledDataset, err: Console
) -> tuple[CachedDataset, CachedDataset]:
    """Backbone features of the training and validation images, computed on the task's device or read from the cache.

    Args:
        task: the task, on its device.
        train_set, val_set: images with the transforms of training and evaluation.
        err: console for progress and for the folder of the features.

    Raises BadInput if the disk has no room for the features, or if an image cannot be read.
    """
    config = task.config
    common = _key(task)
    cached = []
    for dataset, augmentations, seed in ((train_set, config.data.cached_augmentations, config.seed), (val_set, 0, 0)):
        key = [*common, dataset.fingerprint, _modification_times(dataset), augmentations, seed]
        folder = cache_folder() / "features" / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]
        source = Augmentations(dataset, augmentations, seed)
        cached.append(cache_features(folder, _features(task, source, err), len(source), augmentations))
        size = sum(file.stat().st_size for file in folder.iterdir())
        err.print(
            f"features of {len(source)} images, {size / 1e6:.0f} MB, in {folder}; you can delete them at any time"
        )
    return cached[0], cached[1]


def _key(task: Task) -> list[Any]:
    """All that features depend on besides images and random draws, as plain values: settings, weights and code."""
    settings = {name: value for name, value in asdict(task.config).items() if name not in IGNORED}
    settings["data"] = {name: value for name, value in settings["data"].items() if name not in IGNORED_DATA}
    backbone: nn.Module = task.model.backbone  # type: ignore[assignment]
    weights = hashlib.sha256()
    for name, value in backbone.state_dict().items():
        weights.update(name.encode())
        weights.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    versions = {name: metadata.version(name) for name in PACKAGES}
    return [task.name, settings, task.info.preprocessing, weights.hexdigest(), _code_digest(task, backbone), versions]


def _code_digest(task: Task, backbone: nn.Module) -> str:
    """SHA-256 (hex) of the source files that compute features: networks, transforms and the backbone's modules."""
    root = Path(__file__).parents[1]
    files = {file for package in ("backbones", "data", task.name) for file in (root / package).rglob("*.py")}
    for module in backbone.modules():
        file = getattr(sys.modules[type(module).__module__], "__file__", None)
        files |= {Path(file)} if file else set()
    digest = hashlib.sha256()
    for content in sorted(file.read_bytes() for file in files):
        digest.update(content)
    return digest.hexdigest()


def _modification_times(dataset: LabelledDataset) -> str:
    """SHA-256 (hex) of the modification times of the data set's files.

    They detect changed content, where the fingerprint covers only names and sizes.
    """
    digest = hashlib.sha256()
    for index in range(len(dataset)):
        path = dataset.path(index)
        file = next((file for file in (path, path.parent) if file.is_file()), None)  # an image in a table is TABLE/ROW
        digest.update(b"%d " % (file.stat().st_mtime_ns if file is not None else -1))
    return digest.hexdigest()


@torch.inference_mode()
def _features(task: Task, source: Augmentations, err: Console) -> Iterator[tuple[Batch, CachedFeatures]]:
    """Batches and the backbone's feature maps of their images, in the precision of the training."""
    device = task.device
    arithmetic = execution_for(device.type, task.config.precision, "train").arithmetic
    task.model.eval()
    loader = eval_loader(source, task.config.batch_size, task.config.data.workers)
    for batch in track(loader, f"features of {len(source)} images", console=err, transient=True):
        with arithmetic(device.type):
            maps = task.model.features_to_cache(task.normalised(batch.to(device)))  # type: ignore[operator]
        yield batch, CachedFeatures(maps, (batch.images.shape[2], batch.images.shape[3]))
