"""One row of the table of claims."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClaimRow:
    """A claim and its check. All attributes are texts of the table.

    Attributes:
        claim: what is claimed.
        source: who claims it, as precisely as it could be traced.
        check: how it is checked here, or the command that does it.
        measured: the result.
        verdict: whether the claim holds.
    """

    claim: str
    source: str
    check: str
    measured: str
    verdict: str
