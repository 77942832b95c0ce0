"""The `CommandSpec` of the joint network. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.spec import CommandSpec
from experiments.joint.config import METRIC, NAME, PRESETS, JointEvalConfig, JointPredictConfig, JointTrainConfig

if TYPE_CHECKING:
    from experiments.joint.graphs import JointGraphs
    from experiments.joint.task import JointTask


def load_task() -> type[JointTask]:
    """The task class."""
    from experiments.joint.task import JointTask

    return JointTask


def load_graphs() -> type[JointGraphs]:
    """The class of the graphs that `export` writes."""
    from experiments.joint.graphs import JointGraphs

    return JointGraphs


class JointSpec(CommandSpec):
    """The spec, whose heads have a root folder of data each."""

    def data_root(self, config: Any) -> Path:
        """No folder: `JointTask.prepare` finds that of each head."""
        return Path()


SPEC = JointSpec(
    name=NAME,
    metric=METRIC,
    train_config=JointTrainConfig,
    eval_config=JointEvalConfig,
    predict_config=JointPredictConfig,
    presets=PRESETS,
    load_task=load_task,
    load_graphs=load_graphs,
    package="experiments.joint",
)
