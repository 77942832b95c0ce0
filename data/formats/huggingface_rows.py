"""Rows of Arrow and Parquet files: label columns at once, images one by one.

Images of Arrow files are read from the mapped file. Images of a Parquet file are compressed in groups of rows, often of
100 or 1000. To read one, its group is decoded, and reading in random order decodes a file many times. Once that are
twice as many bytes as the file has, its images are copied to an uncompressed Arrow file in the cache folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import BadInput
from data.atomic_directory import CACHE_VARIABLE, cache_folder, create_once

INSTALL = "python -m pip install 'backbone-swap[formats]'"
PASSES = 2  # over a Parquet file, in decoded bytes, after which its images are copied; the copy costs about one
ROWS = 64  # rows that are copied at a time
_FOOTER = 1_000_000  # bytes at the end of a Parquet file that identify it, with its size

log = logging.getLogger(__name__)


def is_installed() -> bool:
    """Whether pyarrow is installed."""
    return find_spec("pyarrow") is not None


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Raise BadInput with the file for errors of pyarrow, and if it is not installed."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise BadInput(f"to read {file}, pyarrow is needed: {INSTALL}") from error
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError, TypeError, MemoryError) as error:
        if isinstance(error, BadInput):
            raise
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"cannot read {file}: {text}") from error


class Rows:
    """The rows of some files in order. All files have the same columns.

    Attributes:
        files: Arrow and Parquet files.
        schema: pyarrow's description of the columns.
        starts: first row of each file, and the number of all rows.

    Raises BadInput if a file cannot be read, or has other columns.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self.schema: Any = None
        counts = []
        for file in self.files:
            with reading(file):
                schema, count = _head(file)
                names = schema.names
            if self.schema is not None and names != self.schema.names:
                raise BadInput(f"{file} has other columns than {self.files[0]}: {', '.join(names)}")
            self.schema = self.schema if self.schema is not None else schema
            counts.append(count)
        self.starts = [0, *accumulate(counts)]

    def __len__(self) -> int:
        return self.starts[-1]

    def column(self, name: str) -> Any:
        """All values of a column, a pyarrow Array. "COLUMN.FIELD" is a field of a structure."""
        import pyarrow as pa

        parts = []
        for file in self.files:
            with reading(file):
                parts.append(_column(file, name))
        with reading(self.files[0]):
            return pa.concat_arrays([chunk for part in parts for chunk in part.cast(parts[0].type).chunks])

    def identity(self, image_columns: Sequence[str]) -> list[bytes]:
        """What identifies the images: of an Arrow file their lengths, of a Parquet file its size and its footer."""
        return [_identity(file, image_columns) for file in self.files]


