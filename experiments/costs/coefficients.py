"""Arithmetic of compound scaling (arXiv:1905.11946, section 3.3): candidates, families, equal costs. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from backbones.architecture import VARIANTS, Architecture, counts, scaled

DOUBLE = 2.0  # value of depth * width^2 * resolution^2 at phi 1
MOST = 16.0  # largest phi that is tried to reach a cost
PHIS = range(8)  # of the published family, and of those that are stored
STEPS = 100  # of phi, in the search for a cost


@dataclass(frozen=True)
class Coefficients:
    """Factors on depth, width and resolution at phi 1: alpha, beta and gamma of the paper."""

    depth: float
    width: float
    resolution: float

    def of(self, base: Architecture, phi: float) -> Architecture:
        """Return the family member `phi`. The member 0 is the base itself."""
        network = scaled(base, self.width**phi, self.depth**phi)
        return replace(network, image_size=round(base.image_size * self.resolution**phi))


PUBLISHED = Coefficients(1.2, 1.1, 1.15)  # arXiv:1905.11946, section 3.3, step 1
DIMENSIONS: dict[str, Coefficients] = {  # each scales one dimension only, and phi 1 doubles the cost
    "depth": Coefficients(DOUBLE, 1.0, 1.0),
    "width": Coefficients(1.0, math.sqrt(DOUBLE), 1.0),
    "resolution": Coefficients(1.0, 1.0, math.sqrt(DOUBLE)),
}


def candidates(depths: Sequence[float], widths: Sequence[float]) -> Iterator[Coefficients]:
    """Yield all pairs of depth and width with the resolution that makes `depth * width^2 * resolution^2` 2.

    Pairs that would need a resolution below 1 are left out.
    """
    for depth in depths:
        for width in widths:
            rest = DOUBLE / (depth * width**2)
            if rest >= 1:
                yield Coefficients(depth, width, math.sqrt(rest))


def member_at_cost(base: Architecture, coefficients: Coefficients, macs: float) -> Architecture:
    """Return the family member whose multiply-adds at its own image size are nearest to `macs`, at least the base's.

    phi need not be whole. Blocks and channels are whole numbers, and the sizes of feature maps are rounded up, so costs
    grow in steps, which are larger for smaller images. Where resolution is scaled, it is adjusted by up to 10% to
    compensate. The remaining difference is up to 6% for images of 80 px.
    """
    high = 1.0
    while _macs(coefficients.of(base, high)) < macs and high < MOST:
        high *= 2
    return _nearest(base, coefficients, (high * step / STEPS for step in range(STEPS + 1)), macs)


def scaled_to_cost(base: Architecture, macs: float, image_size: int) -> Architecture:
    """Return `base` with depth and width scaled in the published proportion, up or down, until it costs `macs`.

    Args:
        base: the network to scale. The result keeps its image size.
        macs: multiply-adds of one square image of `image_size` pixels, as `counts` counts them.
        image_size: pixels.

    Blocks and channels are whole numbers, so the cost is met within a few percent.
    """
    phis = (phi / STEPS for phi in range(-4 * STEPS, 4 * STEPS + 1))
    without_resolution = replace(PUBLISHED, resolution=1.0)
    network = _nearest(replace(base, image_size=image_size), without_resolution, phis, macs)
    return replace(network, image_size=base.image_size)


def _nearest(base: Architecture, coefficients: Coefficients, phis: Iterable[float], macs: float) -> Architecture:
    """Return the member with one of `phis` whose multiply-adds are nearest to `macs`; of equal ones, the first."""
    members = dict.fromkeys(coefficients.of(base, phi) for phi in phis)
    return min(
        (resized for member in members for resized in _resized(member, coefficients)),
        key=lambda network: abs(_macs(network) - macs),
    )


def _resized(member: Architecture, coefficients: Coefficients) -> list[Architecture]:
    """Return the member with image sizes within 10% of its own, nearest first; only itself for a fixed resolution."""
    slack = member.image_size // 10 if coefficients.resolution > 1 else 0
    return [replace(member, image_size=member.image_size + more) for more in sorted(range(-slack, slack + 1), key=abs)]


def _macs(architecture: Architecture) -> int:
    return counts(architecture, architecture.image_size)[1]


@dataclass(frozen=True)
class Fit:
    """The scaled network that is most similar to a published one.

    Attributes:
        name: of the published network.
        phi: of the scaled network.
        params, macs: of the scaled network, as a share of the published one's.
    """

    name: str
    phi: float
    params: float
    macs: float


def fits(base: Architecture, coefficients: Coefficients) -> list[Fit]:
    """Return for each of B0 to B7 the phi with the most similar parameters and multiply-adds.

    The published family is not made of powers only. Its factors are rounded to tenths, and they grow differently: B1 is
    deeper but not wider than B0, and B7 has depth 1.2^6.2 and width 1.1^7.3. See `backbones.architecture.VARIANTS`.
    """
    return [_fit(base, coefficients, f"efficientnet_b{phi}") for phi in PHIS]


def _fit(base: Architecture, coefficients: Coefficients, name: str) -> Fit:
    published_params, published_macs = counts(VARIANTS[name], VARIANTS[name].image_size)

    def shares(phi: float) -> tuple[float, float]:
        network = coefficients.of(base, phi)
        params, macs = counts(network, network.image_size)
        return params / published_params, macs / published_macs

    phi = min((step / 20 for step in range(161)), key=lambda phi: max(abs(math.log(share)) for share in shares(phi)))
    return Fit(name, phi, *shares(phi))
