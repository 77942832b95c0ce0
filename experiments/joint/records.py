"""Writes the results of each head into a folder of its own, with a record that readers of single runs understand."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import blank_images
from backbones.compat import multiply_adds
from engine.checkpoint import RunInfo
from engine.error_files import write_errors
from engine.record import write_json
from experiments.joint.groups import leader
from experiments.joint.network import head_outputs
from experiments.tasks import TASKS

HEADS = "heads"


def write_heads(task: Any, folder: Path) -> None:
    """Write `heads/NAME/` for each head: the results and errors of the last evaluation as its task writes them.

    Also writes the agreement of the gradients.
    """
    for name in task.tasks:
        own = folder / HEADS / name
        own.mkdir(parents=True, exist_ok=True)
        head = task.head(name)
        head.write_results(own)
        write_errors(own, head.what_went_wrong())
    task.conflicts.write(folder)


def write_head_records(task: Any, folder: Path, record: dict[str, Any]) -> None:
    """Write `heads/NAME/record.json` of each head's task, from the record of the joint run.

    It has the head's scores, data and settings. Its costs are those of the whole network.
    """
    for name in task.tasks:
        write_json(folder / HEADS / name / "record.json", head_record(record, name, task.head(name)))


def head_record(joint: dict[str, Any], name: str, head: Any) -> dict[str, Any]:
    """The record of one head, from that of the joint run."""

    def own(scores: dict[str, Any]) -> dict[str, Any]:
        prefix = f"{name}."
        found = {key.removeprefix(prefix): value for key, value in scores.items() if key.startswith(prefix)}
        return found | ({"epoch": scores["epoch"]} if "epoch" in scores else {})

    info = head.info
    return joint | {
        "task": info.task,
        "recipe": TASKS[info.task].recipe,
        "dataset": info.dataset,
        "preprocessing": info.preprocessing,
        "config": asdict(head.config),
        "class_weights": info.extra.get("class_weights"),
        "metrics": own(joint["metrics"]),
        "best": own(joint["best"]),
        "joint": {"head": name, **{key: joint["config"][key] for key in ("heads", "balance", "loss_weights", "norms")}},
    }


def train_size(info: RunInfo) -> tuple[int, int]:
    """(height, width) of a head's training images."""
    height, width = info.extra.get("crop") or info.preprocessing["size"]
    return height, width


class GroupPass(nn.Module):
    """The training pass of a group of heads: images (B, C, H, W) -> their outputs."""

    def __init__(self, network: Any, names: list[str]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, images: Tensor) -> list[Any]:
        pyramid = self.network.pyramid(images)
        size = images.shape[-2], images.shape[-1]
        return [head_outputs(self.network.networks[name], pyramid, size) for name in self.names]


def write_training_cost(task: Any, folder: Path) -> None:
    """Write `training_cost.json`: multiply-adds of the forward passes of an epoch, in all and by group of heads."""
    groups = []
    for names, images in zip(task.groups, task.images_per_epoch, strict=True):
        first = task.tasks[leader(names, task.config.kinds)].info
        with torch.inference_mode():
            one = blank_images(task.model, *train_size(first), device=task.device)
            macs = multiply_adds(GroupPass(task.model, names).eval(), one)
        groups.append({"heads": names, "images": images, "macs_per_image": macs})
    total = sum(group["images"] * group["macs_per_image"] for group in groups)
    write_json(folder / "training_cost.json", {"macs_per_epoch": total, "groups": groups})
