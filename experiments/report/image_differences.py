"""Images on which a backbone and the baseline differ most, both ways, with the pictures of both."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from backbones.errors import UserError
from engine.scored_images import scores_of_images
from experiments.report.results import FinishedRun, Row
from experiments.tasks import TASKS

EACH_WAY = 2  # images to show
WIDTH, QUALITY = 640, 70  # of a picture: width in pixels, JPEG quality


def image_differences(rows: Sequence[Row], baseline: str) -> list[dict[str, Any]]:
    """For each backbone but the baseline: the images on which it is better and worse than the baseline by most.

    The difference of an image is that of the mean score over seeds: its compared metric, or the task's
    `image_scores`. Images without a defined score, and images that not all trainings were scored on, are left out.
    """
    by_name = {row.backbone: row for row in rows}
    if baseline not in by_name or len(rows) < 2:
        return []
    scores = {name: _mean_scores(row.runs) for name, row in by_name.items()}
    chosen = {name: _extremes(found, scores[baseline]) for name, found in scores.items() if name != baseline}
    pictures = _Pictures(
        by_name[baseline].runs[0], sorted({key for ends in chosen.values() for keys in ends for key in keys})
    )
    pairs = []
    for name, (better, worse) in chosen.items():
        own = _Pictures(by_name[name].runs[0], [*better, *worse])
        pair: dict[str, Any] = {"backbone": name, "baseline": baseline, "problem": own.problem or pictures.problem}
        for way, keys in (("better", better), ("worse", worse)):
            pair[way] = [
                {
                    "image": key,
                    "sides": [
                        {"backbone": side, "score": scores[side][key], "uri": source.uri(key)}
                        for side, source in ((baseline, pictures), (name, own))
                    ],
                }
                for key in keys
            ]
        pairs.append(pair)
    return pairs


def _mean_scores(runs: Sequence[FinishedRun]) -> dict[str, float]:
    """The mean score over the runs of each image that all of them have; empty if they cannot be read."""
    try:
        own_scores = TASKS[runs[0].record["task"]].image_scores
        found = [own_scores(run.folder) if own_scores else scores_of_images(run.images) for run in runs]
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return {}
    keys = [key for key in found[0] if all(key in scores for scores in found)]
    return {key: math.fsum(scores[key] for scores in found) / len(found) for key in keys}


def _extremes(ours: dict[str, float], baseline: dict[str, float]) -> tuple[list[str], list[str]]:
    """Images on which ours is better by most, and worse by most, the largest difference first."""
    differences = {key: ours[key] - baseline[key] for key in ours if key in baseline}
    better = sorted((key for key, d in differences.items() if d > 0), key=lambda key: -differences[key])
    worse = sorted((key for key, d in differences.items() if d < 0), key=lambda key: differences[key])
    return better[:EACH_WAY], worse[:EACH_WAY]


class _Pictures:
    """Pictures of a run's truth and predictions.

    Attributes:
        problem: why there are none; empty if there are.
    """

    def __init__(self, run: FinishedRun, keys: Sequence[str]) -> None:
        self.problem = ""
        self._found: dict[str, np.ndarray] = {}
        if keys:
            try:
                self._found = TASKS[run.record["task"]].draw_images(run.folder, run.record, keys)
            except (OSError, ValueError, KeyError, TypeError, UserError) as error:
                self.problem = str(error).partition(". ")[0]  # without the advice for commands
                if isinstance(error, FileNotFoundError):  # an earlier version trained the run
                    self.problem = f"{error.filename} is missing"

    def uri(self, key: str) -> str:
        """A data URI; empty without a picture."""
        if key not in self._found:
            return ""
        picture = Image.fromarray(self._found[key])
        picture.thumbnail((WIDTH, WIDTH))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
