"""How the losses of the heads are combined: fixed weights, learned weights, or projected gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from data.sampling import draw_seed
from engine import distributed


class Balance(nn.Module):
    """Combines the losses of the heads.

    fixed: the sum of the losses times their weights. uncertainty: the sum of exp(-s) loss + s with a learned s for each
    head, the logarithm of its variance (Kendall et al., arXiv:1705.07115, for the loss of every kind without its factor
    1/2). pcgrad: the gradients of the parts that all heads share are projected, see `project` (Yu et al.,
    arXiv:2001.06782). All of them multiply by the weights first.

    Args:
        method: "fixed", "uncertainty" or "pcgrad".
        weights: weight of each head's loss.

    Attributes:
        correction: what is added to the gradients of the shared parameters in this step.
    """

    def __init__(self, method: str, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.log_variances = nn.Parameter(torch.zeros(len(weights))) if method == "uncertainty" else None
        self.correction: list[Tensor] = []

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The loss to minimise, from the loss of each head."""
        weighted = torch.stack([losses[name] * weight for name, weight in self.weights.items()])
        if self.log_variances is None:
            return weighted.sum()
        used = torch.tensor([weight > 0 for weight in self.weights.values()], device=weighted.device)
        return (torch.exp(-self.log_variances) * weighted + self.log_variances * used).sum()

    def gradients(self, losses: Mapping[str, Tensor], shared: Sequence[nn.Parameter]) -> dict[str, list[Tensor]]:
        """The gradient of each head's weighted loss in the shared parameters, of the whole batch."""
        found = {}
        for name, loss in losses.items():
            parts = torch.autograd.grad(loss * self.weights[name], list(shared), retain_graph=True, allow_unused=True)
            own = [torch.zeros_like(p) if part is None else part for p, part in zip(shared, parts, strict=True)]
            if distributed.world() > 1:
                own = [distributed.total(part) / distributed.world() for part in own]
            found[name] = own
        return found

    def project(self, gradients: Mapping[str, list[Tensor]], seed: int, step: int) -> None:
        """Set the correction of "pcgrad" from the heads' gradients.

        Each head's gradient loses its component along every other head's gradient that it has a negative product with,
        one after the other in random order. The step uses the sum of the results.
        """
        whole = {name: torch.cat([part.flatten() for part in parts]) for name, parts in gradients.items()}
        random = np.random.default_rng(draw_seed(seed, step, 0))
        names, total = list(whole), torch.zeros_like(next(iter(whole.values())))
        for name in names:
            own = whole[name].clone()
            for other in random.permutation([other for other in names if other != name]).tolist():
                product, square = own @ whole[other], whole[other].square().sum()
                own -= torch.where((product < 0) & (square > 0), product / square.clamp(min=1e-30), 0.0) * whole[other]
            total += own
        total -= torch.stack(list(whole.values())).sum(0)
        shapes = next(iter(gradients.values()))
        sizes = [part.numel() for part in shapes]
        self.correction = [c.view_as(part) for c, part in zip(total.split(sizes), shapes, strict=True)]

    def correct(self, shared: Sequence[nn.Parameter]) -> None:
        """Add the correction to the gradients of the shared parameters, if there is one."""
        for parameter, part in zip(shared, self.correction, strict=False):
            if parameter.grad is not None:
                parameter.grad.add_(part)
        self.correction = []
