"""Limits the disk space of weights that candidates download.

Only files of a candidate that appear while it is loaded are ever deleted: what was there before stays, and so does what
other processes download.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from backbones.compat import pretrained_config, weights_folder
from backbones.names import is_custom

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
        """The candidate's files that appear in this context are its downloads."""
        before = _cached(candidate)
        try:
            yield
        finally:
            new = {file: size for file, size in _cached(candidate).items() if file not in before}
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


def _cached(candidate: str) -> dict[Path, int]:
    """The candidate's files in the caches of timm and the Hugging Face hub, with their bytes; links do not count."""
    from huggingface_hub.constants import HF_HUB_CACHE

    config = None if is_custom(candidate) else pretrained_config(candidate)
    if config is None:
        return {}
    files = [weights_folder() / Path(config.url).name] if isinstance(config.url, str) and config.url else []
    if config.hf_hub_id:
        repository = Path(HF_HUB_CACHE) / f"models--{config.hf_hub_id.replace('/', '--')}"
        files += repository.rglob("*") if repository.is_dir() else []
    return {file: file.stat().st_size for file in files if file.is_file() and not file.is_symlink()}
