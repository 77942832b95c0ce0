"""Start-up, memory and reading speed of large data sets: files and shards, and layouts that shards might have had.

    python -m tests.benchmarks.shards --output docs/performance.md     measures, and replaces its two sections there

Each measurement is a forked process of its own, in which the modules are imported already. Times are CPU time, which
other jobs on the machine hardly change: to wait for disk or network is not part of them.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import re
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from data.class_dataset import ClassDataset
from data.convert import runner
from data.convert import shards as writer
from data.formats import Split, shards
from data.hub import local_root
from data.options import ReadOptions
from tests.data.s3_server import s3_server

COUNTS = (20_000, 40_000, 80_000)  # images: n, 2n, 4n
CLASSES = 100
LINKS = 20_000  # hard links of one file; file systems allow few tens of thousands
READS = 500  # images that are read to measure a rate
IMAGES = 500  # of the comparison of layouts
BATCH = 32
SHARD = 8_000_000  # bytes of a file in the comparison of layouts; moto reads the whole file for each request
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip


SECTIONS: dict[str, Callable[[Path], list[str]]] = {
    "Large data sets": lambda base: growth(base),
    "Layouts of shards": lambda base: layouts(base),
}


def growth(base: Path) -> list[str]:
    """Start-up, memory and reading speed for n, 2n and 4n images, as class folders and as shards."""
    lines = [
        f"`python -m tests.benchmarks.shards`, on {date.today()}. Times are CPU time of one process, so that other "
        f"jobs on the machine change them little. {CLASSES} class folders of hard links of small JPEG files, and the "
        "same as shards. A start reads the columns, checks them, and computes the fingerprint, after all imports. "
        "Memory is what the start added. Images are drawn in random order and decoded. A loader worker's own memory is "
        f"what it does not share with other processes, after {READS} and after {3 * READS} images.",
        "",
        "| images | layout | first start | second start | memory | read and decoded per second | own memory of a "
        "worker |",
        "|---|---|---|---|---|---|---|",
    ]
    for count in COUNTS:
        folder, converted = base / f"folders-{count}", base / f"shards-{count}"
        _write_folders(folder, count)
        cache = base / f"cache-{count}"
        time.sleep(3)  # a folder that has just changed is not remembered
        _child(convert, folder, converted, cache=base / "unused")
        for name, root in (("class folders", folder), ("shards", converted)):
            first, second = (_child(start, root, cache=cache) for _ in range(2))
            lines.append(
                f"| {count:,} | {name} | {first['seconds']:.2f} s | {second['seconds']:.2f} s | {second['memory']:.0f} "
                f"MB | {second['rate']:.0f} | {second['first']:.0f} MB, {second['later']:.0f} MB |"
            )
        shutil.rmtree(folder)
        shutil.rmtree(converted)
    return lines


def layouts(base: Path) -> list[str]:
    """Random reads of the same images from several layouts, from the local disk and from an S3 server."""
    images = base / "images"
    images.mkdir()
    contents = list(_photographs(IMAGES, 240, 320))
    size = sum(map(len, contents)) / 1e6
    lines = [
        f"{IMAGES} JPEG images of {size / IMAGES * 1000:.0f} KB, read in random order in batches of {BATCH}, not "
        "decoded. Rates are images per second of CPU time of the reading process. The S3 server is that of `moto`, a "
        "process of its own. Memory is what opening and reading added.",
        "",
        "| layout | local disk | S3 | memory, local | memory, S3 | random access in S3 |",
        "|---|---|---|---|---|---|",
    ]
    with s3_server() as port:
        for name, layout in LAYOUTS.items():
            try:
                for module in layout.needs:
                    importlib.import_module(module)
            except ImportError:
                continue
            folder = images / name
            _child(layout.write, folder, contents, cache=base / "unused")
            local = _child(read, name, str(folder), cache=base / "cache-local")
            remote: dict[str, Any] = {}
            if layout.in_s3:
                _child(_upload, folder, name, port, cache=base / "unused")
                remote = _child(read, name, f"s3://bucket/{name}", cache=base / "cache-s3", port=port)
            rate = f"{remote['rate']:.0f}" if remote else "not possible"
            memory = f"{remote['memory']:.0f} MB" if remote else ""
            lines.append(
                f"| {layout.title} | {local['rate']:.0f} | {rate} | {local['memory']:.0f} MB | {memory} | "
                f"{layout.remark} |"
            )
    return lines


# The layouts. Each has: modules that it needs, a writer, and a reader: place -> (indices -> contents).


def _write_files(folder: Path, contents: list[bytes]) -> None:
    (folder / "train" / "a").mkdir(parents=True)
    for index, content in enumerate(contents):
        (folder / "train" / "a" / f"{index:06d}.jpg").write_bytes(content)


def _read_files(place: str) -> Callable[[list[int]], list[bytes]]:
    names = sorted(Path(place).rglob("*.jpg"))
    return lambda indices: [names[index].read_bytes() for index in indices]


def _write_shards(folder: Path, contents: list[bytes]) -> None:
    source = folder.with_name("source")
    _write_files(source, contents)
    writer.SHARD_BYTES = SHARD
    convert(source, folder)
    shutil.rmtree(source)


def _read_shards(place: str) -> Callable[[list[int]], list[bytes]]:
    content: Any = shards.read(Split(local_root(Path(place)), "train"), ReadOptions()).content

    def read_batch(indices: list[int]) -> list[bytes]:
        content.prefetch(indices)
        return [content(index) for index in indices]

    return read_batch


def _write_arrow(folder: Path, contents: list[bytes]) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(decode=False)})
    rows = {"image": [{"bytes": content, "path": None} for content in contents]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(folder))


def _read_arrow(place: str) -> Callable[[list[int]], list[bytes]]:
    import datasets

    data = datasets.load_from_disk(place)
    return lambda indices: [data[index]["image"]["bytes"] for index in indices]


def _write_litdata(folder: Path, contents: list[bytes]) -> None:
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes=SHARD)
    for index, content in enumerate(contents):
        writer[index] = content
    writer.done()
    writer.merge()


def _read_litdata(place: str) -> Callable[[list[int]], list[bytes]]:
    from litdata import StreamingDataset

    options = {"endpoint_url": os.environ.get("AWS_ENDPOINT_URL")} if place.startswith("s3:") else {}
    cache = tempfile.mkdtemp(dir=os.environ["BACKBONE_SWAP_CACHE"])
    data = StreamingDataset(place, cache_dir=cache, storage_options=options, max_cache_size="10GB")
    return lambda indices: [data[index] for index in indices]


class Layout:
    """A way to store images. `needs`: modules. `in_s3`: whether single images can be read from a store."""

    def __init__(self, title: str, write: Any, read: Any, needs: tuple[str, ...], in_s3: bool, remark: str) -> None:
        self.title, self.write, self.read = title, write, read
        self.needs, self.in_s3, self.remark = needs, in_s3, remark


LAYOUTS = {
    "files": Layout("one file for each image", _write_files, _read_files, (), False, "a mount of the bucket"),
    "shards": Layout(
        "**tar archives and an index**", _write_shards, _read_shards, ("s3fs", "moto"), True,
        "a range of bytes for each image, a batch at a time",
    ),
    "arrow": Layout(
        "Arrow, `datasets`", _write_arrow, _read_arrow, ("datasets",), False, "copies the data set first"
    ),
    "litdata": Layout(
        "litdata", _write_litdata, _read_litdata, ("litdata",), True,
        "ranges of bytes for each image, one image at a time",
    ),
}  # fmt: skip


# What the forked processes do.


def convert(root: Path, out: Path) -> None:
    """Write the shards of a data set."""
    runner.convert(str(root), "shards", out)


def start(root: Path) -> dict[str, float]:
    """Seconds of a start, memory in MB that it takes, images read and decoded per second, and `first` and `later`."""
    before, begin = _private_mb(), time.process_time()
    data = ClassDataset.open(root, "train")
    data.check_headers()
    data.fingerprint  # noqa: B018 - computed when it is first read
    seconds = time.process_time() - begin
    memory = _private_mb() - before
    indices = np.random.default_rng(0).integers(0, len(data), READS).tolist()
    begin = time.process_time()
    for index in indices:
        data.pixels(index, None)
    return {"seconds": seconds, "memory": memory, "rate": READS / (time.process_time() - begin)} | worker(data)


def worker(data: ClassDataset) -> dict[str, float]:
    """Memory in MB that a loader process does not share, after some images and after more."""

    def measure() -> dict[str, float]:
        found = {}
        order = iter(np.random.default_rng(0).integers(0, len(data), 3 * READS).tolist())
        for name, count in (("first", READS), ("later", 2 * READS)):
            for _ in range(count):
                data[next(order)]
            found[name] = _private_mb()
        return found

    return _forked(measure)


def read(name: str, place: str) -> dict[str, float]:
    """Images per second of random reads, and memory in MB that opening and reading added."""
    before = _private_mb()
    get = LAYOUTS[name].read(place)
    order = np.random.default_rng(0).permutation(IMAGES).tolist()
    get(order[:BATCH])  # opens files and connections
    begin = time.process_time()
    for first in range(0, IMAGES, BATCH):
        get(order[first : first + BATCH])
    return {"rate": IMAGES / (time.process_time() - begin), "memory": _private_mb() - before}


def _private_mb() -> float:
    """Memory of this process that it shares with no other, in MB."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(value) for value in re.findall(r"Private_\w+:\s+(\d+) kB", text)) / 1024


