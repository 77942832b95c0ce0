"""Starts a joint network from runs: heads from each of them, backbone and neck from the one named first."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from backbones.errors import BadInput
from engine.checkpoint import RunInfo, find_checkpoint, read_run
from experiments.joint.config import pairs

log = logging.getLogger(__name__)

# Lists of a BiFPN's layer that have one entry for each level.
BY_LEVEL = re.compile(r"^(layers\.\d+\.(?:top_down|bottom_up|project_down|project_up)\.)(\d+)(\..*)$")


def load_parts(task: Any) -> None:
    """Load the parts that the setting `init` names into a new network.

    Raises BadInput for a run of another backbone, task or size.
    """
    first = True
    for name, place in pairs(task.config.init, "init", task.config.kinds).items():
        info, state = read_run(place)
        parts = split(info, state, name, place, task.config.kinds[name])
        if first:
            _load_shared(task, info, parts, place)
            first = False
        _load_head(task, name, parts["head"], place, info)


def split(info: RunInfo, state: Mapping[str, Tensor], name: str, place: str, kind: str) -> dict[str, dict[str, Tensor]]:
    """The weights of a run as those of `backbone`, `neck` and `head`, each by the names within that part.

    Raises BadInput for a run of another task, or a joint run without this head.
    """
    if info.task == "joint":
        own = f"networks.{name}."
        if not any(key.startswith(own) for key in state):
            raise BadInput(f"{place} is a joint run without a head {name}", settings=("init",))
        state = {key.removeprefix(own): value for key, value in state.items() if not key.startswith("norms.")}
    elif info.task != kind:
        raise BadInput(f"{place} is a {info.task} run, but the head {name} is for {kind}", settings=("init",))
    parts: dict[str, dict[str, Tensor]] = {"backbone": {}, "neck": {}, "head": {}}
    for key, value in state.items():
        for prefix, part in (("backbone.", "backbone"), ("neck.", "neck"), ("decoder.neck.", "neck"), ("", "head")):
            if key.startswith(prefix):
                parts[part][key.removeprefix(prefix)] = value
                break
    return parts


def _load_shared(task: Any, info: RunInfo, parts: Mapping[str, Mapping[str, Tensor]], place: str) -> None:
    from backbones.weights import provenance_of_file  # imports timm

    network = task.model
    backbone, neck = dict(parts["backbone"]), dict(parts["neck"])
    if not neck:
        raise BadInput(f"{place} has no neck: train it with --neck bifpn", settings=("init",))
    wanted = network.backbone.state_dict()
    # A backbone with further levels has further layers, such as those for stride 4.
    if any(key not in wanted or value.shape != wanted[key].shape for key, value in backbone.items()):
        raise BadInput(f"{place} is a run of another backbone, {info.config['backbone']}", settings=("init",))
    network.backbone.load_state_dict(wanted | backbone)
    own = network.neck.state_dict()
    if info.task != "segmentation" and not _has_stride_4(info) and network.neck.levels[0].stride == 4:
        neck = {next_level(key): value for key, value in neck.items()}
        log.warning("%s has no map at stride 4: what the neck computes for it starts from random weights", place)
    if any(key not in own or value.shape != own[key].shape for key, value in neck.items()):
        raise BadInput(f"{place} has a neck of another size or kind: use the same phi and bifpn", settings=("init",))
    network.neck.load_state_dict(own | neck)
    provenance = provenance_of_file(network.backbone.name, str(find_checkpoint(place)), "run checkpoint")
    network.backbone.provenance = provenance
    task.info.provenance = provenance.as_dict()


def _has_stride_4(info: RunInfo) -> bool:
    if info.task != "joint":
        return False
    return info.config["finest"] == 4 or any(head["task"] == "segmentation" for head in info.extra["heads"].values())


def next_level(key: str) -> str:
    """The name of a tensor of a neck over P3 to P7 in a neck over P2 to P7."""
    found = BY_LEVEL.match(key)
    return key if found is None else f"{found[1]}{int(found[2]) + 1}{found[3]}"


def _load_head(task: Any, name: str, head: Mapping[str, Tensor], place: str, info: RunInfo) -> None:
    network = task.model.networks[name]
    own = network.state_dict()
    shared = ("backbone.", "neck.", "decoder.neck.")
    wanted = {key: value for key, value in own.items() if not key.startswith(shared)}
    fits = {key: value for key, value in head.items() if key in wanted and value.shape == wanted[key].shape}
    stored = info.extra["heads"][name]["classes"] if info.task == "joint" else info.classes
    same = list(stored) == list(task.tasks[name].info.classes)
    missing = [key for key in wanted if key not in fits and not key.endswith("num_batches_tracked")]
    if missing and same:
        raise BadInput(f"{place} has another head {name}: {missing[0]} is missing or has another shape")
    if not same:
        log.warning("%s has other classes: the last layer of the head %s starts from random weights", place, name)
        last = {id(p) for layer in task.head(name).final_layer() for p in layer.parameters()}
        names = {key for key, p in network.named_parameters() if id(p) in last}
        fits = {key: value for key, value in fits.items() if key not in names}
    network.load_state_dict(own | fits)
