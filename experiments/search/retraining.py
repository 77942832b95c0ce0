"""The command that retrains the best network of a search, next to the base and the base scaled to the same cost."""

from __future__ import annotations

from collections.abc import Sequence

from backbones.architecture import architecture_of, counts
from experiments.costs.coefficients import scaled_to_cost
from experiments.jobs.arguments import FIXED, group_arguments
from experiments.jobs.study import StudyFolder
from experiments.search.config import SearchConfig

SCALED_BASE = "base-at-its-cost"  # stored name of the base, scaled to the cost of a network that was found
OUTPUT = "{folder}-rematch"


def retraining_command(
    config: SearchConfig, shared: Sequence[str], folder: StudyFolder, number: int, side: int
) -> list[str]:
    """Store the scaled base, and return the command of the comparison.

    Args:
        config: of the search.
        shared: arguments of all its trainings.
        folder: of the search.
        number: of the trial with the best network.
        side: of the square image in pixels, at which costs are equal.
    """
    best = f"{folder.path}#{number}"
    scaled_name = f"{SCALED_BASE}-{number}"
    macs = counts(architecture_of(f"{folder.path.resolve()}#{number}"), side)[1]
    folder.save_network(scaled_name, scaled_to_cost(architecture_of(config.base), macs, side))

    def group_of(flag: str) -> tuple[str, str]:
        setting = flag.removeprefix("--")
        return "fixed" if setting.partition("=")[0] in FIXED else "", f"--{config.task}.{setting}"

    backbones = [best, f"{folder.path}#{scaled_name}", config.base]
    fixed = ["--tasks", config.task, "--baseline", config.base, "--seeds", "3"]
    fixed += ["--output", OUTPUT.format(folder=folder.path)]
    own = group_arguments(shared, group_of)[""]
    return ["python", "-m", "experiments.compare", "--backbones", *backbones, *fixed, *own]