def _child(work: Callable[..., Any], *arguments: Any, cache: Path, port: int | None = None) -> Any:
    """The result of the work in a forked process, with a cache folder and, for S3, the port of the server."""
    cache.mkdir(exist_ok=True)

    def with_environment() -> Any:
        os.environ |= ENVIRONMENT | {"BACKBONE_SWAP_CACHE": str(cache)}
        if port is not None:
            os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
        return work(*arguments)

    return _forked(with_environment)


def _forked(work: Callable[[], Any]) -> Any:
    """The result of the work in a forked process. Ends with its traceback if it fails."""
    source, target = os.pipe()
    if (process := os.fork()) == 0:
        try:
            os.write(target, json.dumps(work()).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(target)
    with os.fdopen(source, "rb") as answer:
        content = answer.read()
    if os.waitpid(process, 0)[1]:
        raise RuntimeError("the measurement failed")
    return json.loads(content)


def _photographs(count: int, height: int, width: int) -> Iterator[bytes]:
    """JPEG files, each with bytes of its own at the end."""
    from PIL import Image

    random = np.random.default_rng(0)
    files = []
    for _ in range(20):
        coarse = Image.fromarray(random.integers(0, 256, (height // 2, width // 2, 3), np.uint8))
        buffer = io.BytesIO()
        coarse.resize((width, height), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    for index in range(count):
        yield files[index % len(files)] + index.to_bytes(8, "little")


def _write_folders(folder: Path, count: int) -> None:
    """Class folders with hard links of a few images."""
    originals = folder.with_name(f"{folder.name}-originals")
    originals.mkdir()
    for number, content in enumerate(_photographs(count // LINKS + 1, 48, 64)):
        (originals / f"{number}.jpg").write_bytes(content)
    for label in range(CLASSES):
        own = folder / "train" / f"class_{label:03d}"
        own.mkdir(parents=True)
        for index in range(label, count, CLASSES):
            os.link(originals / f"{index // LINKS}.jpg", own / f"image_{index:07d}.jpg")


def _upload(folder: Path, name: str, port: int) -> None:
    import s3fs

    files = s3fs.S3FileSystem(key="test", secret="test", endpoint_url=f"http://127.0.0.1:{port}")
    files.makedirs("bucket", exist_ok=True)
    files.put(f"{folder}/", f"bucket/{name}/", recursive=True)


def replaced(page: str, title: str, lines: list[str]) -> str:
    """The page with this section in place of the one with the same title, or at its end."""
    section = "\n".join([f"## {title}", "", *lines, ""])
    found = re.search(rf"^## {re.escape(title)}$.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    page = page.replace(found[0], f"{section}\n") if found else f"{page.rstrip()}\n\n{section}"
    return page.rstrip() + "\n"


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.shards", description=__doc__)
    parser.add_argument("--output", type=Path, help="page whose sections are replaced; by default they are printed")
    options = parser.parse_args()
    for title, measure in SECTIONS.items():
        with tempfile.TemporaryDirectory() as folder:
            lines = measure(Path(folder))
        if options.output:
            options.output.write_text(replaced(options.output.read_text(), title, lines))
        else:
            print(replaced("", title, lines))


if __name__ == "__main__":
    main()
