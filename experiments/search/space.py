"""The search space: EfficientNets whose stages are variants of a base's stages. Torch-free.

Kernel, expansion, squeeze-excitation, depth and width are chosen for each stage, as in MnasNet's search, which also
found EfficientNet-B0 (arXiv:1807.11626, section 4.1; there, widths and depths are relative to MobileNetV2's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from backbones.architecture import SQUEEZE, Architecture, Stage, round_channels

KERNELS = 3, 5
EXPANSIONS = 3, 4, 6
SQUEEZES = 0.0, SQUEEZE
LAYERS = -1, 0, 1  # added to the base's
WIDTHS = 0.75, 1.0, 1.25  # factors on the base's

Value = int | float


@dataclass(frozen=True)
class Space:
    """All networks whose stages are variants of the base's.

    The parameters of a network are called `stageN.FIELD`, with N from 1. Different parameters make different networks,
    and the base is one of them. A field with a single value, such as expansion 1, is not a parameter.
    """

    base: Architecture

    @cached_property
    def choices(self) -> dict[str, tuple[Value, ...]]:
        """Possible values of each parameter, ascending."""
        return {
            f"stage{number}.{field}": tuple(sorted(values))
            for number, stage in enumerate(self.base.stages, 1)
            for field, values in _variants(stage).items()
            if len(values) > 1
        }

    @property
    def base_parameters(self) -> dict[str, Value]:
        """Parameters of the base."""
        stages = enumerate(self.base.stages, 1)
        values = {f"stage{number}.{field}": value for number, stage in stages for field, value in vars(stage).items()}
        return {name: values[name] for name in self.choices}

    def architecture(self, parameters: Mapping[str, Value]) -> Architecture:
        """Build the network with these parameters."""
        stages = list(self.base.stages)
        for name in self.choices:
            stage, field = name.removeprefix("stage").split(".")
            index = int(stage) - 1
            stages[index] = replace(stages[index], **{field: parameters[name]})  # type: ignore[arg-type]
        return replace(self.base, stages=tuple(stages))


def _variants(stage: Stage) -> dict[str, set[Value]]:
    return {
        "kernel": {stage.kernel, *KERNELS},
        "expansion": {1} if stage.expansion == 1 else {stage.expansion, *EXPANSIONS},
        "squeeze": {stage.squeeze, *SQUEEZES},
        "repeats": {max(1, stage.repeats + more) for more in LAYERS},
        "channels": {stage.channels, *(round_channels(stage.channels * width) for width in WIDTHS)},
    }


def describe(architecture: Architecture) -> str:
    """Describe the stages: `1x16 k3 e1 se, 2x24 k5 e6` is layers x channels, kernel, expansion, squeeze-excitation."""
    return ", ".join(
        f"{stage.repeats}x{stage.channels} k{stage.kernel} e{stage.expansion}" + (" se" if stage.squeeze else "")
        for stage in architecture.stages
    )
