"""The space that a search draws from: EfficientNets that differ from a base in what each stage is made of.

Kernels, expansions, squeeze-excitation, depth and width are chosen for each stage, as in MnasNet's search, which found
EfficientNet-B0 too (arXiv:1807.11626, section 4.1; there, widths and depths are relative to MobileNetV2's). Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from backbones.architecture import SQUEEZE, Architecture, Stage, round_channels

KERNELS = 3, 5
EXPANSIONS = 3, 4, 6
SQUEEZES = 0.0, SQUEEZE
LAYERS = -1, 0, 1  # more than the base has
WIDTHS = 0.75, 1.0, 1.25  # times the base's

Value = int | float


@dataclass(frozen=True)
class Space:
    """All networks whose stages are variants of the base's.

    A network is its parameters, `stageN.FIELD` with N from 1: no two sets of them make the same one, and the base is
    among them. What has one value only, such as the expansion of a stage without one, is no parameter.
    """

    base: Architecture

    @cached_property
    def choices(self) -> dict[str, tuple[Value, ...]]:
        """The values of each parameter, ascending."""
        return {
            f"stage{number}.{field}": tuple(sorted(values))
            for number, stage in enumerate(self.base.stages, 1)
            for field, values in _variants(stage).items()
            if len(values) > 1
        }

    @property
    def of_base(self) -> dict[str, Value]:
        """The base's parameters."""
        stages = enumerate(self.base.stages, 1)
        values = {f"stage{number}.{field}": value for number, stage in stages for field, value in vars(stage).items()}
        return {name: values[name] for name in self.choices}

    def architecture(self, chosen: Mapping[str, Value]) -> Architecture:
        """The network with these parameters."""
        stages = list(self.base.stages)
        for name in self.choices:
            stage, field = name.removeprefix("stage").split(".")
            place = int(stage) - 1
            stages[place] = replace(stages[place], **{field: chosen[name]})  # type: ignore[arg-type]
        return replace(self.base, stages=tuple(stages))


def _variants(stage: Stage) -> dict[str, set[Value]]:
    return {
        "kernel": {stage.kernel, *KERNELS},
        "expansion": {1} if stage.expansion == 1 else {stage.expansion, *EXPANSIONS},
        "squeeze": {stage.squeeze, *SQUEEZES},
        "repeats": {max(1, stage.repeats + more) for more in LAYERS},
        "channels": {stage.channels, *(round_channels(stage.channels * width) for width in WIDTHS)},
    }


def words(architecture: Architecture) -> str:
    """The stages, such as `1x16 k3 e1 se, 2x24 k5 e6`: layers x channels, kernel, expansion, squeeze-excitation."""
    return ", ".join(
        f"{stage.repeats}x{stage.channels} k{stage.kernel} e{stage.expansion}" + (" se" if stage.squeeze else "")
        for stage in architecture.stages
    )
