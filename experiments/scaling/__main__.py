"""`python -m experiments.scaling`: how to scale a network on your data: deeper, wider, or with larger images."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.jobs.study import run_study
from experiments.scaling.config import ScalingConfig
from experiments.scaling.demo import sized_for_demo

DESCRIPTION = (
    "Scale an EfficientNet as in its paper. Networks from a grid of factors on depth, width and resolution, each "
    "about twice as expensive as the base, are trained on part of the training images and scored on the rest. The best "
    "factors define a family, phi = 0 to 7. Then scaling one dimension is compared with scaling all three at equal "
    "multiply-adds. Pass settings of the trainings as --TASK.FLAG VALUE and their data as --data.root FOLDER. To "
    "resume after an interruption, run the same command: finished trainings are kept."
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""

    def run(config: ScalingConfig, train_arguments: list[str]) -> None:
        from experiments.scaling.runner import scale

        scale(sized_for_demo(config, train_arguments), train_arguments)

    run_study("experiments.scaling", ScalingConfig, run, DESCRIPTION, argv)


if __name__ == "__main__":
    main()
