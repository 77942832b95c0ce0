"""The `eval` command of joint networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import track

from data.loader import eval_loader
from engine.checkpoint import make_folder
from engine.config import EvalData
from engine.console import err, log_to_terminal, out
from engine.evaluation import print_scores
from engine.execution import device_of, execution_for
from engine.record import write_json
from engine.restore import data_root, restore_task
from engine.spec import CommandSpec
from experiments.joint.batches import EvalLoader
from experiments.joint.config import JointEvalConfig
from experiments.tasks import TASKS


def head_dataset(task: Any, name: str, data: EvalData) -> Any:
    """The images that a head is scored on, with its transform: those of its training, or of `data.root`."""
    head = task.head(name)
    spec = TASKS[head.info.task]
    own = spec.eval_config().data
    common = {key: value for key, value in vars(data).items() if hasattr(own, key) and value is not None}
    return head.eval_dataset(Path(data_root(head, spec, data.root)), replace(own, **common))


def evaluate(spec: CommandSpec, config: JointEvalConfig) -> dict[str, float]:
    """Evaluate each head of a run, with the preprocessing of its task. Returns the metrics as `NAME.METRIC`.

    The data are those of the training, or `data.root` for all heads.
    """
    log_to_terminal(spec.name)
    device = device_of(config.device)
    execution = execution_for(device.type, config.precision, "eval")
    execution.begin()
    task: Any = restore_task(spec, config)
    execution.place(task.to(device).eval().model)
    loaders = {}
    for name in task.tasks:
        dataset = head_dataset(task, name, config.data)
        loaders[name] = eval_loader(dataset, config.batch_size, config.data.workers)
        out.print(f"{name}: {dataset.columns.source}, {len(dataset)} images", markup=False)
    loader = EvalLoader(loaders)
    metrics = task.evaluate(track(loader, "evaluating", len(loader), console=err, transient=True), config.precision)
    for name, head in task.tasks.items():
        out.print(f"\nhead {name}", markup=False)
        print_scores(head, head.scores)
    print_scores(task, metrics)
    if config.output:
        folder = make_folder(config.output)
        write_json(folder / "metrics.json", metrics)
        task.write_results(folder)
        out.print(f"metrics.json and the results of each head in {folder}")
    return metrics
