"""Result files on errors, in run folders and in the output of `eval`: what `Task.what_went_wrong` returns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ERRORS, CALIBRATION = "errors.json", "calibration.json"


def write_errors(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the files to a folder, and the reliability diagram to `pictures/reliability.png`."""
    from engine.plots import reliability
    from engine.record import write_json

    for name, content in files.items():
        write_json(folder / name, dict(content))
    if CALIBRATION in files:
        pictures = folder / "pictures"
        pictures.mkdir(exist_ok=True)
        reliability(files[CALIBRATION], pictures / "reliability.png")


def calibration_row(files: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Calibration errors by heading, in 0..1; NaN without predictions. Empty without the file."""
    if CALIBRATION not in files:
        return {}
    values = (files[CALIBRATION][name] for name in ("ECE", "MCE"))
    return dict(zip(("ECE", "MCE"), (float("nan") if v is None else v for v in values), strict=True))


def read_errors(folder: Path) -> dict[str, dict[str, Any]]:
    """The files that a folder has, by name. Runs of earlier versions have none.

    Raises ValueError for a file that is not JSON.
    """
    return {
        name: json.loads((folder / name).read_text()) for name in (ERRORS, CALIBRATION) if (folder / name).is_file()
    }
