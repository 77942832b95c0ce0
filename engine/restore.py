"""The task that `eval` and `predict` run: from a run, from a published weight file, or from a backbone's weights."""

from __future__ import annotations

from backbones.errors import BadInput
from engine.checkpoint import find_checkpoint, latest_run, run_in
from engine.config import ScoreConfig, parse_size
from engine.console import err
from engine.spec import TaskSpec
from engine.task import Task


def restore_task(spec: TaskSpec, config: ScoreConfig) -> Task:
    """The task for `config.checkpoint`, else for `config.backbone`, else of the latest run.

    Its input size is `config.image_size` if that is set. Raises BadInput for a missing or unsuitable checkpoint, and
    UserError if the task has no published weights for the backbone.
    """
    task_class = spec.load_task()
    if config.checkpoint is None and config.backbone is not None:
        task = task_class.from_backbone(config.backbone, config)
    else:
        place = config.checkpoint or str(latest_run(spec.name))
        if config.checkpoint is None:
            err.print(f"using the latest run, {place}")
        file = find_checkpoint(place)
        run = run_in(file)
        if run is not None:
            info, state = run
            if info.task != spec.name:
                raise BadInput(f"{file} is a {info.task} run: use `python -m {info.task}.eval` or `.predict`")
            task = task_class.from_run(info, state, config)
        else:
            task = task_class.from_published(file, config)
    if config.image_size is not None:
        task.info.preprocessing["size"] = list(parse_size(config.image_size))
    return task