class Images:
    """index -> the encoded image in a row. Can be called from several threads, and be sent to other processes.

    Args:
        rows: of the data set.
        column: of encoded images, or of structures with the fields `bytes` and `path`.
        folder: images that are stored as paths are files in it. The paths are relative to the file if it is in this
            folder too, else to the folder.

    Raises BadInput for a row without an image.
    """

    def __init__(self, rows: Rows, column: str, folder: Path) -> None:
        self._files, self._starts, self._column, self._folder = rows.files, rows.starts, column, folder
        self._reset()

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("_files", "_starts", "_column", "_folder")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def _reset(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()
        self._open: dict[int, _ArrowColumn | _ParquetColumn] = {}

    def __call__(self, index: int) -> bytes:
        if self._process != os.getpid():  # a forked process: another thread may have held the lock
            self._reset()
        number = bisect_right(self._starts, index) - 1
        file, row = self._files[number], index - self._starts[number]
        with self._lock, reading(file):
            if number not in self._open:
                self._open[number] = (_ArrowColumn if _is_arrow(file) else _ParquetColumn)(file, self._column)
            stored, path = self._open[number].value(row)
        if stored:
            return stored
        if not path:
            raise BadInput(f"row {row} of {file} has no {self._column}")
        return self._file(path, file, row)

    def _file(self, path: str, file: Path, row: int) -> bytes:
        base = file.parent if file.is_relative_to(self._folder) else self._folder
        target = (base / path).resolve()
        if not target.is_relative_to(self._folder.resolve()) or "://" in path:
            raise BadInput(
                f"row {row} of {file} has its {self._column} in {path}, outside of {self._folder}: refused. Name the "
                f"folder of the images, as in `train={file}:IMAGES`, or save the data set with its images",
                settings=("data.train",),
            )
        try:
            return target.read_bytes()
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot read image {target}: {getattr(error, 'strerror', None) or error}") from error


class _ArrowColumn:
    """A column of a mapped Arrow file."""

    def __init__(self, file: Path, column: str) -> None:
        values = _column(file, column)
        self._chunks = values.chunks
        self._starts = [0, *accumulate(len(chunk) for chunk in self._chunks)]

    def value(self, row: int) -> tuple[bytes | None, str | None]:
        """Content and path of the image."""
        number = bisect_right(self._starts, row) - 1
        return _content(self._chunks[number][row - self._starts[number]])


class _ParquetColumn:
    """A column of a Parquet file. The last group of rows that was decoded is kept."""

    def __init__(self, file: Path, column: str) -> None:
        self._path, self._name = file, column
        self._file = _parquet(file)
        metadata = self._file.metadata
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        self._starts = [0, *accumulate(group.num_rows for group in groups)]
        self._bytes = [_size(group, column) for group in groups]
        self._decoded = 0
        self._group: tuple[int, Any] = (-1, None)
        self._copy: _ArrowColumn | None = None

    def value(self, row: int) -> tuple[bytes | None, str | None]:
        """Content and path of the image."""
        number = bisect_right(self._starts, row) - 1
        if self._copy is None and self._group[0] != number:
            self._decoded += self._bytes[number]
            if self._decoded > PASSES * sum(self._bytes):
                self._copy = self._copied()
        if self._copy is not None:
            return self._copy.value(row)
        if self._group[0] != number:
            table = self._file.read_row_group(number, columns=[self._name], use_threads=False)
            self._group = (number, table.column(0))
        return _content(self._group[1][row - self._starts[number]])

    def _copied(self) -> _ArrowColumn | None:
        """The column in an Arrow file of the cache folder. None if it cannot be written, which is a warning once."""
        self._decoded = -(10**18)  # try once
        status = self._path.stat()
        key = f"{self._path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{self._name}"
        folder = cache_folder() / "unpacked" / hashlib.sha256(os.fsencode(key)).hexdigest()[:20]
        try:
            create_once(folder, "complete", partial(_unpack, self._path, self._name), f"unpacking {self._path}")
        except OSError as error:
            log.warning(
                "%s cannot be unpacked to %s, so its images are read slowly: %s. Set %s to a folder with %.1f GB of "
                "free space",
                self._path, folder.parent, error.strerror or error, CACHE_VARIABLE, sum(self._bytes) / 1e9,
            )  # fmt: skip
            return None
        self._group = (-1, None)
        return _ArrowColumn(folder / "images.arrow", self._name)


def _unpack(file: Path, column: str, folder: Path) -> None:
    """Write a column of a Parquet file to `folder/images.arrow`, and `folder/complete` after it."""
    import pyarrow as pa

    source = _parquet(file)
    schema = pa.schema([source.schema_arrow.field(column)])
    log.info("%s: its images are unpacked to %s", file, folder.parent)
    with pa.OSFile(str(folder / "images.arrow"), "wb") as sink, pa.ipc.new_stream(sink, schema) as target:
        for batch in source.iter_batches(batch_size=ROWS, columns=[column], use_threads=False):
            target.write_batch(batch.cast(schema) if batch.schema != schema else batch)
    (folder / "complete").touch()


def _is_arrow(file: Path) -> bool:
    return file.suffix.lower() == ".arrow"


def _head(file: Path) -> tuple[Any, int]:
    """Schema and number of rows."""
    if _is_arrow(file):
        table = _mapped(file)
        return table.schema, table.num_rows
    parquet = _parquet(file)
    return parquet.schema_arrow, parquet.metadata.num_rows


def _mapped(file: Path) -> Any:
    """The table of an Arrow file, in the format for streams, which `datasets` writes, or for files."""
    import pyarrow as pa

    source = pa.memory_map(str(file))
    magic = source.read(6)
    source.seek(0)
    reader = pa.ipc.open_file(source) if magic == b"ARROW1" else pa.ipc.open_stream(source)
    return reader.read_all()


def _parquet(file: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(file, memory_map=True, pre_buffer=False)


def _column(file: Path, name: str) -> Any:
    """All values of a column, or of a field of one, a ChunkedArray whose buffers are checked."""
    import pyarrow.compute as pc

    column, *fields = name.split(".")
    if _is_arrow(file):
        values = _mapped(file).column(column)
    else:
        values = _parquet(file).read(columns=[name], use_threads=False).column(0)
    values.validate(full=True)  # reading a damaged file could otherwise end the process
    return pc.struct_field(values, fields) if fields else values


def _content(value: Any) -> tuple[bytes | None, str | None]:
    """Content and path of a value: of encoded bytes, or of a structure with the fields `bytes` and `path`."""
    if not value.is_valid:
        return None, None
    if not hasattr(value, "keys"):
        content = value.as_py()
        return (None, content) if isinstance(content, str) else (content, None)
    return value["bytes"].as_py(), value["path"].as_py() if "path" in value else None


def _size(group: Any, column: str) -> int:
    """Decoded bytes of a column in a group of rows."""
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] == column)


def _identity(file: Path, image_columns: Sequence[str]) -> bytes:
    import pyarrow as pa
    import pyarrow.compute as pc

    digest = hashlib.sha256(b"%d" % file.stat().st_size)
    if not _is_arrow(file):
        with file.open("rb") as content:
            content.seek(-min(_FOOTER, file.stat().st_size), os.SEEK_END)
            digest.update(content.read())
        return digest.digest()
    with reading(file):
        for column in image_columns:
            values = _column(file, column)
            values = pc.struct_field(values, "bytes") if pa.types.is_struct(values.type) else values
            lengths = pc.fill_null(pc.binary_length(values), 0)
            digest.update(np.asarray(lengths.to_numpy(), np.int64).tobytes())
    return digest.digest()
