"""The task that `eval` and `predict` run: from a run, from a published weight file, or from a backbone's weights."""

from __future__ import annotations

from pathlib import Path

import torch

from backbones.errors import BadInput, UserError
from engine.checkpoint import RunInfo, find_checkpoint, latest_run, run_in
from engine.config import ScoreConfig, parse_size
from engine.console import err
from engine.hub import local_checkpoint
from engine.runtimes.files import Network, exported_file, open_exported, raise_unless_installed
from engine.spec import CommandSpec
from engine.task import Task


def restore_task(spec: CommandSpec, config: ScoreConfig) -> Task:
    """The task for `config.checkpoint`, else for `config.backbone`, else of the latest run.

    Its input size is `config.image_size` if that is set. Raises BadInput for a missing or unsuitable checkpoint, and
    UserError if the task has no published weights for the backbone.
    """
    task_class = spec.load_task()
    if config.checkpoint is None and config.backbone is not None:
        task = task_class.from_backbone(config.backbone, config)
    else:
        place = local_checkpoint(config.checkpoint) if config.checkpoint else str(latest_run(spec.name, spec.program))
        if config.checkpoint is None:
            err.print(f"using the latest run, {place}")
        exported = exported_file(place)
        if exported is not None:
            return _restore_exported(spec, config, exported)
        file = find_checkpoint(place)
        run = run_in(file)
        if run is not None:
            info, state = run
            if info.task != spec.name:
                raise _other_task(file, info.task)
            task = task_class.from_run(info, state, config)
        else:
            task = task_class.from_published(file, config)
    if config.image_size is not None:
        task.info.preprocessing["size"] = list(parse_size(config.image_size))
    if config.runtime != "torch":
        raise_unless_installed(config.runtime)
        from engine.export.write import converted  # not needed otherwise, and slow to import

        task.run_by(converted(spec.load_graphs()(task), config.runtime, config.precision))
    return task


def _restore_exported(spec: CommandSpec, config: ScoreConfig, file: Path) -> Task:
    """The task whose outputs an exported file computes."""
    if config.runtime not in ("torch", "openvino" if file.suffix == ".xml" else "onnx"):
        raise UserError(f"`runtime={config.runtime}` cannot run {file}: leave it out", settings=("runtime",))
    network = open_exported(file, config.precision)
    info = network.description.info
    if info.task != spec.name:
        raise _other_task(file, info.task)
    if config.image_size is not None:
        info.preprocessing["size"] = _size_of(network, config)
    task = task_without_values(spec, info, config)
    task.run_by(network)
    return task


def task_without_values(spec: CommandSpec, info: RunInfo, config: ScoreConfig) -> Task:
    """The task of a run without the weights of its model, whose outputs a `runtime` computes."""
    with torch.device("meta"):
        return spec.load_task().from_run(info, None, config)


def _size_of(network: Network, config: ScoreConfig) -> list[int]:
    """The input size of the settings. Raises UserError if the file does not take it."""
    description = network.description
    size, stored = list(parse_size(config.image_size or 0)), description.info.preprocessing["size"]
    fits = description.dynamic == "size" and all(side % description.multiple == 0 for side in size)
    if size != stored and not fits:
        wanted = f"multiples of {description.multiple}" if description.dynamic == "size" else f"{stored[0]}x{stored[1]}"
        raise UserError(
            f"`image_size={config.image_size}`: {config.checkpoint} takes images of {wanted} px. Export the run again "
            "with `image_size`, or with `dynamic=size`",
            settings=("image_size", "dynamic"),
        )
    return size


def _other_task(place: object, task: str) -> BadInput:
    """The error for a run of another task. The caller raises it."""
    return BadInput(f"{place} is a {task} run: use `python -m {task}.eval` or `.predict`")


def data_root(task: Task, spec: CommandSpec, root: str | None) -> Path:
    """Root folder of the evaluation data: `root`, else the data that the run was trained on."""
    if root:
        return Path(root)
    trained_on = task.info.config.get("data", {})
    if trained_on.get("root") is None and task.info.dataset.get("published"):
        raise UserError(
            "`root` is required to evaluate published weights: pass the folder of a data set", settings=("data.root",)
        )
    return spec.root_of(trained_on.get("root"), trained_on.get("train"))
