"""The initial weights of each backbone: the group of their pretraining, method, data and licence."""

from __future__ import annotations

from collections.abc import Sequence

from backbones.pretraining import RANDOM, group_of_record
from experiments.report.results import FinishedRun, Row

HEADINGS: tuple[str, ...] = ("backbone", "pretraining", "method", "data", "licence", "source")
NOT_STATED = "not stated"


def weights_fields(run: FinishedRun) -> dict[str, str]:
    """Columns of `results.csv`. Empty for random weights; the licence is "not stated" if it is unknown."""
    weights = run.record["pretrained"]
    group = group_of_record(weights, run.record["backbone"])
    if group == RANDOM:
        return {"group": group, "method": "", "data": "", "license": ""}
    return {
        "group": group,
        "method": weights.get("method") or "",
        "data": weights["data"] or "",
        "license": weights.get("license") or NOT_STATED,
    }


def weights_rows(rows: Sequence[Row]) -> list[list[str]]:
    """The texts of one row for each backbone that has finished, in the order of `HEADINGS`; none if all are random."""
    finished = [row for row in rows if row.runs]
    fields = [weights_fields(row.runs[0]) for row in finished]
    if all(found["group"] == RANDOM for found in fields):
        return []
    sources = [row.runs[0].record["pretrained"] for row in finished]
    return [
        [row.backbone, *found.values(), source.get("origin") or source["source"]]
        for row, found, source in zip(finished, fields, sources, strict=True)
    ]
