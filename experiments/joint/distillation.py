"""Distillation: a head also learns the outputs of a single-task run for the same images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.errors import BadInput
from data.batch import Batch
from engine.checkpoint import read_run
from engine.task import Task
from experiments.tasks import TASKS


class Teacher:
    """A finished run, whose outputs a head learns.

    Args:
        name: name of the head.
        place: the run.
        head: the task of the head.

    Raises BadInput for a run of another task, with other classes, or a detector with other anchors.
    """

    def __init__(self, name: str, place: str, head: Task) -> None:
        info, state = read_run(place)
        kind = head.info.task
        if info.task != kind:
            raise BadInput(f"{place} is a {info.task} run, but the head {name} is for {kind}", settings=("distill",))
        if list(info.classes) != list(head.info.classes):
            raise BadInput(f"{place} has other classes than the head {name}", settings=("distill",))
        own, theirs = head.info.extra.get("anchor_scale"), info.extra.get("anchor_scale")
        if own != theirs:
            raise BadInput(
                f"{place} has anchors of scale {theirs:.3g}, the head {name} of {own:.3g}: set `anchor_scale`, or "
                "start from this run with `init`",
                settings=("distill", "anchor_scale", "init"),
            )
        spec = TASKS[kind]
        self.kind = kind
        self.task: Any = spec.load_task().from_run(info, state, spec.predict_config()).eval().requires_grad_(False)

    @torch.no_grad()
    def outputs(self, batch: Batch) -> Any:
        """What the run's network computes for a batch, normalised as in its training."""
        if self.task.device != batch.labels.device:
            self.task.to(batch.labels.device)
        return self.task.model(self.task.normalised(batch))

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The distance of a head's outputs for these images to those of the run, a scalar.

        Classification and segmentation: the Kullback-Leibler divergence of the classes (Hinton et al.,
        arXiv:1503.02531, at temperature 1), as a mean over images or pixels. Detection: the binary cross entropy of the
        scores, less its smallest value, and the absolute difference of the offsets, weighted by the run's best score at
        the anchor; both are sums divided by the sum of these scores + 1.
        """
        theirs = self.outputs(batch)
        if self.kind != "detection":
            ours, target = (x.float().log_softmax(1) for x in (outputs, theirs))
            return (target.exp() * (target - ours)).sum(1).mean()
        (logits, deltas), (their_logits, their_deltas) = outputs, theirs
        target = their_logits.float().sigmoid()
        best = target.amax(2)
        count = best.sum() + 1
        entropy = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="sum")
        lowest = F.binary_cross_entropy_with_logits(their_logits.float(), target, reduction="sum")
        offsets = ((deltas.float() - their_deltas.float()).abs().mean(2) * best).sum()
        return (entropy - lowest + offsets) / count
