"""Finished joint runs, for use in Python."""

from __future__ import annotations

import os

from engine.checkpoint import read_run
from engine.restore import restore_task
from engine.runtimes.files import exported_file
from experiments.joint.spec import SPEC
from experiments.runs import Run


def load_run(path: str | os.PathLike[str]) -> Run:
    """Load a joint run: a run folder (its last checkpoint is used), a checkpoint file, or an exported file.

    Its `predict` returns the result of each head by name, from one pass. Raises BadInput if there is none.
    """
    path = os.fspath(path)
    file = exported_file(path)
    config = SPEC.predict_config(checkpoint=str(file or path), device="cpu")
    if file is not None:
        return Run(restore_task(SPEC, config).info, lambda: restore_task(SPEC, config))
    info, _ = read_run(path)
    return Run(info, lambda: restore_task(SPEC, config))
