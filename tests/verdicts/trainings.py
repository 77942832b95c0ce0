"""Many trainings of the same networks on the drawn scenes, to test verdicts with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments.jobs.cell import Cell
from experiments.jobs.local import finished, run
from experiments.jobs.lock import only_one, resumable

# Small trainings: about half a minute each on a core. The networks start from random weights.
ARGUMENTS = {
    "classification": ("--image_size", "64", "--epochs", "6", "--batch_size", "16"),
    "detection": ("--epochs", "5", "--batch_size", "8"),
    "segmentation": ("--image_size", "128", "--eval_size", "160", "--epochs", "4"),
}
TRAININGS = {
    ("classification", "resnet18"): 24,
    ("classification", "efficientnet_b0"): 24,
    ("detection", "resnet18"): 24,
    ("detection", "efficientnet_b0"): 24,
    ("segmentation", "resnet18"): 12,
    ("segmentation", "efficientnet_b0"): 12,
}


def cells(device: str) -> list[Cell]:
    """All trainings; those with the lowest seeds of all networks first."""
    most = max(TRAININGS.values())
    return [
        Cell(
            task,
            (*ARGUMENTS[task], "--protocol", "scratch", "--pretrained", "false", "--backbone", backbone,
             "--seed", str(seed), "--device", device, "--data.workers", "0"),
        )
        for seed in range(most)
        for (task, backbone), count in TRAININGS.items()
        if seed < count
    ]  # fmt: skip


def folder_of(output: Path, cell: Cell) -> Path:
    """The run folder of a training. It does not depend on the device."""
    return output / cell.task / f"{cell.config.backbone}-{cell.config.seed:02d}"


def train(output: Path, device: str, jobs: int) -> list[str]:
    """Train what is not finished yet, `jobs` at a time. Returns the errors."""
    errors: list[str] = []

    def one(cell: Cell) -> None:
        folder = folder_of(output, cell)
        if finished(cell, folder) is None:
            outcome = run(cell, folder, lock)
            print(f"{folder}: {outcome.error or f'{outcome.seconds:.0f} s'}", flush=True)
            if outcome.error:
                errors.append(f"{folder}: {outcome.error}")

    with only_one(output) as lock, resumable(), ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, cells(device)))
    return errors
