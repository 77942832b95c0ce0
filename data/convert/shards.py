"""Shards, see `data.shards`: OUT/shards.json, OUT/{split}.npz and OUT/{split}-00000.tar. Nothing is lost."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from backbones.errors import BadInput
from data.columns import BoxColumns, ClassColumns, Columns, MaskColumns
from data.convert.boxes import report_orientation
from data.convert.parts import Part, Report, write_text
from data.formats.shards import BOX_ARRAYS
from data.mask_dataset import digest_of_mask
from data.names import Names
from data.scan import row_of
from data.shards import FILE, new_description

SHARD_BYTES = 500_000_000  # of a shard, about: a few hundred files for ImageNet
_BLOCK = 512  # bytes; members of a tar archive start at multiples of it


def write(out: Path, parts: Sequence[Part[Any]], report: Report) -> None:
    """Write the splits, each with its own classes in their order, so that trainings are those of the original data."""
    splits = {}
    for part in parts:
        if isinstance(part.columns, BoxColumns):
            report_orientation(part, True, report)
        splits[part.name] = _write_split(out, part.name, part.columns)
        labels = len(part.columns.boxes) if isinstance(part.columns, BoxColumns) else len(part.columns)
        report.splits[part.name] = len(part.columns), labels
    kinds = {BoxColumns: "boxes", ClassColumns: "classes", MaskColumns: "masks"}
    content = new_description(kinds[type(parts[0].columns)], splits)
    write_text(out / FILE, json.dumps(content, ensure_ascii=False, indent=1))


def _write_split(out: Path, name: str, columns: Columns) -> dict[str, Any]:
    """Write the archives and the index of a split. Returns its part of the description."""
    places: list[tuple[int, int, int]] = []
    mask_places: list[tuple[int, int, int]] = []
    headers = []
    with closing(_Archives(out, name)) as archives:
        for index, labels in enumerate(_labels(columns)):
            content = _content(columns, index)
            headers.append(row_of(content))
            archives.begin()
            suffix = os.path.splitext(columns.names[index])[1].lower() or ".img"
            places.append(archives.add(f"{index:09d}{suffix}", content))
            if isinstance(columns, MaskColumns):
                mask_places.append(archives.add(f"{index:09d}.mask.png", _png(columns.class_map(index))))
            archives.add(f"{index:09d}.json", json.dumps(labels, ensure_ascii=False).encode())
    index_arrays = {
        "names": Names.of(columns.names).packed,
        "image_ids": columns.image_ids,
        "headers": np.array(headers, np.int32).reshape(-1, 6),
        "bytes_of_files": np.array([length for _, _, length in places], np.int64),
        **_place_arrays("", places),
    }
    described: dict[str, Any] = {"classes": list(columns.classes), "label_digest": columns.label_digest.hex()}
    if isinstance(columns, BoxColumns):
        index_arrays |= {array: getattr(columns, array) for array in BOX_ARRAYS}
        if columns.complete is not None:
            index_arrays["complete"] = columns.complete
        described |= {"category_ids": list(columns.category_ids), "sizes_of_files": columns.sizes_of_files}
    elif isinstance(columns, ClassColumns):
        index_arrays["label"] = columns.label
        described["numbered"] = columns.numbered
    elif isinstance(columns, MaskColumns):
        index_arrays |= _place_arrays("mask_", mask_places)
        if (digests := _mask_digests(columns)) is not None:
            index_arrays["mask_digests"] = digests
        described |= {"ignored": sorted(map(int, columns.ignored)), "notes": list(columns.notes)}
    file = out / f"{name}.npz"
    np.savez_compressed(file, **index_arrays)  # type: ignore[arg-type]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return {
        "images": len(columns),
        "index": {"file": file.name, "bytes": file.stat().st_size, "sha256": digest},
        "shards": archives.written,
        **described,
    }


class _Archives:
    """Archives of about `SHARD_BYTES`, written one after the other.

    `written`: file and size of each that is complete.
    """

    def __init__(self, out: Path, name: str) -> None:
        self._out, self._name = out, name
        self._file: IO[bytes] | None = None
        self.written: list[dict[str, Any]] = []

    def begin(self) -> None:
        """The members that are added next belong to one image, and therefore into one archive."""
        if self._file is None or self._file.tell() > SHARD_BYTES:
            self.close()
            self._file = (self._out / f"{self._name}-{len(self.written):05d}.tar").open("wb")

    def add(self, member: str, content: bytes) -> tuple[int, int, int]:
        """Number of the archive, position of the content in it, and length."""
        assert self._file is not None
        header = tarfile.TarInfo(member)
        header.size = len(content)
        self._file.write(header.tobuf(tarfile.USTAR_FORMAT))
        start = self._file.tell()
        self._file.write(content)
        self._file.write(b"\0" * (-len(content) % _BLOCK))
        return len(self.written), start, len(content)

    def close(self) -> None:
        """Complete the archive."""
        if self._file is None:
            return
        with self._file as file:
            file.write(b"\0" * 2 * _BLOCK)
            self.written.append({"file": Path(file.name).name, "bytes": file.tell()})
        self._file = None


def _content(columns: Columns, index: int) -> bytes:
    if columns.content is not None:
        return columns.content(index)
    file = columns.folder / columns.names[index]
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read image {file}: {error.strerror}") from error


def _place_arrays(prefix: str, places: list[tuple[int, int, int]]) -> dict[str, np.ndarray]:
    shard, start, length = np.array(places, np.int64).reshape(-1, 3).T
    return {f"{prefix}shard": shard.astype(np.int32), f"{prefix}start": start, f"{prefix}length": length}


def _labels(columns: Columns) -> Iterator[dict[str, Any]]:
    """The labels of each image for tools that read the archives without the index."""
    if isinstance(columns, BoxColumns):
        order = np.argsort(columns.image, kind="stable")
        starts = np.searchsorted(columns.image[order], np.arange(len(columns) + 1))
    for index, name in enumerate(columns.names):
        labels: dict[str, Any] = {"file": name, "image_id": int(columns.image_ids[index])}
        if isinstance(columns, ClassColumns):
            label = int(columns.label[index])
            labels |= {"label": label, "class": columns.classes[label]}
        elif isinstance(columns, BoxColumns):
            rows = order[starts[index] : starts[index + 1]]
            labels |= {
                "boxes_xyxy": columns.boxes[rows].tolist(),
                "classes": [columns.classes[label] for label in columns.label[rows].tolist()],
                "crowd": columns.crowd[rows].tolist(),
            }
        yield labels


def _png(class_map: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(class_map).save(content, "PNG")
    return content.getvalue()


def _mask_digests(columns: MaskColumns) -> np.ndarray | None:
    """(n, 32) uint8, SHA-256 of the mask files; None if the masks are not files, whose digest is among the labels'."""
    if columns.mask_digests is not None or not columns.mask_files:
        return columns.mask_digests
    return np.frombuffer(b"".join(map(digest_of_mask, columns.mask_files)), np.uint8).reshape(-1, 32)
