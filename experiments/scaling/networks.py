"""The networks of a scaling study: the grid, the networks of equal cost, and the family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backbones.architecture import FOLDER, LARGEST, VARIANTS, Architecture, architecture_of, counts, save
from backbones.errors import BadInput
from experiments.costs.coefficients import PHIS, Coefficients, fits, member_at_cost
from experiments.costs.meter import Meter
from experiments.jobs.cell import Cell
from experiments.jobs.study import StudyFolder
from experiments.scaling.config import ScalingConfig
from experiments.scaling.report import NetworkResult

ROUNDS = 3  # in which the cost of the whole model, including neck and head, is made equal

Network = tuple[NetworkResult, Architecture]


class StudyNetworks:
    """Builds and measures the networks of a study. Images are square; those of a recipe that are not keep their area.

    Args:
        config: settings of the study.
        shared: arguments of all trainings.

    Attributes:
        base: the base, with the study's image size.
        macs: multiply-adds of the base's whole model.
    """

    def __init__(self, config: ScalingConfig, shared: Sequence[str]) -> None:
        self.config, self.shared = config, shared
        self.meter = Meter(Cell(config.task, (*shared, "--backbone", config.base)), timed=False)
        self.base = replace(architecture_of(config.base), image_size=self.meter.side)
        self._measured: dict[Architecture, dict[str, float]] = {}
        self.macs = self.measure(self.base)["macs"]

    def cell(self, name: str, network: Architecture, holdout: float = 0.0) -> Cell:
        """Return the training of a network.

        Args:
            name: the network's name for `--backbone`.
            network: the network, with the image size of the training.
            holdout: share of the training images to hold out.
        """
        held_out = ("--data.holdout", str(holdout)) if holdout else ()
        size = "--image_size", str(network.image_size)
        return Cell(self.config.task, (*self.shared, *held_out, "--backbone", name, *size))

    def measure(self, network: Architecture) -> dict[str, float]:
        """Return `params` and `macs` of the whole model that is trained with a network, for one image."""
        if network not in self._measured:
            with TemporaryDirectory() as folder:
                self.meter.size = network.image_size, network.image_size
                cell = self.cell(save(Path(folder), "network", network), network)
                self._measured[network] = self.meter.measure(cell)
        return self._measured[network]

    def at_cost(self, coefficients: Coefficients, times: int) -> Architecture:
        """Return the family member whose whole model costs most nearly `times` as much as the base's."""
        rest = self.macs - counts(self.base, self.base.image_size)[1]  # multiply-adds of neck and head
        for _ in range(ROUNDS):
            network = member_at_cost(self.base, coefficients, times * self.macs - rest)
            rest, before = self.measure(network)["macs"] - counts(network, network.image_size)[1], rest
            if rest == before:
                break
        return network

    def planned(
        self, group: str, key: str, network: Architecture, coefficients: Coefficients | None = None
    ) -> NetworkResult:
        """Return the entry of a network that is not trained yet, by default with the factors as it is built."""
        if coefficients is None:
            base_blocks, blocks = (sum(s.repeats for s in n.stages) for n in (self.base, network))
            width = network.stages[-1].channels / self.base.stages[-1].channels
            coefficients = Coefficients(blocks / base_blocks, width, network.image_size / self.base.image_size)
        cost = self.measure(network)
        return NetworkResult(
            group,
            key,
            depth=coefficients.depth,
            width=coefficients.width,
            resolution=coefficients.resolution,
            image_size=network.image_size,
            macs=cost["macs"],
            params=cost["params"],
        )

    def planned_base(self) -> Network:
        """Return the base."""
        return self.planned("base", "base", self.base), self.base

    def of_grid(self, grid: Sequence[Coefficients]) -> list[Network]:
        """Return the networks of the grid."""
        networks = [(f"grid-d{c.depth:g}-w{c.width:g}", c, c.of(self.base, 1)) for c in grid]
        return [(self.planned("grid", key, network, c), network) for key, c, network in networks]

    def of_dimensions(self, dimensions: Mapping[str, Coefficients]) -> list[Network]:
        """Return the networks of equal cost: for each phi of the study, one for each of `dimensions`."""
        networks = [
            (name, f"{name.replace(' ', '-')}-{2**phi}x", self.at_cost(coefficients, 2**phi))
            for phi in self.config.phis
            for name, coefficients in dimensions.items()
        ]
        return [(self.planned(name, key, network), network) for name, key, network in networks]

    def store_family(self, chosen: Coefficients, folder: StudyFolder) -> dict[int, Architecture]:
        """Store the members phi 0 to 7 that can be built, as `phi0` to `phi7`; returns them by phi.

        Raises BadInput if the folder holds other networks of these names.
        """
        family = {phi: member for phi in PHIS if _can_be_built(member := chosen.of(self.base, phi))}
        try:
            for phi, member in family.items():
                folder.save_network(f"phi{phi}", member)
        except BadInput as error:
            raise BadInput(
                f"{folder.path} holds a family of other coefficients, which runs may use: choose another `output`, or "
                f"delete phi* and all-three* in {folder.path / FOLDER}. Finished trainings are kept",
                settings=("output",),
            ) from error
        return family

    def family_rows(
        self, chosen: Coefficients, family: Mapping[int, Architecture], folder: StudyFolder
    ) -> list[dict[str, Any]]:
        """Return the family as `family.csv` stores it.

        A family of B0 is listed next to the most similar published network for each phi, at 224 px for phi 0.
        """
        b0, rows = VARIANTS["efficientnet_b0"], []
        published = fits(b0, chosen) if self.base.stages == b0.stages else []
        for phi, member in family.items():
            params, macs = counts(member, member.image_size)
            row = {"phi": phi, "backbone": f"{folder.path}#phi{phi}", "image_size": member.image_size}
            row |= {"params": params, "macs": macs}
            if published:
                name = min(published, key=lambda fit: abs(fit.phi - phi)).name
                size = VARIANTS[name].image_size
                params, macs = counts(VARIANTS[name], size)
                row |= {"published": name, "published_image_size": size}
                row |= {"published_params": params, "published_macs": macs}
            rows.append(row)
        return rows


def _can_be_built(network: Architecture) -> bool:
    widest = max(network.head, network.image_size, *(stage.channels for stage in network.stages))
    return widest <= LARGEST["channels"] and max(stage.repeats for stage in network.stages) <= LARGEST["repeats"]
