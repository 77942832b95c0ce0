"""How a training writes its checkpoints: atomically, so that a crash cannot damage one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from backbones.errors import BadInput, first_line
from engine.record import replace_file
from engine.system_errors import loader_died


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves a checkpoint to a temporary file, flushes it to disk and renames it: a checkpoint is always complete."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`. Raises BadInput if the disk is full or the folder is not writable."""
        target = Path(path)
        temporary = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
                temporary = Path(file.name)
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            replace_file(temporary, target)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            if loader_died(error):
                raise
            raise BadInput(
                f"cannot write {target}: {first_line(error)}. Earlier checkpoints are intact. Free some space, then "
                "resume the run with `resume`, or start it again if it had no checkpoint.",
                settings=("resume",),
            ) from error
