"""Statistics of batch norm for each data set.

In training, batch norm normalises by the statistics of its batch, and a batch comes from one data set. In evaluation it
uses running statistics: over data sets that differ, their mean fits none. Here each data set has running statistics of
its own; weights and biases are shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from engine.compat import BatchNorm


class NormStatistics(nn.Module):
    """The running means and variances of the shared batch norms of a network, once for each data set.

    Args:
        parts: the shared parts of a network. Their own buffers hold the statistics in use.
        count: number of data sets.
    """

    def __init__(self, parts: Sequence[nn.Module], count: int) -> None:
        super().__init__()
        self._parts = tuple(parts)  # in a tuple, so that they are no modules of this one
        self.banks = nn.ModuleList()
        for _ in range(count):
            bank = nn.Module()
            for number, value in enumerate(self._in_use()):
                bank.register_buffer(f"value_{number}", value.detach().clone())
            self.banks.append(bank)

    def _norms(self) -> list[Any]:
        modules = [module for part in self._parts for module in part.modules()]
        return [m for m in modules if isinstance(m, BatchNorm) and m.running_mean is not None]

    def _in_use(self) -> list[Tensor]:
        return [value for norm in self._norms() for value in (norm.running_mean, norm.running_var)]

    @torch.no_grad()
    def use(self, dataset: int) -> None:
        """Set the network's statistics to those of a data set, for evaluation."""
        for value, stored in zip(self._in_use(), self.banks[dataset].buffers(), strict=True):
            value.copy_(stored)

    @contextmanager
    def of(self, dataset: int) -> Iterator[None]:
        """In this context, a training pass uses and updates the statistics of a data set.

        The tensors themselves are exchanged: the backward pass of one data set must not find values of another one.
        """
        norms, own, stored = self._norms(), self._in_use(), list(self.banks[dataset].buffers())
        _set(norms, stored)
        try:
            yield
        finally:
            _set(norms, own)


def _set(norms: list[Any], values: list[Tensor]) -> None:
    for norm, mean, variance in zip(norms, values[::2], values[1::2], strict=True):
        norm.running_mean, norm.running_var = mean, variance
