"""Writes the results of each head into a folder of its own, with a record that readers of single runs understand."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.error_files import write_errors
from engine.record import write_json
from experiments.tasks import TASKS

if TYPE_CHECKING:
    from experiments.joint.task import JointTask

HEADS = "heads"


def write_heads(task: JointTask, folder: Path) -> None:
    """Write `heads/NAME/` for each head: the results and errors of the last evaluation as its task writes them.

    If `folder` has the record of the joint run, each gets a `record.json` of its task, with the head's scores, data and
    settings. Its costs are those of the whole network. Also writes the agreement of the gradients.
    """
    file = folder / "record.json"
    joint = json.loads(file.read_text()) if file.is_file() else None
    for name in task.tasks:
        own = folder / HEADS / name
        own.mkdir(parents=True, exist_ok=True)
        head = task.head(name)
        head.write_results(own)
        write_errors(own, head.what_went_wrong())
        if joint is not None:
            write_json(own / "record.json", head_record(joint, name, head))
    task.conflicts.write(folder)


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
