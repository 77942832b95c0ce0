"""`python -m experiments.joint compare`: one network with several heads against one network for each of them.

`python -m experiments.compare --joint` is the same. Flags that are not in this list are those of the trainings, of all
of them or of one head: --epochs 12 --detection.lr 0.002 --data.segmentation.root FOLDER. Those of the joint training
alone are --joint.FLAG, such as --joint.balance pcgrad. To resume, run the same command: finished trainings are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from backbones.errors import UserError
from engine.cli import command
from experiments.jobs.arguments import group_arguments
from experiments.joint.config import JointTrainConfig, kinds_of


@dataclass
class JointCompareConfig:
    """Compare a joint network with single-task networks."""

    backbones: list[str] = field(default_factory=lambda: ["tf_efficientnet_lite0"])
    """Networks that are compared, each on its own."""
    heads: list[str] = field(default_factory=lambda: JointTrainConfig().heads)
    """Heads of the joint network, as in its training. Each is also trained alone."""
    seeds: int = 1
    """Number of trainings of each network, with seeds 0, 1, ... A verdict needs at least 2."""
    budgets: list[Literal["epochs", "macs"]] = field(default_factory=lambda: ["epochs", "macs"])
    """What is equal: the number of epochs, or the cost of training as multiply-adds of forward passes (macs): the joint
    network then gets the epochs that all single trainings cost together."""
    output: str = "runs/joint-compare"
    """Folder for trainings, tables and report."""
    dry_run: bool = False
    """Only print the commands of the trainings with equal epochs."""

    def check(self) -> None:
        """Raise UserError for settings that no comparison could use."""
        kinds_of(self.heads)
        if self.seeds < 1:
            raise UserError(f"--seeds {self.seeds} is too small: it must be at least 1")
        if not self.backbones or not self.budgets:
            raise UserError("--backbones and --budgets need at least one value each")


OWN = {f"--{field.name}" for field in fields(JointCompareConfig)} | {"--help", "-h"}


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""

    def group_of(flag: str) -> tuple[str, str]:
        if flag.startswith("--joint."):
            return "joint", f"--{flag.removeprefix('--joint.')}"
        return ("own" if flag.partition("=")[0] in OWN else "training"), flag

    grouped = group_arguments(sys.argv[1:] if argv is None else argv, group_of)

    def run(config: Any) -> Any:
        config.check()
        from experiments.joint.comparison import compare

        return compare(config, grouped.get("training", []), grouped.get("joint", []))

    own = [*grouped[""], *grouped.get("own", [])]
    command("experiments.joint.compare", JointCompareConfig, run, __doc__ or "")(own)


if __name__ == "__main__":
    main()
