"""Builds the network of a joint task, and describes its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from engine.checkpoint import RunInfo, read_run
from engine.config import parse_size
from engine.task import Task
from experiments.joint.config import NAME, JointTrainConfig, pairs
from experiments.joint.groups import leader
from experiments.joint.network import JointNetwork, create_joint
from experiments.tasks import TASKS

DESCRIBED = ("mean", "std", "size", "levels")  # what prediction needs of the preprocessing


def new_network(config: JointTrainConfig, train: Mapping[str, Any]) -> JointNetwork:
    """The network of a new run, for the training images of each head.

    The anchors of a detection head that starts from a run are that run's, which it knows.
    """
    runs = pairs(config.init, "init", config.kinds)
    scales = {
        name: _anchor_scale(config, name, train[name], runs.get(name))
        for name, kind in config.kinds.items()
        if kind == "detection"
    }
    return create_joint(
        config.backbone,
        {name: (kind, len(train[name].classes)) for name, kind in config.kinds.items()},
        config.phi or 0,
        False if config.protocol == "scratch" else config.pretrained,
        anchor_scales=scales,
        finest=config.finest,
        stochastic_depth=config.stochastic_depth,
        **_suppression(config, scales),
    )


def stored_network(config: JointTrainConfig, heads: Mapping[str, RunInfo], phi: str) -> JointNetwork:
    """The network of a finished run, with random weights."""
    kinds = config.kinds
    scales = {name: info.extra["anchor_scale"] for name, info in heads.items() if kinds[name] == "detection"}
    return create_joint(
        config.backbone,
        {name: (kind, len(heads[name].classes)) for name, kind in kinds.items()},
        phi,
        anchor_scales=scales,
        finest=config.finest,
        **_suppression(config, scales),
    )


def _suppression(config: JointTrainConfig, scales: Mapping[str, float]) -> dict[str, Any]:
    """The settings of non-maximum suppression: those of the first detection head."""
    for name in scales:
        own = config.head_config(name)
        return {"nms": own.nms, "max_detections": own.max_detections}
    return {}


def _anchor_scale(config: JointTrainConfig, name: str, train: Any, run: str | None) -> float:
    from backbones.scaling import scale_of
    from detection.task import DetectionTask

    own = config.head_config(name)
    if run is not None and not own.anchor_scale:
        info, _ = read_run(run)
        stored = info.extra.get("heads", {}).get(name, vars(info))
        size = parse_size(own.image_size or scale_of(own.phi).size)
        if stored["task"] == "detection" and tuple(stored["preprocessing"]["size"]) == size:
            return stored["extra"]["anchor_scale"]
    return DetectionTask.anchor_scale_of(own, train)


def describe(config: JointTrainConfig, tasks: Mapping[str, Task], groups: list[list[str]]) -> RunInfo:
    """The description of a new run. One pass for all heads has the input size of the first head with boxes or masks."""
    infos = {name: task.info for name, task in tasks.items()}
    first = infos[leader(groups[0], config.kinds)]
    return RunInfo(
        task=NAME,
        dataset={"root": ", ".join(dict.fromkeys(info.dataset["root"] for info in infos.values()))},
        config=asdict(config),
        classes=[],
        preprocessing={name: value for name, value in first.preprocessing.items() if name in DESCRIBED},
        provenance=first.provenance,
        extra={
            "neck": "bifpn",
            "phi": str(config.phi),
            "heads": {name: vars(info) for name, info in infos.items()},
            "groups": groups,
        },
    )


def stored_tasks(infos: Mapping[str, RunInfo], network: JointNetwork) -> dict[str, Task]:
    """The task of each head of a finished run, on its part of the network."""
    found: dict[str, Task] = {}
    for name, info in infos.items():
        spec = TASKS[info.task]
        found[name] = spec.load_task().from_run(info, None, spec.predict_config(), network.networks[name])
    return found
