"""Settings of `python -m experiments.report`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ReportConfig:
    """Settings of `report`."""

    comparison: str
    """Folder of a comparison."""
    against: str | None = None
    """Folder of another comparison, such as an earlier one. The scores of both are compared."""
    export: str | None = None
    """Folder for a paper: every table as CSV, the main tables as LaTeX, and every figure as SVG and PDF."""
