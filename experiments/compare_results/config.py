"""Settings of `python -m experiments.compare_results`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backbones.errors import UserError
from data.options import BoxOptions, ClassOptions, MaskOptions
from detection.config import MAX_DETECTIONS, check_max_detections
from experiments.tasks import TASKS, task_spec

IMAGE_IDS = ("ids", "names")
CATEGORY_IDS = ("ids", "from0", "from1")
LABELS = ("names", "indices")
PIXELS = ("values", "indices")
OF_TASK = {
    "image_ids": "detection",
    "category_ids": "detection",
    "labels": "classification",
    "pixels": "segmentation",
}


@dataclass
class TruthData(BoxOptions, MaskOptions, ClassOptions):
    """How to read the truth, with the flags of training."""

    split: str | None = None
    """Split of the truth, if it is a data set with several. By default its validation split."""


@dataclass
class CompareResultsConfig:
    """Settings of `compare_results`."""

    task: str | None = None
    """What the results are: detection, segmentation or classification."""
    truth: str | None = None
    """What the results are scored against: a COCO file, a table of files and labels, a folder of masks, or a data set
    in any layout that training reads."""
    results: list[str] = field(default_factory=list)
    """Results of each network as NAME=FILE, or NAME=FILE,FILE for trainings with several seeds."""
    baseline: str | None = None
    """Name that the others are compared with. By default the first one."""
    metric: str | None = None
    """Metric to compare. By default AP, mIoU or top1."""
    image_ids: list[str] = field(default_factory=list)
    """What an image_id in detections is: ids of the truth (ids), or file names with or without folder and suffix
    (names). A value for all results, or NAME=VALUE for each. By default recognised from the values."""
    category_ids: list[str] = field(default_factory=list)
    """What a category_id in detections is: ids of the truth (ids), or positions in the truth's classes sorted by id,
    counted from 0 or 1 (from0, from1). A value for all results, or NAME=VALUE for each. By default recognised from the
    values."""
    labels: list[str] = field(default_factory=list)
    """What a predicted class in a table is: the name of the class (names), or its position in the truth's classes,
    counted from 0 (indices). A value for all results, or NAME=VALUE for each. By default recognised from the values."""
    pixels: list[str] = field(default_factory=list)
    """What a pixel of a predicted mask is: the value of the class in the truth's masks (values), or the position in its
    classes, counted from 0 (indices). A value for all results, or NAME=VALUE for each. By default values."""
    max_detections: int = MAX_DETECTIONS
    """Largest number of detections of an image and class that are scored, the best ones. COCO's number is 100."""
    output: str = "runs/compare_results"
    """Folder for results.csv, results.md and report.html. Existing ones are overwritten."""
    data: TruthData = field(default_factory=TruthData)

    def check(self) -> None:
        """Raise UserError for missing settings, and for settings that contradict each other."""
        if self.task is None or self.truth is None or not self.results:
            missing = [
                f"--{name}" for name, value in (("task", self.task), ("truth", self.truth), ("results", self.results))
                if not value
            ]  # fmt: skip
            raise UserError(
                f"{' and '.join(missing)} missing. An example: --task detection --truth instances_val.json --results "
                "a=a.json b=b.json"
            )
        if self.task not in TASKS:
            raise UserError(f"--task {self.task}: there are {', '.join(TASKS)}")
        names = list(self.files())
        if len(names) < 2:
            raise UserError(f"--results {' '.join(self.results)}: a comparison needs at least two names")
        if self.baseline is not None and self.baseline not in names:
            raise UserError(f"--baseline {self.baseline} is not among --results {', '.join(names)}")
        metrics = task_spec(self.task).image_metrics
        if self.metric is not None and self.metric not in metrics:
            raise UserError(f"--metric {self.metric}: {self.task} can be compared on {', '.join(metrics)}")
        check_max_detections(self.max_detections)
        for flag, task in OF_TASK.items():
            if getattr(self, flag) and task != self.task:
                raise UserError(f"--{flag} is for {task}, not for {self.task}: leave it out")
        if self.data.train is not None or self.data.val is not None:
            raise UserError("name the truth with --truth and --data.split, not with --data.train or --data.val")
        for name in names:
            self.image_ids_of(name)
            self.category_ids_of(name)
            self.labels_of(name)
            self.pixels_of(name)
        if (Path(self.output) / "comparison.json").exists():
            raise UserError(f"--output {self.output} has a comparison of trainings: choose another folder")

    def files(self) -> dict[str, list[Path]]:
        """The files of each name, in the order of the command. Raises UserError for an entry that cannot be read."""
        found: dict[str, list[Path]] = {}
        for entry in self.results:
            name, equals, text = entry.partition("=")
            name = name.strip()
            paths = [text] if Path(text).exists() else [part.strip() for part in text.split(",")]
            if not equals or not name or not all(paths):
                raise UserError(f"--results {entry}: expected NAME=FILE or NAME=FILE,FILE")
            if name in found:
                raise UserError(f"--results has the name {name} twice: pass its files as {name}=FILE,FILE")
            if len(set(paths)) < len(paths):
                raise UserError(f"--results {entry}: a file is given twice. Several files of a name are several seeds")
            found[name] = [Path(path) for path in paths]
        return found

    def image_ids_of(self, name: str) -> str | None:
        """What `image_ids` says for a name; None to recognise it."""
        return self._choice("image_ids", self.image_ids, IMAGE_IDS, name)

    def category_ids_of(self, name: str) -> str | None:
        """What `category_ids` says for a name; None to recognise it."""
        return self._choice("category_ids", self.category_ids, CATEGORY_IDS, name)

    def labels_of(self, name: str) -> str | None:
        """What `labels` says for a name; None to recognise it."""
        return self._choice("labels", self.labels, LABELS, name)

    def pixels_of(self, name: str) -> str:
        """What `pixels` says for a name."""
        return self._choice("pixels", self.pixels, PIXELS, name) or "values"

    def _choice(self, flag: str, entries: Sequence[str], known: Sequence[str], wanted: str) -> str | None:
        names, chosen = self.files(), None
        for entry in entries:
            name, equals, value = entry.rpartition("=")
            if equals and name not in names:
                raise UserError(f"--{flag} {entry}: '{name}' is not among --results {', '.join(names)}")
            if value not in known:
                raise UserError(f"--{flag} {entry}: there are {', '.join(known)}")
            if not equals and chosen is None:
                chosen = value
            if equals and name == wanted:
                return value
        return chosen
