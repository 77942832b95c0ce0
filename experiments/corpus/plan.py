"""The plan of the corpus: which trainings it is to have. `plan.yaml` in the folder of results lists them.

```yaml
seeds: 3
networks:                      # group -> backbones
  pretrained: [tf_efficientnet_lite0]
  scratch: [resnet18]
sets:
  - name: bccd                 # in tables
    folder: bccd               # in the folder of all data sets
    task: detection
    added: 2026-11-26          # older entries are trained first
    arguments: --image_size 192 --epochs 8      # of the task's train command
    protocols:                 # protocol -> group of networks, and arguments of its own
      finetune: {networks: pretrained}
      scratch: {networks: scratch, arguments: --epochs 20}
```
"""

from __future__ import annotations

import datetime
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from backbones.errors import BadInput
from backbones.weight_files import weight_file
from engine.config import Protocol
from experiments.jobs.arguments import FIXED
from experiments.jobs.cell import Cell
from experiments.tasks import TASKS

PRETRAINED = "pretrained"  # group that networks with a weight file of the user's join
SCRATCH = "scratch"
PLAN_FIELDS = {"seeds", "networks", "sets"}
SET_FIELDS = {"name", "folder", "task", "added", "arguments", "protocols"}
PROTOCOL_FIELDS = {"networks", "arguments"}
NOT_ARGUMENTS = (*FIXED, "pretrained", "device", "data.root", "data.train", "data.val")


@dataclass(frozen=True)
class PlannedCell:
    """A training of the plan.

    Attributes:
        set: name of the data set.
        folder: of the data set, in the folder of all data sets.
        task, protocol, backbone, seed: of the training.
        added: when the plan got it.
        arguments: of the task's train command, without data, backbone, weights and seed.
    """

    set: str
    folder: str
    task: str
    protocol: str
    backbone: str
    seed: int
    added: datetime.date
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """The training in words."""
        return f"{self.task}/{self.set}/{self.protocol}/{self.backbone}, seed {self.seed}"

    def cell(self, root: Path, weights: Mapping[str, str]) -> Cell:
        """The training on this machine.

        Args:
            root: folder of the data sets.
            weights: backbone -> weight file.

        Raises UserError for settings that `train` refuses, and BadInput for a folder without a weight file.
        """
        file = weights.get(self.backbone) if self.protocol != SCRATCH else None
        return self.cell_with(root, None if file is None else str(weight_file(file)))

    def cell_with(self, root: Path, file: str | None) -> Cell:
        """The training with a weight file, which is not looked for; None for published or random weights."""
        named = () if file is None else ("--pretrained", file)
        words = ("--protocol", self.protocol, *self.arguments, "--data.root", str(root / self.folder))
        return Cell(self.task, (*words, "--backbone", self.backbone, *named, "--seed", str(self.seed)))


def read_plan(file: Path, weights: Mapping[str, str] | None = None) -> list[PlannedCell]:
    """All trainings of a plan, the oldest first: by date, then by seed, then in the order of the file.

    Args:
        file: the plan.
        weights: backbone -> weight file of networks that join the pretrained ones.

    Raises BadInput for a file that is no plan.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}", settings=("plan",)) from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is not a text file: {error}") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{file} is not valid YAML: {error}") from error
    try:
        return _planned(content, list(weights or {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"the field {error} is missing" if isinstance(error, KeyError) else error
        raise BadInput(f"{file} is not a plan of the corpus: {reason}") from error


def _planned(content: Any, with_file: list[str]) -> list[PlannedCell]:
    _only(content, PLAN_FIELDS, "the plan")
    for name, kind in (("networks", dict), ("sets", list)):
        if not isinstance(content[name], kind):
            raise ValueError(f"`{name}` is {content[name]!r}, not a {'list' if kind is list else 'mapping'}")
    seeds = content["seeds"]
    if not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"`seeds` is {seeds!r}, not a number of at least 1")
    networks = _networks(content["networks"], with_file)
    found: list[PlannedCell] = []
    for entry in content["sets"]:
        _only(entry, SET_FIELDS, "a set")
        for name in ("name", "folder"):
            if not isinstance(entry[name], str):
                raise ValueError(f"`{name}` of a set is {entry[name]!r}, not a text; put it in quotes")
        if not isinstance(entry["protocols"], dict):
            raise ValueError(f"`protocols` of {entry['name']} is {entry['protocols']!r}, not a mapping")
        if entry["task"] not in TASKS:
            raise ValueError(f"the task {entry['task']!r} is unknown")
        if not isinstance(entry["added"], datetime.date):
            raise ValueError(f"`added` is {entry['added']!r}, not a date such as 2026-11-26")
        for protocol, options in entry["protocols"].items():
            if protocol not in get_args(Protocol):
                raise ValueError(f"the protocol {protocol!r} is unknown: there are {', '.join(get_args(Protocol))}")
            _only(options, PROTOCOL_FIELDS, f"the protocol {protocol}")
            words = (*_words(entry), *_words(options))
            if fixed := [word for word in words if word.removeprefix("--").partition("=")[0] in NOT_ARGUMENTS]:
                raise ValueError(f"{fixed[0]} cannot stand in the arguments of a set: the corpus sets it")
            if options["networks"] not in networks:
                raise ValueError(f"the group of networks {options['networks']!r} is unknown")
            found += [
                PlannedCell(
                    set=entry["name"],
                    folder=entry["folder"],
                    task=entry["task"],
                    protocol=protocol,
                    backbone=backbone,
                    seed=seed,
                    added=entry["added"],
                    arguments=words,
                )
                for backbone in networks[options["networks"]]
                for seed in range(seeds)
            ]
    counts = Counter((cell.task, cell.set, cell.protocol, cell.backbone, cell.seed) for cell in found)
    if repeated := [key for key, count in counts.items() if count > 1]:
        task, name, protocol, backbone, _ = repeated[0]
        raise ValueError(f"{backbone} is listed twice for {task} on {name} with the protocol {protocol}")
    return sorted(found, key=lambda cell: (cell.added, cell.seed))


def _networks(groups: Mapping[str, Any], with_file: Sequence[str]) -> dict[str, list[str]]:
    for group, names in groups.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"the group of networks {group!r} is {names!r}, not a list of names")
    return {**groups, PRETRAINED: list(dict.fromkeys([*groups.get(PRETRAINED, []), *with_file]))}


def _words(part: Mapping[str, Any]) -> list[str]:
    text = part.get("arguments") or ""  # not None, for which shlex would read the standard input
    if not isinstance(text, str):
        raise ValueError(f"`arguments` is {text!r}, not a text")
    return shlex.split(text)


def _only(content: Any, known: set[str], of: str) -> None:
    """Raise ValueError if a part of the plan is no mapping, or has other fields than the known ones."""
    if not isinstance(content, dict):
        raise ValueError(f"{of} is {content!r}, not a mapping")
    if unknown := content.keys() - known:
        names = ", ".join(sorted(map(str, unknown)))
        raise ValueError(f"{of} has the unknown fields {names}: there are {', '.join(sorted(known))}")
