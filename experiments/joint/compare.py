"""`python -m experiments.joint compare`: one network with several heads against one network for each of them.

`python -m experiments.compare --joint` is the same. Flags that are not in this list are those of the trainings, of all
of them or of one head: --epochs 12 --detection.lr 0.002 --data.segmentation.root FOLDER. Those of the joint training
alone are --joint.FLAG, such as --joint.balance pcgrad. To resume, run the same command: finished trainings are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from engine.cli import command
from experiments.jobs.arguments import group_arguments
from experiments.joint.config import JointCompareConfig

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
