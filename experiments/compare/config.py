"""Settings of `python -m experiments.compare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from backbones.errors import UserError
from engine.config import Precision, Protocol
from experiments.costs.deployed import DeployedFormat
from experiments.jobs.arguments import files_by_backbone
from experiments.jobs.checkpoints import Keep
from experiments.jobs.runners import RunnerName, check_slots
from experiments.tasks import TASKS


@dataclass
class CompareConfig:
    """Settings of `compare`."""

    tasks: list[str] = field(default_factory=list)
    """Any of classification, detection and segmentation. By default the tasks that other flags name, such as
    --detection.epochs; if no flag does, all tasks."""
    backbones: list[str] = field(default_factory=lambda: ["efficientnet_b0", "resnet18"])
    """Networks to compare: names that `python -m backbones` lists, or module:function for your own."""
    baseline: str | None = None
    """Backbone that the others are compared with. By default the first ResNet, or without one the last backbone."""
    metric: list[str] = field(default_factory=list)
    """Metric to compare: a name for all tasks, such as precision, or TASK=NAME for each, such as detection=AP50. By
    default the headline metrics: top1, AP and mIoU. The trainings do not depend on it."""
    protocol: Protocol = "scratch"
    """How every backbone is trained: scratch (from random weights), finetune, lora, linear or frozen."""
    weights: list[str] = field(default_factory=list)
    """Weight files for single backbones, as BACKBONE=FILE, in place of their published weights. FILE may be a folder
    with a weight file, or a run folder. Needs --protocol finetune, lora, linear or frozen."""
    seeds: int = 1
    """Number of trainings of each backbone on each task, with seeds 0, 1, ..."""
    resplit: int = 0
    """Number of random divisions of the training images into images to train on and images to score. Each training has
    its own division and seed, so that verdicts cover which images were drawn for training. 0 uses the validation
    split."""
    tune: int = 0
    """Number of short trainings (trials) of each backbone on each task that choose its learning rate, weight decay,
    warm-up and, with finetune and lora, the factor on the backbone's learning rate. They are scored on held-out
    training images. The recipe and the best third of the others are then trained with all epochs. 0 uses the recipe."""
    epochs: int | None = None
    """Number of passes over the training images, for all tasks; by default as in the recipe."""
    budgets: list[int] = field(default_factory=list)
    """Several numbers of epochs, such as 3 10 30, to train to. Each is a training of its own with its own schedule."""
    equal: Literal["epochs", "seconds", "macs"] = "epochs"
    """What is the same for all backbones: the number of epochs, or what a training costs, as time on this machine or as
    multiply-adds. The other backbones get the epochs that the cost of the baseline's training buys."""
    batch_size: int | None = None
    """Number of images per batch, for all tasks; by default as in the recipe."""
    image_size: int | str | None = None
    """Side of the square input in pixels, or HxW, for all tasks; by default as in the recipe."""
    precision: Precision = "fp32"
    """Number format of the networks' arithmetic: fp32, or mixed precision with bf16 or fp16."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, mps."""
    runner: RunnerName = "local"
    """Where to train: on this machine, on a Ray cluster, whose address is in RAY_ADDRESS, or as jobs of a SLURM
    cluster, with sbatch's own variables such as SBATCH_PARTITION."""
    slots: int = 1
    """Number of trainings at the same time. They divide the cores, and each has a GPU of its own if there are
    several."""
    keep: Keep = "all"
    """Checkpoints of finished trainings that stay: all, which are the last and the best, one of them, or none. Only
    the last one can be scored on another split later."""
    output: str = "runs/compare"
    """Folder for trainings, tables and the report."""
    test_split: str | None = None
    """Split to score all finished trainings on at the end, such as test, after every choice was made on the validation
    split. The report shows both. Each training is scored on it once."""
    formats: list[DeployedFormat] = field(default_factory=list)
    """Runtimes to measure in the end, such as torch onnx openvino: score, latency, memory and file size of the first
    training of each backbone. Other runtimes than torch need the extra `export`."""
    joint: bool = False
    """Compare one network with several heads with single-task networks. It has other flags, which --joint --help
    lists."""
    corpus: str | None = None
    """Folder of a corpus, such as results: each training that finishes becomes a row of its corpus.csv."""
    dry_run: bool = False
    """Only list the trainings, with their estimated time, and how many seeds and images a difference takes."""
    pilot: str | None = None
    """Folder of finished trainings, from which --dry_run estimates the number of seeds. By default those of --output,
    or of the default folder for runs."""

    def check(self) -> None:
        """Raise UserError for settings that no comparison could use."""
        for name in self.tasks:
            if name not in TASKS:
                raise UserError(f"--tasks {name}: there are {', '.join(TASKS)}")
        if self.epochs is not None and self.budgets:
            raise UserError("--epochs and --budgets both set the number of epochs: use one of them")
        if any(epochs < 1 for epochs in self.budgets):
            raise UserError(f"--budgets {' '.join(map(str, self.budgets))}: each is at least 1 epoch")
        for name in ("tasks", "backbones", "budgets"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise UserError(f"--{name} {' '.join(map(str, values))}: the same value is given twice")
        if not self.backbones:
            raise UserError("--backbones needs at least one name; a comparison needs two")
        if self.baseline is not None and self.baseline not in self.backbones:
            raise UserError(f"--baseline {self.baseline} is not among --backbones {' '.join(self.backbones)}")
        if self.weights and self.protocol == "scratch":
            raise UserError(
                f"--weights {' '.join(self.weights)}: --protocol scratch, the default, starts from random weights. Use "
                "--protocol finetune, lora, linear or frozen"
            )
        _ = self.weights_by_backbone  # raises for wrong entries
        if self.resplit == 1 or self.resplit < 0:
            from experiments.statistics.resplits import FEWEST_DIVISIONS  # imports scipy

            raise UserError(f"--resplit {self.resplit} is too small: a verdict needs at least {FEWEST_DIVISIONS}")
        if self.resplit and self.seeds > 1:
            raise UserError(
                f"--seeds {self.seeds} and --resplit {self.resplit}: each division has its own seed. Use one"
            )
        if self.tune < 0 or self.tune == 1:
            raise UserError(
                f"--tune {self.tune} is too small: it must be at least 2. The first has the recipe's settings"
            )
        if self.tune and self.resplit:
            raise UserError(
                f"--tune {self.tune} chooses settings on held-out training images, which --resplit scores on: use one"
            )
        for name in self.formats:
            from engine.runtimes.files import raise_unless_installed  # imports torch

            raise_unless_installed(name.partition("-")[0])
        if self.corpus is not None and self.resplit:
            raise UserError("--corpus has scores of validation splits: leave out --resplit, which draws others")
        check_slots(self.slots)
        if self.seeds < 1:
            raise UserError(f"--seeds {self.seeds} is too small: it must be at least 1")

    @property
    def baseline_name(self) -> str:
        """The backbone that the others are compared with."""
        resnets = [name for name in self.backbones if name.startswith("resnet")]
        return self.baseline or (resnets or self.backbones[::-1])[0]

    @property
    def weights_by_backbone(self) -> dict[str, str]:
        """The weight files of `weights` by backbone. Raises UserError for wrong entries."""
        return files_by_backbone(self.weights, self.backbones)

    def metric_of(self, tasks: Sequence[str]) -> dict[str, str]:
        """The metric to compare of each of these tasks. Raises UserError for a metric that cannot be compared."""
        chosen = {task: TASKS[task].metric for task in tasks}
        for entry in self.metric:
            task, equals, name = entry.rpartition("=")
            if equals and task not in chosen:
                raise UserError(f"--metric {entry}: '{task}' is not among the tasks {', '.join(chosen)}")
            for known in [task] if equals else chosen:
                if name not in TASKS[known].image_metrics:
                    raise UserError(
                        f"--metric {entry}: {known} cannot be compared on {name}, but on "
                        f"{', '.join(TASKS[known].image_metrics)}"
                    )
                chosen[known] = name
        return chosen
