"""A JSON file that is written record by record, so that any number of records needs little memory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from engine.record import plain, replace_file
from engine.system_errors import cannot_write


class JsonStream:
    """A JSON list in a file, with one record per line. A context manager.

    The records are written to a temporary file next to `path`, which replaces `path` at the end of the block. An error
    inside the block does not change that: the records before it are valid JSON. NaN and infinity become null.

    Args:
        path: the file.
        key: if not empty, the list is the value of this key of an object, and `more` are its other keys.
    """

    def __init__(self, path: Path, key: str = "") -> None:
        self.path, self.more = path, dict[str, Any]()
        self._key = key
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}")
        self._separator = "\n"

    def __enter__(self) -> JsonStream:
        """Raises BadInput, like `write` and the end of the block, if the file cannot be written."""
        try:
            self._file = open(self._temporary, "w", encoding="utf-8")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._file.write(f'{{"{self._key}": [' if self._key else "[")
        return self

    def write(self, record: dict[str, Any]) -> None:
        """Append one record."""
        try:
            self._file.write(self._separator + json.dumps(plain(record), allow_nan=False))
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._separator = ",\n"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            try:
                more = "".join(f', "{key}": {json.dumps(plain(value))}' for key, value in self.more.items())
                self._file.write(f"\n]{more}}}\n" if self._key else "\n]\n")
            finally:
                self._file.close()
            replace_file(self._temporary, self.path)
        except OSError as failure:
            self._temporary.unlink(missing_ok=True)
            if error is None:
                raise cannot_write(self.path, failure) from failure
