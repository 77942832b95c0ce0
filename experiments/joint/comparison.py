"""Trains joint and single-task networks with the same budget, and compares their scores and costs."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backbones.errors import BadInput, UserError
from engine.checkpoint import make_folder
from engine.cli import INTERRUPTED, parse
from engine.config import parse_size
from engine.console import err, log_to_terminal
from engine.record import command_line, write_json
from experiments.jobs.local import failure_reason
from experiments.joint.config import JointCompareConfig, JointTrainConfig, kinds_of
from experiments.joint.records import HEADS
from experiments.joint.settings import SHARED, by_flag, resolved, split_by_head, without_preset
from experiments.records import read_record
from experiments.statistics import compare_to_baseline, read_images
from experiments.tasks import TASKS

RESULT = "joint.json"
COST = "training_cost.json"


@dataclass(frozen=True)
class Training:
    """One training: the package of its command, its flags without `--output`, and its folder."""

    package: str
    arguments: tuple[str, ...]
    folder: Path

    @property
    def words(self) -> list[str]:
        """The flags with which `train` starts it, resumes it, or does nothing if it is complete."""
        return [*self.arguments, "--output", str(self.folder), "--resume", "auto"]


class Plan:
    """The trainings of a backbone and a seed.

    Args:
        config: settings of the comparison.
        words: flags of all trainings.
        joint: flags of the joint training alone.
    """

    def __init__(self, config: JointCompareConfig, words: Sequence[str], joint: Sequence[str]) -> None:
        for word in words:
            name = word.partition("=")[0].removeprefix("--")
            if word.startswith("--") and name in ("backbone", "seed", "output", "resume", "heads"):
                raise UserError(f"--{name} cannot be set: the comparison sets it")
        self.config, self.joint_words = config, tuple(joint)
        self.kinds = kinds_of(config.heads)
        self.words = tuple(words)
        self._heads = ("--heads", *config.heads)
        own, by_head = split_by_head([*words, *joint, *self._heads])
        parsed = parse("experiments.joint.train", JointTrainConfig, own)
        self.settings = resolved(parsed, own, by_head)
        self.settings.check()
        shared, self._by_head = split_by_head([*words, *self._heads])
        # The flags that all tasks have, with their values.
        self._shared = [
            word
            for flag, group in by_flag(shared).items()
            if flag.startswith("--data.") or flag.removeprefix("--") in SHARED
            for word in group
        ]

    @property
    def epochs(self) -> int:
        """Epochs of the single trainings."""
        return self.settings.epochs

    def single(self, name: str, backbone: str, seed: int) -> Training:
        """The training of one head's task alone, with the neck and the size of the joint network."""
        kind = self.kinds[name]
        preset, words = without_preset(self._by_head.get(name, ()))
        network = ["--neck", "bifpn"] if kind == "classification" else ["--phi", str(self.settings.phi)]
        arguments = (*preset, *self._shared, *words, *network, "--epochs", str(self.epochs), *_of(backbone, seed))
        return self._training(kind, arguments, f"{name}-alone", backbone, seed)

    def joint(self, backbone: str, seed: int, epochs: int | None = None) -> Training:
        """The joint training."""
        more = () if epochs is None else ("--epochs", str(epochs))
        arguments = (*self.words, *self.joint_words, *self._heads, *more, *_of(backbone, seed))
        return self._training("experiments.joint", arguments, "joint", backbone, seed)

    def _training(self, package: str, arguments: Sequence[str], name: str, backbone: str, seed: int) -> Training:
        digest = hashlib.sha256(json.dumps([f"{package}.train", *arguments]).encode()).hexdigest()[:8]
        place = "".join(c if c.isalnum() or c in "._" else "-" for c in backbone)
        folder = Path(self.config.output) / "trainings" / place / f"{name}-s{seed}-{digest}"
        return Training(package, tuple(arguments), folder)


def _of(backbone: str, seed: int) -> tuple[str, ...]:
    return "--backbone", backbone, "--seed", str(seed)


def compare(config: JointCompareConfig, words: Sequence[str], joint: Sequence[str]) -> dict[str, Any]:
    """Train everything that is not complete yet, compare, and write tables. Returns what `joint.json` holds.

    Raises BadInput if a training fails; the others stay, so that the same command resumes.
    """
    from experiments.joint.costs import costs
    from experiments.joint.tables import write_tables

    log_to_terminal("joint")
    plan = Plan(config, words, joint)
    if config.dry_run:
        for backbone in config.backbones:
            for training in (*(plan.single(name, backbone, 0) for name in plan.kinds), plan.joint(backbone, 0)):
                print(shlex.join(["python", "-m", f"{training.package}.train", *training.words]))
        return {}
    folder = make_folder(config.output)
    rows: list[dict[str, Any]] = []
    found: dict[str, Any] = {}
    for backbone in config.backbones:
        singles = {name: [] for name in plan.kinds}  # type: dict[str, list[Path]]
        joints: dict[str, list[Path]] = {budget: [] for budget in config.budgets}
        epochs = {"epochs": plan.epochs}
        for seed in range(config.seeds):
            for name in plan.kinds:
                singles[name].append(train(plan.single(name, backbone, seed)))
            equal = train(plan.joint(backbone, seed, plan.epochs))
            for budget in config.budgets:
                if budget == "macs":
                    epochs["macs"] = epochs_of_equal_cost([singles[name][0] for name in singles], equal)
                    joints[budget].append(train(plan.joint(backbone, seed, epochs["macs"])))
                else:
                    joints[budget].append(equal)
        own = compared(backbone, plan, singles, joints, epochs)
        rows += own
        first = {name: runs[0] for name, runs in singles.items()}
        found[backbone] = costs(first, next(iter(joints.values()))[0])
        document = {
            "command_line": shlex.join(command_line()),
            "settings": asdict(plan.settings),
            "rows": rows,
            "costs": found,
        }
        write_json(folder / RESULT, document)
        write_tables(folder, rows, found)
    return document


def train(training: Training) -> Path:
    """Train, unless it is complete. Returns the run folder. Raises BadInput with the reason if it fails."""
    if (training.folder / "record.json").is_file() and (training.folder / "done").is_file():
        return training.folder
    err.print(f"training {training.folder}", markup=False)
    log = training.folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as out:
        process = subprocess.run(
            [sys.executable, "-m", f"{training.package}.train", *training.words],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        out.write(process.stderr)
    if process.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    if process.returncode:
        reason = failure_reason(process.stderr.splitlines(), process.returncode)
        raise BadInput(f"{training.folder}: {reason}. To resume, run the same command")
    (training.folder / "done").touch()  # after the pictures, which a training writes last
    return training.folder


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
