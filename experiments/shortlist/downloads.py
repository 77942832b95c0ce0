"""Limits the disk space of weights that candidates download.

Only files that appear while a candidate is loaded are ever deleted: what was there before stays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from backbones.compat import weights_folder

log = logging.getLogger(__name__)


class Downloads:
    """The downloads of the candidates.

    Args:
        limit: most bytes of all of them together.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._files: dict[str, dict[Path, int]] = {}  # candidate -> files that it downloaded, with their bytes

    @property
    def size(self) -> int:
        """Bytes of all downloads that were not deleted."""
        return sum(size for files in self._files.values() for size in files.values())

    @contextmanager
    def of(self, candidate: str) -> Iterator[None]:
        """Files that appear in this context are the candidate's."""
        before = _cached()
        try:
            yield
        finally:
            new = {file: size for file, size in _cached().items() if file not in before}
            if new:
                self._files[candidate] = new

    def trim(self, ranking: Sequence[str]) -> list[str]:
        """Delete downloads until the rest fits: of candidates that are not in the ranking, then from its end.

        Returns the candidates whose files were deleted.
        """
        order = [name for name in self._files if name not in ranking]
        order += [name for name in reversed(ranking) if name in self._files]
        deleted = []
        while self.size > self.limit and order:
            name = order.pop(0)
            for file in self._files.pop(name):
                file.unlink(missing_ok=True)
            deleted.append(name)
        if deleted:
            log.warning(
                "the weights of %s were deleted, since downloads are larger than --cache_gb %g",
                ", ".join(deleted),
                self.limit / 1e9,
            )
        return deleted


def _cached() -> dict[Path, int]:
    """Files in the caches of timm and the Hugging Face hub that hold content, not links to it, with their bytes."""
    from huggingface_hub.constants import HF_HUB_CACHE

    found = {}
    for folder in (weights_folder(), Path(HF_HUB_CACHE)):
        for file in folder.rglob("*") if folder.is_dir() else ():
            if file.is_file() and not file.is_symlink():
                found[file] = file.stat().st_size
    return found
