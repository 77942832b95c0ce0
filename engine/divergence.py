"""Stops a training whose loss or gradient is not finite, before it changes the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from backbones.errors import UserError
from engine import distributed


class Diverged(UserError):
    """The loss or the gradient is not finite."""

    exit_code = 4


class StepLosses:
    """The losses of the batches of one optimiser step. They stay on their device until the step is complete.

    Attributes:
        last: losses of the last batch by name: `loss`, their sum, and its terms if there are several.
    """

    def __init__(self) -> None:
        self.last: dict[str, Tensor] = {}
        self._batches: list[tuple[Tensor, dict[str, Tensor], Tensor]] = []

    def add(self, total: Tensor, terms: dict[str, Tensor], image_ids: Tensor, first: bool) -> None:
        """Add a batch: the sum of its losses, its losses by name, (B,) ids of its images, whether a step begins."""
        if first:
            self._batches = []
        terms = {name: value.detach() for name, value in terms.items()}
        self._batches.append((total.detach(), terms, image_ids))
        self.last = {"loss": total.detach()} | ({f"loss_{k}": v for k, v in terms.items()} if len(terms) > 1 else {})

    def check(self, norm: Tensor, step: int, scaled: bool) -> None:
        """Read once whether all losses and the gradient are finite.

        Args:
            norm: the gradient's norm.
            step: number of this optimiser step, for the message.
            scaled: whether a loss scaler skips steps with infinite gradients, which are normal in fp16.

        Raises Diverged.
        """
        finite = torch.stack([total for total, _, _ in self._batches]).isfinite()
        # Several processes share the gradient. Without a scaler it tells all of them of the loss of any.
        count = distributed.total((~finite).sum()) if scaled else (~finite).sum()
        lost, infinite = torch.stack([count > 0, ~norm.isfinite()]).tolist()
        if lost and (scaled or distributed.world() == 1):
            _, terms, _ = self._batches[int((~finite).to(torch.uint8).argmax())]
            values = ", ".join(f"{name} {float(value):.3g}" for name, value in terms.items())
            raise self._diverged("the loss", step, f" ({values})")
        if infinite and not scaled:
            raise self._diverged("the gradient", step)

    def _diverged(self, what: str, step: int, terms: str = "") -> Diverged:
        own = torch.cat([ids for _, _, ids in self._batches]).tolist()
        ids = ", ".join(str(i) for part in distributed.from_all(own) for i in part)
        return Diverged(
            f"{what} is not finite at step {step}{terms}, images {ids}. Earlier checkpoints are intact. "
            "Lower `lr`, increase `warmup_epochs`, or check these images.",
            settings=("lr", "warmup_epochs"),
        )
