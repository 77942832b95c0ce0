"""Experiment trackers for `--logger`: they log what `metrics.csv` contains. mlflow and wandb are imported on use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from backbones.errors import UserError, first_line
from engine.history import History
from engine.schema import flat

PROJECT = "backbone-swap"


class Trackers(Callback):
    """Sends the settings of a run, and each row of its history, to Lightning's loggers.

    A resumed run continues under its own name: TensorBoard drops the points after the checkpoint, mlflow and wandb find
    the run by an id in the run folder (`mlflow.id`, `wandb.id`).

    Args:
        names: any of "tensorboard", "mlflow" and "wandb".
        history: history of the run. Its last row is sent after each epoch, so this callback must run after it.
        task: name of the task; trackers group runs by it.
        settings: settings of the run.

    Raises UserError at the start of training if a tracker cannot be reached.
    """

    def __init__(self, names: Sequence[str], history: History, task: str, settings: Mapping[str, Any]) -> None:
        self.names, self.history, self.task, self.settings = list(dict.fromkeys(names)), history, task, dict(settings)
        self.loggers: list[Logger] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.loggers = [
            _LOGGERS[name](self.history.folder, self.task, self.settings, trainer.global_step) for name in self.names
        ]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        row = {name: value for name, value in self.history.rows[-1].items() if math.isfinite(value)}
        step = int(row.pop("step"))
        for logger in self.loggers:
            logger.log_metrics(row, step)
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close("finished")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close("KILLED" if isinstance(exception, KeyboardInterrupt) else "failed")

    def _close(self, status: str) -> None:
        """End the runs with a status that mlflow knows. For the status "success", TensorBoardLogger adds a file."""
        loggers, self.loggers = self.loggers, []
        for logger in loggers:
            logger.finalize(status)
            if isinstance(logger, WandbLogger):  # otherwise its run lasts as long as the process
                logger.experiment.finish(exit_code=0 if status == "finished" else 1)


def _tensorboard(folder: Path, task: str, settings: dict[str, Any], step: int) -> Logger:
    """Write event files to the run folder. Settings are logged as text: hyperparameters would need a final score."""
    logger = TensorBoardLogger(folder, name="", version="", default_hp_metric=False, purge_step=step + 1)
    if step == 0:
        text = yaml.safe_dump(settings, sort_keys=False)
        logger.experiment.add_text("settings", "    " + text.replace("\n", "\n    "), 0)
    return logger


def _mlflow(folder: Path, task: str, settings: dict[str, Any], step: int) -> Logger:
    """Log to MLFLOW_TRACKING_URI, by default to mlflow's store in the working folder, which `mlflow ui` opens."""
    import mlflow
    from mlflow.exceptions import MlflowException

    known = _id(folder / "mlflow.id")
    logger = MLFlowLogger(
        experiment_name=f"{PROJECT} {task}",
        run_name=folder.name,
        tracking_uri=mlflow.get_tracking_uri(),
        run_id=known,
    )
    try:
        if known is None:
            (folder / "mlflow.id").write_text(f"{logger.run_id}\n")
            logger.log_hyperparams(dict(flat(settings)))
        else:
            logger.experiment.update_run(known, status="RUNNING")
    except MlflowException as error:
        raise UserError(f"--logger mlflow fails at {mlflow.get_tracking_uri()}: {first_line(error)}") from error
    return logger


def _wandb(folder: Path, task: str, settings: dict[str, Any], step: int) -> Logger:
    """Log to wandb. With WANDB_MODE=offline, all files stay in the run folder; `wandb sync` uploads them."""
    import wandb

    known = _id(folder / "wandb.id")
    logger = WandbLogger(name=folder.name, save_dir=folder, project=PROJECT, group=task, id=known)
    try:
        (folder / "wandb.id").write_text(f"{logger.experiment.id}\n")
    except wandb.Error as error:
        raise UserError(
            f"--logger wandb cannot start: {first_line(error)}. Run `wandb login`, or set WANDB_MODE=offline."
        ) from error
    if known is None:
        logger.log_hyperparams(settings)
    return logger


_LOGGERS: dict[str, Callable[[Path, str, dict[str, Any], int], Logger]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}


def _id(file: Path) -> str | None:
    return file.read_text().strip() if file.is_file() else None
