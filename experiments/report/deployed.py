"""Scores and costs in several runtimes, if the comparison measured them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from experiments.costs.deployed import COLUMNS, NAME, TABLE, read_deployed
from experiments.report import svg as charts


def deployed_section(folder: Path, task: str, metric: str) -> dict[str, Any] | None:
    """The table and the chart of a task; None if nothing was measured.

    Args:
        folder: of the comparison.
        task: is the name of the first folder of its runs in `cells`.
        metric: the headline metric.
    """
    rows = [row for row in read_deployed(folder / NAME / TABLE) if Path(row.run).parent.name == task]
    if not rows:
        return None
    marks = [
        charts.Point(
            name=f"{row.backbone}, {row.format}",
            x=row.network_p50_ms,
            y=100 * row.score,
            spread=0.0,
            description=f"{row.backbone} in {row.format}: {metric} {100 * row.score:.1f}, {row.network_p50_ms:.3g} ms",
        )
        for row in rows
    ]
    return {
        "threads": rows[0].threads,
        "headings": ["backbone", *list(COLUMNS.values())[1:]],
        "rows": [row.texts(row.backbone) for row in rows],
        "chart": Markup(charts.scatter(marks, "network, one image: median, ms", f"{metric}, %")),
    }
