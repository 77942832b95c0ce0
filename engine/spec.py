"""What the package needs to know of a task before it loads torch. Each task package builds its own `TaskSpec`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import EvalConfig, PredictConfig, TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from engine.image_results import ImageResults
    from engine.task import Task


@dataclass(frozen=True)
class Benchmark:
    """The public data set that a task's published scores are of.

    Attributes:
        dataset: its name.
        num_classes: how many classes it has.
        some_classes: names of some of them, which tell it from another data set with as many classes.
    """

    dataset: str
    num_classes: int
    some_classes: tuple[str, ...] = ()

    def matches(self, classes: Sequence[str]) -> bool:
        """Whether these class names are the benchmark's."""
        names = {name.split(",")[0] for name in classes}
        return len(classes) == self.num_classes and names.issuperset(self.some_classes)


@dataclass(frozen=True)
class TaskSpec:
    """One task, as its package describes it. Importing a spec does not import torch; the callables do when called.

    Attributes:
        name: of the task and of its package, such as "detection".
        metric: the headline metric, which chooses the best epoch and is compared. A fraction in 0..1, shown in percent.
        train_config, eval_config, predict_config: settings of its commands.
        presets: folder of NAME.yaml files that `--config NAME` finds.
        benchmark: the data set that published scores are of.
        load_task: returns the task class.
        build_model: settings of a training and number of classes -> the model that it trains, with random weights.
        read_images: run folder and its record -> the results by image that the run left there.
        load_demo: returns the root of the demo data, drawn first where it is absent.
        sized_by_backbone: whether a training without `--image_size` takes the size of its backbone's weights.
    """

    name: str
    metric: str
    train_config: type[TrainConfig]
    eval_config: type[EvalConfig]
    predict_config: type[PredictConfig]
    presets: Path
    benchmark: Benchmark
    load_task: Callable[[], type[Task]]
    build_model: Callable[[Any, int], nn.Module]
    read_images: Callable[[Path, dict[str, Any]], ImageResults]
    load_demo: Callable[[], Path]
    sized_by_backbone: bool = False

    def data_root(self, config: TrainConfig) -> Path:
        """The data that a training reads: `--data.root`, or the demo data."""
        return Path(config.data.root) if config.data.root else self.load_demo()
