"""One line of the table of claims."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table, in words."""

    claim: str
    source: str
    check: str
    measured: str
    verdict: str
