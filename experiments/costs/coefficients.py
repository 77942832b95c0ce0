"""The arithmetic of compound scaling (arXiv:1905.11946, section 3.3): candidates, families, equal costs. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from backbones.architecture import VARIANTS, Architecture, counts, scaled

DOUBLE = 2.0  # what depth * width^2 * resolution^2 is at phi 1
MOST = 16.0  # factor on one dimension that is still tried to reach a cost
PHIS = range(8)
STEPS = 100  # of phi, on the way to a cost


@dataclass(frozen=True)
class Coefficients:
    """Factors on depth, width and resolution at phi 1: alpha, beta and gamma of the paper."""

    depth: float
    width: float
    resolution: float

    def of(self, base: Architecture, phi: float) -> Architecture:
        """The member `phi` of the family; at 0 the base itself."""
        grown = scaled(base, self.width**phi, self.depth**phi)
        return replace(grown, image_size=round(base.image_size * self.resolution**phi))


# The paper's: section 3.3, step 1.
PUBLISHED = Coefficients(1.2, 1.1, 1.15)
DIMENSIONS: dict[str, Coefficients] = {  # scaled alone, each so that phi 1 doubles the cost
    "depth": Coefficients(DOUBLE, 1.0, 1.0),
    "width": Coefficients(1.0, math.sqrt(DOUBLE), 1.0),
    "resolution": Coefficients(1.0, 1.0, math.sqrt(DOUBLE)),
}


def candidates(depths: Sequence[float], widths: Sequence[float]) -> Iterator[Coefficients]:
    """All pairs that leave something to resolution, which follows from `depth * width^2 * resolution^2 = 2`."""
    for depth in depths:
        for width in widths:
            rest = DOUBLE / (depth * width**2)
            if rest >= 1:
                yield Coefficients(depth, width, math.sqrt(rest))


def at_cost(base: Architecture, coefficients: Coefficients, macs: float) -> Architecture:
    """The member whose multiply-adds come nearest to `macs`; phi need not be whole.

    Blocks and channels are whole, and maps of odd images are rounded up, so that costs grow in steps, the larger the
    smaller images are: resolution, where it is scaled, makes up for them with a tenth more or less. What is left over
    differs; with images of 80 px it is up to 6%.
    """
    high = 1.0
    while _macs(coefficients.of(base, high)) < macs and high < MOST:
        high *= 2
    members = (coefficients.of(base, high * step / STEPS) for step in range(STEPS + 1))
    return min(
        (resized for member in dict.fromkeys(members) for resized in _resized(member, coefficients)),
        key=lambda resized: abs(_macs(resized) - macs),
    )


def of_cost(base: Architecture, macs: float, image_size: int) -> Architecture:
    """`base` made wider and deeper, or narrower and shallower, in the published proportion, until it costs `macs`.

    Images stay as they are: `macs` are multiply-adds of one of `image_size` pixels, as `counts` counts them. Blocks and
    channels are whole, so that the cost is met to within a few percent.
    """
    phis = (phi / STEPS for phi in range(-4 * STEPS, 4 * STEPS + 1))
    members = dict.fromkeys(scaled(base, PUBLISHED.width**phi, PUBLISHED.depth**phi) for phi in phis)
    return min(members, key=lambda member: abs(counts(member, image_size)[1] - macs))


def _resized(member: Architecture, coefficients: Coefficients) -> list[Architecture]:
    slack = member.image_size // 10 if coefficients.resolution > 1 else 0
    return [replace(member, image_size=member.image_size + more) for more in sorted(range(-slack, slack + 1), key=abs)]


def _macs(architecture: Architecture) -> int:
    return counts(architecture, architecture.image_size)[1]


@dataclass(frozen=True)
class Fit:
    """How near powers of the published coefficients come to a published network.

    Attributes:
        name: of that network.
        phi: where they come nearest.
        params, macs: of the scaled network, as a share of the published one's.
    """

    name: str
    phi: float
    params: float
    macs: float


def fits(base: Architecture, coefficients: Coefficients) -> list[Fit]:
    """For each of B0 to B7, the phi whose network has the most similar counts.

    The published family was not made by powers alone: its factors are rounded to tenths, and grow otherwise (B1 is
    deeper but not wider than B0, B7's depth is 1.2^6.2 and its width 1.1^7.3); `VARIANTS` holds them.
    """
    found = []
    for name in (f"efficientnet_b{phi}" for phi in PHIS):
        target = counts(VARIANTS[name], VARIANTS[name].image_size)

        def shares(phi: float, target: tuple[int, int] = target) -> tuple[float, float]:
            grown = coefficients.of(base, phi)
            params, macs = counts(grown, grown.image_size)
            return params / target[0], macs / target[1]

        def away(phi: float, of: Callable[[float], tuple[float, float]] = shares) -> float:
            return max(abs(math.log(share)) for share in of(phi))

        phi = min((step / 20 for step in range(161)), key=away)
        found.append(Fit(name, phi, *shares(phi)))
    return found
