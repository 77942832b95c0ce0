"""How far the gradients of the heads agree: their cosines, at the neck and at each stage of the backbone."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.layers import parameter_blocks
from engine.record import write_text

STAGES = 4  # parts of the backbone with equal numbers of blocks, from input to output


class ConflictLog:
    """Cosines between the gradients of each pair of heads by step and part of the network.

    Args:
        heads: names of the heads.
        rows: of the training so far, to which rows are added: `step`, `part`, `heads` ("A,B") and `cosine`, in -1..1;
            below 0 the heads contradict each other.
    """

    def __init__(self, heads: Sequence[str], rows: list[dict[str, Any]]) -> None:
        self.heads = list(heads)
        self.rows = rows
        self._parts: dict[int, str] = {}

    def add(self, step: int, network: Any, gradients: Mapping[str, list[Tensor]]) -> None:
        """Add the cosines of a step, from the gradients of the trained parameters of backbone and neck."""
        if not self._parts:
            self._parts = parts_of(network)
        shared = [p for p in (*network.backbone.parameters(), *network.neck.parameters()) if p.requires_grad]
        for part in dict.fromkeys(self._parts[id(p)] for p in shared):
            chosen = [i for i, p in enumerate(shared) if self._parts[id(p)] == part]
            flat = {name: torch.cat([own[i].flatten() for i in chosen]) for name, own in gradients.items()}
            for one, other in combinations(self.heads, 2):
                cosine = torch.cosine_similarity(flat[one], flat[other], dim=0, eps=1e-30)
                self.rows.append({"step": step, "part": part, "heads": f"{one},{other}", "cosine": float(cosine)})

    def write(self, folder: Path) -> None:
        """Write `gradients.csv`, and `pictures/gradients.png` where the folder has pictures."""
        if not self.rows:
            return
        text = io.StringIO()
        table = csv.DictWriter(text, ["step", "part", "heads", "cosine"], lineterminator="\n")
        table.writeheader()
        table.writerows(row | {"cosine": f"{row['cosine']:.5f}"} for row in self.rows)
        write_text(folder / "gradients.csv", text.getvalue())
        (folder / "pictures").mkdir(exist_ok=True)
        draw(self.rows, folder / "pictures" / "gradients.png")


def parts_of(network: Any) -> dict[int, str]:
    """The part of each parameter of backbone and neck, by its id: "stage 1" to "stage 4", or "neck"."""
    backbone: nn.Module = network.backbone
    block = parameter_blocks(backbone.trunk)  # type: ignore[arg-type]
    order = sorted(set(block.values()))
    place = {number: i * STAGES // len(order) for i, number in enumerate(order)}
    found = {id(p): "neck" for p in network.neck.parameters()}
    found |= {id(p): f"stage {STAGES}" for p in backbone.parameters()}  # of a pyramid after the trunk
    named = dict(backbone.trunk.named_parameters())  # type: ignore[union-attr]
    return found | {id(p): f"stage {place[block[name]] + 1}" for name, p in named.items()}


def draw(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw the cosines over the steps, one plot for each pair of heads, one line for each part."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pairs = list(dict.fromkeys(row["heads"] for row in rows))
    parts = sorted({row["part"] for row in rows}, key=lambda part: (part == "neck", part))
    figure = Figure(figsize=(4.2 * len(pairs) + 0.6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, pair in zip(figure.subplots(1, len(pairs), squeeze=False, sharey=True)[0], pairs, strict=True):
        for i, part in enumerate(parts):
            points = [(row["step"], row["cosine"]) for row in rows if row["heads"] == pair and row["part"] == part]
            axes.plot(*zip(*points, strict=True), label=part, color=f"C{i}", linewidth=1.2)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_title(pair.replace(",", " and "), fontsize=10)
        axes.set_xlabel("step")
        axes.set_ylim(-1, 1)
    figure.axes[0].set_ylabel("cosine of the gradients")
    figure.axes[-1].legend(fontsize=8)
    figure.savefig(file, dpi=110)
