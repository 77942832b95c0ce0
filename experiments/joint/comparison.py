"""Trains joint and single-task networks with the same budget, and compares their scores and costs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from backbones.errors import BadInput
from engine.config import parse_size
from engine.console import log_to_terminal
from engine.record import command_line, write_json
from experiments.jobs.local import failure_reason, run_training
from experiments.jobs.lock import only_one, resumable
from experiments.jobs.progress import ProgressDisplay
from experiments.joint.config import JointCompareConfig
from experiments.joint.plan import Plan, Training
from experiments.joint.records import HEADS
from experiments.records import read_record
from experiments.statistics import compare_to_baseline, read_images
from experiments.tasks import TASKS

RESULT = "joint.json"
COST = "training_cost.json"


def compare(config: JointCompareConfig, words: Sequence[str], joint: Sequence[str]) -> dict[str, Any]:
    """Train everything that is not complete yet, compare, and write tables. Returns what `joint.json` holds.

    Args:
        config: settings of the comparison.
        words: flags of all trainings.
        joint: flags of the joint training alone.

    Raises BadInput if a training fails; the others stay, so that the same command resumes.
    """
    log_to_terminal("joint")
    plan = Plan(config, words, joint)
    if config.dry_run:
        for backbone in config.backbones:
            for training in (*(plan.single(name, backbone, 0) for name in plan.kinds), plan.joint(backbone, 0)):
                print(shlex.join(["python", "-m", f"{training.package}.train", *training.words]))
        return {}
    with only_one(Path(config.output)) as lock, resumable():
        return JointComparison(plan, lock).run()


class JointComparison:
    """Runs a comparison in its folder.

    Args:
        plan: the trainings.
        lock: the folder's lock, which trainings inherit.
    """

    def __init__(self, plan: Plan, lock: IO[str]) -> None:
        self.plan, self.config, self.lock = plan, plan.config, lock
        per_seed = len(plan.kinds) + 1 + ("macs" in self.config.budgets)
        self.display = ProgressDisplay(len(self.config.backbones) * self.config.seeds * per_seed)

    def run(self) -> dict[str, Any]:
        """Train, compare, and write the tables again after each backbone. Returns what `joint.json` holds."""
        from experiments.joint.costs import costs
        from experiments.joint.tables import write_tables

        rows: list[dict[str, Any]] = []
        found: dict[str, Any] = {}
        document: dict[str, Any] = {}
        with self.display:
            for backbone in self.config.backbones:
                singles, joints, epochs = self.train_all(backbone)
                rows += compared(backbone, self.plan, singles, joints, epochs)
                first = {name: runs[0] for name, runs in singles.items()}
                found[backbone] = costs(first, next(iter(joints.values()))[0])
                document = {
                    "command_line": shlex.join(command_line()),
                    "settings": asdict(self.plan.settings),
                    "rows": rows,
                    "costs": found,
                }
                write_json(Path(self.config.output) / RESULT, document)
                write_tables(Path(self.config.output), rows, found)
        return document

    def train_all(self, backbone: str) -> tuple[dict[str, list[Path]], dict[str, list[Path]], dict[str, int]]:
        """Train all networks with a backbone. Returns the single runs by head, and joint runs and epochs by budget."""
        plan, budgets = self.plan, self.config.budgets
        singles: dict[str, list[Path]] = {name: [] for name in plan.kinds}
        joints: dict[str, list[Path]] = {budget: [] for budget in budgets}
        epochs = {"epochs": plan.epochs}
        for seed in range(self.config.seeds):
            for name in plan.kinds:
                singles[name].append(self.train(plan.single(name, backbone, seed)))
            equal = self.train(plan.joint(backbone, seed, plan.epochs))
            if "epochs" in budgets:
                joints["epochs"].append(equal)
            if "macs" in budgets:
                epochs["macs"] = epochs_of_equal_cost([singles[name][0] for name in singles], equal)
                joints["macs"].append(self.train(plan.joint(backbone, seed, epochs["macs"])))
        return singles, joints, epochs

    def train(self, training: Training) -> Path:
        """Train, unless it is complete. Returns the run folder. Raises BadInput with the reason if it fails."""
        is_finished = (training.folder / "record.json").is_file()
        self.display.start(training.name, is_finished)
        if not is_finished:
            code, lines = run_training(
                training.package, training.words, training.folder, self.lock, self.display.show_line
            )
            if code:
                reason = failure_reason(lines, code)
                raise BadInput(f"{training.folder}: {reason}. To resume, run the same command")
        self.display.end(read_record(training.folder)["train_seconds"], self.score_text(training))
        return training.folder

    def score_text(self, training: Training) -> str:
        """The scores of a finished training, such as `AP 45.1  mIoU 70.2`."""
        whole = training.package == "experiments.joint"
        runs = [training.folder / HEADS / name for name in self.plan.kinds] if whole else [training.folder]
        records = [read_record(run) for run in runs]
        scores = [(TASKS[record["task"]].metric, record["metrics"]) for record in records]
        return "  ".join(
            f"{metric} " + ("--" if (value := metrics[metric]) is None else f"{100 * value:.1f}")
            for metric, metrics in scores
        )


def epochs_of_equal_cost(singles: Sequence[Path], joint: Path) -> int:
    """Epochs of the joint network that cost as many multiply-adds as these trainings of all single networks."""
    own = json.loads((joint / COST).read_text())
    return max(1, round(sum(map(training_macs, singles)) / own["macs_per_epoch"]))


def training_macs(run: Path) -> float:
    """Multiply-adds of the forward passes of a single-task training."""
    record = read_record(run)
    size, batch = record["config"]["batch_size"], record["dataset"]["train"]["images"]
    images = batch // size * size or batch
    macs = record["macs"]
    if (crop := record["config"].get("image_size")) is not None:  # multiply-adds are counted at the size of evaluation
        height, width = parse_size(crop)
        whole = record["preprocessing"]["size"]
        macs *= height * width / (whole[0] * whole[1])
    return macs * images * record["config"]["epochs"]


def compared(
    backbone: str,
    plan: Plan,
    singles: dict[str, list[Path]],
    joints: dict[str, list[Path]],
    epochs: dict[str, int],
) -> list[dict[str, Any]]:
    """A row for each budget and head: scores, difference with interval, verdict, and times of training."""
    rows = []
    for budget, runs in joints.items():
        for name, kind in plan.kinds.items():
            own = [run / HEADS / name for run in runs]
            sides = {
                "single": [read_images(run) for run in singles[name]],
                "joint": [read_images(run) for run in own],
            }
            difference = compare_to_baseline(sides, "single")["joint"]
            metric = TASKS[kind].metric
            rows.append(
                {
                    "backbone": backbone,
                    "budget": budget,
                    "head": name,
                    "metric": metric,
                    "single": [read_record(run)["metrics"][metric] for run in singles[name]],
                    "joint": [read_record(run)["metrics"][metric] for run in own],
                    "difference": asdict(difference),
                    "epochs": {"single": epochs["epochs"], "joint": epochs[budget]},
                    "train_seconds": {
                        "single": [read_record(run)["train_seconds"] for run in singles[name]],
                        "joint": [read_record(run)["train_seconds"] for run in own],
                    },
                }
            )
    return rows
