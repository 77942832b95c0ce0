"""`TaskSpec` describes a task to the rest of the package, without torch. Each task package builds its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import EvalConfig, PredictConfig, TrainConfig

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from engine.export.graphs import Graphs
    from engine.image_results import ImageResults
    from engine.task import Task


@dataclass(frozen=True)
class Benchmark:
    """The public data set that a task's published scores were measured on.

    Attributes:
        dataset: name of the data set.
        num_classes: number of its classes.
        some_classes: names of some of its classes. They distinguish it from other data sets with that many classes.
    """

    dataset: str
    num_classes: int
    some_classes: tuple[str, ...] = ()

    def matches(self, classes: Sequence[str]) -> bool:
        """Whether these are the benchmark's class names. Only the part of a name before a comma is compared."""
        names = {name.split(",")[0] for name in classes}
        return len(classes) == self.num_classes and names.issuperset(self.some_classes)


@dataclass(frozen=True, kw_only=True)
class CommandSpec:
    """What the commands need of a task, or of several tasks in one network.

    Importing a spec does not import torch; its callables import torch when they are called.

    Attributes:
        name: its name, such as "detection".
        metric: the headline metric. By default it selects the best epoch, and comparisons use it. It is a fraction in
            0..1, printed in percent. `train_config.metrics` has all metrics.
        train_config, eval_config, predict_config: classes of the settings of its commands.
        presets: folder of the NAME.yaml files for `--config NAME`.
        load_task: returns the task class.
        load_graphs: returns the class of the graphs that `export` writes.
        recipe: version of the recipe, which is raised by hand for each change that can alter a score: see
            CONTRIBUTING.md. Trainings of different versions are not compared.
        package: the package of its commands; by default its name.
    """

    name: str
    metric: str
    train_config: type[TrainConfig]
    eval_config: type[EvalConfig]
    predict_config: type[PredictConfig]
    presets: Path
    load_task: Callable[[], type[Task]]
    load_graphs: Callable[[], type[Graphs]]
    recipe: int = 1
    package: str | None = None

    @property
    def program(self) -> str:
        """The package whose modules are its commands: `python -m PROGRAM.train`."""
        return self.package or self.name

    def data_root(self, config: Any) -> Path:
        """Root folder of the training data."""
        raise NotImplementedError

    def root_of(self, root: str | None, train: str | None) -> Path:
        """The same for the values of the two settings."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TaskSpec(CommandSpec):
    """A task, whose package has its name.

    Attributes:
        image_metrics: the metrics that can be computed for any sample of the images, so that they can be compared.
        benchmark: the data set that the published scores were measured on.
        build_model: training settings and number of classes -> the model to train, with random weights.
        read_images: run folder, its record and one of `image_metrics` -> the results of each image that the run saved.
        read_errors: run folder and its record -> what `Task.what_went_wrong` returned, by file name; without the files
            that the run does not have and that its other files do not determine.
        error_row: the files of `read_errors` -> their main values by heading, fractions in 0..1, without those of
            missing files.
        error_title: what these values are.
        image_scores: run folder -> a score of each image by its key that distinguishes more than the compared metric of
            one image does. None if that metric is sufficient.
        draw_images: run folder, its record, keys of images -> pictures (H, W, 3) uint8 RGB by key, of the truth and
            of what the run predicted.
        averages_true_classes: whether comparisons average over the classes that occur in the truth, while the task's
            own scores include those that are only predicted. Then their scores are computed from `read_images`.
        sized_by_backbone: whether the default input size is the input size of the backbone's published weights.
    """

    image_metrics: tuple[str, ...]
    benchmark: Benchmark
    build_model: Callable[[Any, int], nn.Module]
    read_images: Callable[[Path, dict[str, Any], str], ImageResults]
    read_errors: Callable[[Path, dict[str, Any]], dict[str, dict[str, Any]]]
    error_row: Callable[[dict[str, dict[str, Any]]], dict[str, float]]
    error_title: str
    draw_images: Callable[[Path, dict[str, Any], Sequence[str]], dict[str, np.ndarray]]
    image_scores: Callable[[Path], dict[str, float]] | None = None
    averages_true_classes: bool = False
    sized_by_backbone: bool = False

    def data_root(self, config: Any) -> Path:
        """Root folder of the training data: `config.data.root`, the folder of `config.data.train`, or the demo data."""
        return self.root_of(config.data.root, config.data.train)

    def root_of(self, root: str | None, train: str | None) -> Path:
        """The same for the values of the two settings."""
        if root:
            return Path(root)
        if train:
            return Path(train.rpartition(":")[0] or train).parent
        return self.load_demo()

    def load_demo(self) -> Path:
        """Root folder of the task's demo data. The first call creates the data."""
        from data.demo import demo_root

        return demo_root(self.name)
