"""Small Hugging Face data sets for tests."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.box_dataset import BoxDataset
from data.class_dataset import ClassDataset

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

WIDTH, HEIGHT = 48, 32


def encoded(number: int, kind: str = "PNG", size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any) -> bytes:
    """The file of an image whose first pixel is its number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    pixels[0, 0] = number
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def number_of(data: ClassDataset | BoxDataset, index: int) -> int:
    """The number of the image that is read at an index."""
    return int(data[index].image[0, 0, 0])


def struct(contents: Sequence[bytes | None], paths: Sequence[str | None] | None = None) -> Any:
    """A column of images as the library stores them."""
    return pa.StructArray.from_arrays(
        [pa.array(contents, pa.binary()), pa.array(paths or [None] * len(contents), pa.string())], ["bytes", "path"]
    )


def described(types: dict[str, Any]) -> dict[bytes, bytes]:
    """The metadata in which the library stores the types of the columns."""
    return {b"huggingface": json.dumps({"info": {"features": types}}).encode()}


IMAGE = {"_type": "Image"}
TYPES = {"image": IMAGE, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}


def write(file: Path, columns: dict[str, Any], types: dict[str, Any] | None = None, rows: int = 2) -> Path:
    table = pa.table(columns)
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(described(types) if types else None), file, row_group_size=rows)
    return file


def pets(file: Path, first: int = 0, count: int = 6, **columns: Any) -> Path:
    """A Parquet file of images `first`, ..., with the classes cat and dog in turn."""
    numbers = range(first, first + count)
    own = {"image": struct([encoded(n) for n in numbers]), "label": pa.array([n % 2 for n in numbers])}
    return write(file, own | columns, TYPES)


def image_files(folder: Path, count: int) -> list[str]:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.png").write_bytes(encoded(number))
    return [str(folder / f"{number}.png") for number in range(count)]


def as_arrow(file: Path, stream: bool = True) -> Path:
    """The file as an Arrow file beside it, which replaces it."""
    table = pq.read_table(file)
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(file.with_suffix(".arrow")), "wb") as sink, new(sink, table.schema) as target:
        target.write_table(table, max_chunksize=3)
    file.unlink()
    return file.with_suffix(".arrow")
