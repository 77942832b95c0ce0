"""`python -m experiments.scaling`: how to make a network larger on your data: deeper, wider, or with larger images."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.jobs.study import run_study
from experiments.scaling.config import ScalingConfig, sized_for_demo

DESCRIPTION = (
    "Scale an EfficientNet as its paper did: a grid of factors on depth, width and resolution that double its cost is "
    "trained on part of the training images and scored on the rest; the best make a family, phi = 0 to 7. Scaling one "
    "dimension alone is compared with all three at equal multiply-adds. Settings of the training go as --TASK.FLAG "
    "VALUE, its data as --data.root FOLDER. Finished trainings are kept: the same command continues after an interrupt."
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""

    def work(config: ScalingConfig, asked: list[str]) -> None:
        from experiments.scaling.runner import scale

        scale(sized_for_demo(config, asked), asked)

    run_study("experiments.scaling", ScalingConfig, work, DESCRIPTION, argv)


if __name__ == "__main__":
    main()
