"""Reads the result files of all names, compares each with the baseline, and writes the report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from engine.console import log_to_terminal, out
from experiments.compare_results.compared import Compared
from experiments.compare_results.config import CompareResultsConfig
from experiments.compare_results.report import Report
from experiments.report.formatting import unlearned_text
from experiments.statistics import compare_to_baseline
from experiments.tasks import task_spec

log = logging.getLogger(__name__)


def compare_results(config: CompareResultsConfig) -> Path:
    """Run the comparison: print its table, and write results.csv, results.md and report.html. Returns the page's path.

    Raises UserError for wrong settings, and BadInput for files that cannot be read or do not fit the truth. Nothing is
    written then.
    """
    config.check()
    task = str(config.task)
    log_to_terminal(task)
    files = config.files()
    compared = _reader(task)(config, files, config.metric or task_spec(task).metric)
    compared = replace(compared, warnings=[*_copies(compared), *_unlearned(compared), *compared.warnings])
    baseline = config.baseline or compared.sides[0].name
    differences = compare_to_baseline(
        {side.name: [file.images for file in side.files] for side in compared.sides}, baseline
    )
    for text in compared.warnings:
        log.warning("%s", text)
    report = Report(compared, baseline, differences)
    report.print(out)
    page = report.write(Path(config.output))
    out.print(f"report {page}", markup=False)
    return page


def _copies(compared: Compared) -> list[str]:
    """Sentences about files of one name with the same results, which are probably copies."""
    warnings = []
    for side in compared.sides:
        first: dict[str | None, Path] = {}
        for file in side.files:
            other = first.setdefault(file.images.digest, file.file)
            if other != file.file:
                warnings.append(
                    f"{side.name}: {other} and {file.file} have the same results. As copies of one training they make "
                    "the intervals too narrow: pass each training once"
                )
    return warnings


def _unlearned(compared: Compared) -> list[str]:
    majority = max(file.images.majority for side in compared.sides for file in side.files)
    text = unlearned_text(compared.task, compared.metric, {side.name: side.mean for side in compared.sides}, majority)
    return [text] if text else []


def _reader(task: str) -> Callable[[CompareResultsConfig, Mapping[str, Sequence[Path]], str], Compared]:
    """Reads and scores the files of each name, for a metric."""
    if task == "detection":
        from experiments.compare_results.detection import compare_detections

        return compare_detections
    if task == "classification":
        from experiments.compare_results.classification import compare_classifications

        return compare_classifications
    from experiments.compare_results.segmentation import compare_masks

    return compare_masks
