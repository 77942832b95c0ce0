"""Hugging Face data sets as pyarrow and the library `datasets` write them: `make test-extras` installs both."""

import logging
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backbones.errors import BadInput, UserError
from classification.config import TrainConfig
from classification.task import ClassificationTask
from data.atomic_directory import CACHE_VARIABLE
from data.class_dataset import ClassDataset
from data.formats.huggingface_rows import Images, Rows
from data.options import ClassOptions

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from tests.data.formats.hub_sets import (  # noqa: E402 - needs pyarrow
    HEIGHT,
    IMAGE,
    TYPES,
    WIDTH,
    as_arrow,
    encoded,
    image_files,
    number_of,
    pets,
    struct,
    write,
)  # fmt: skip


@pytest.fixture
def library() -> Any:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    return datasets


def opened(root: Path, **settings: Any) -> tuple[ClassDataset, ClassDataset]:
    config = TrainConfig()
    for name, value in settings.items():
        setattr(config.data, name, value)
    return ClassificationTask.read(config, root)


# --- images and classes


@pytest.mark.parametrize(
    ("files", "root", "val"),
    [
        (("train-00000-of-00001.parquet", "validation-00000-of-00001.parquet"), "", "validation"),
        (("data/train-00000-of-00001-0a1b.parquet", "data/test-00000-of-00001-0a1b.parquet"), "", "test"),
        (("plain/train-00000-of-00001.parquet", "plain/valid-00000-of-00001.parquet"), "", "valid"),
        (("default/train/0000.parquet", "default/validation/0000.parquet"), "", "validation"),
        (("train.parquet", "val.parquet"), "", "val"),
        (("a/train.parquet", "a/val.parquet", "b/train.parquet"), "a", "val"),
    ],
)
def test_parquet_files_of_a_repository(files: Sequence[str], root: str, val: str, tmp_path: Path) -> None:
    for number, file in enumerate(files):
        pets(tmp_path / file, 10 * number)
    (tmp_path / "README.md").write_text("# Pets\n")
    train, scored = opened(tmp_path / root, val=val)
    assert (train.classes, train.labels.tolist()) == (("cat", "dog"), [0, 1] * 3)
    assert train.image_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert [number_of(train, i) for i in range(6)] == [0, 1, 2, 3, 4, 5]
    assert [number_of(scored, i) for i in range(6)] == [10, 11, 12, 13, 14, 15]
    assert train.name(3) == Path(files[0]).relative_to(root).as_posix() + "/3.png"


def test_parts_of_a_split_are_one_split(tmp_path: Path) -> None:
    for part in range(3):
        pets(tmp_path / f"train-{part:05d}-of-00003.parquet", 10 * part, 2)
    data = ClassDataset.open(tmp_path, "train")
    assert [number_of(data, i) for i in (0, 2, 3, 5)] == [0, 10, 11, 21]
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(BadInput, match="has 2 of 3 files of the split train: file 1 is missing"):
        ClassDataset.open(tmp_path, "train")


def test_a_single_file(tmp_path: Path) -> None:
    file = pets(tmp_path / "pets.parquet", count=10)
    train, val = opened(file, val="auto")
    assert (len(train), len(val)) == (8, 2)
    train, val = opened(tmp_path / "none", train=str(file), val=str(pets(tmp_path / "other.parquet", 20, 4)))
    assert [number_of(val, i) for i in range(4)] == [20, 21, 22, 23]


def test_configurations_are_named(tmp_path: Path) -> None:
    for name in ("small", "large"):
        pets(tmp_path / name / "train-00000-of-00001.parquet")
    with pytest.raises(BadInput, match=r"several configurations: large, small.*`root=.*large`"):
        ClassDataset.open(tmp_path, "train")


def test_classes_as_numbers_and_names(tmp_path: Path) -> None:
    images = struct([encoded(n) for n in range(4)])
    write(tmp_path / "a" / "train.parquet", {"img": images, "fine_label": pa.array([10, 9, 9, None], pa.int16())})
    data = ClassDataset.open(tmp_path / "a", "train")
    assert (data.classes, data.labels.tolist(), data.columns.numbered) == (("9", "10"), [1, 0, 0], True)
    assert data.columns.left_out == {"their row has no class": ["train.parquet/3.png"]}
    names = pa.array(["b", "a", "b", "a"]).dictionary_encode()
    write(tmp_path / "b" / "train.parquet", {"image": images, "species": names})
    data = ClassDataset.open(tmp_path / "b", "train")
    assert (data.classes, data.labels.tolist()) == (("a", "b"), [1, 0, 1, 0])


def test_rows_without_a_class_and_classes_without_a_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    types = TYPES | {"label": {"_type": "ClassLabel", "names": ["cat", "owl", "dog"]}}
    columns = {"image": struct([encoded(n) for n in range(4)]), "label": pa.array([2, -1, 0, 2])}
    write(tmp_path / "train.parquet", columns, types)
    data = ClassDataset.open(tmp_path, "train")
    assert (data.classes, data.labels.tolist(), [number_of(data, i) for i in range(3)]) == (
        ("cat", "dog"), [1, 0, 1], [0, 2, 3],
    )  # fmt: skip
    assert data.columns.left_out == {"their row has no class": ["train.parquet/1.png"]}
    assert "1 of the 3 classes that it lists have no image and are left out: owl" in caplog.text
    write(tmp_path / "train.parquet", columns | {"label": pa.array([-1] * 4)}, types)
    with pytest.raises(BadInput, match="no class in any row of its column label"):
        ClassDataset.open(tmp_path, "train")
    write(tmp_path / "train.parquet", columns | {"label": pa.array([0, 3, 1, 1])}, types)
    with pytest.raises(BadInput, match="the class index 3 in row 1, but it has 3 classes"):
        ClassDataset.open(tmp_path, "train")


def test_the_class_column(tmp_path: Path) -> None:
    kinds = {"_type": "ClassLabel", "names": ["cat", "dog"]}, {"_type": "ClassLabel", "names": ["indoors", "outdoors"]}
    columns = {"image": struct([encoded(n) for n in range(2)]), "pet": pa.array([0, 1]), "place": pa.array([1, 0])}
    write(tmp_path / "train.parquet", columns, {"image": IMAGE, "pet": kinds[0], "place": kinds[1]})
    with pytest.raises(BadInput, match=r"several columns of classes: pet, place\. .*`label_column`"):
        ClassDataset.open(tmp_path, "train")
    data = ClassDataset.open(tmp_path, "train", options=ClassOptions(label_column="place"))
    assert (data.classes, data.labels.tolist()) == (("indoors", "outdoors"), [1, 0])
    with pytest.raises(UserError, match="no column `label_column='time'`: its columns are image, pet, place"):
        ClassDataset.open(tmp_path, "train", options=ClassOptions(label_column="time"))


def test_classes_that_only_the_card_names(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train.parquet", {"image": struct([encoded(0)]), "label": pa.array([1])})
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
        "      class_label:\n        names:\n          '0': cat\n          '1': dog\n---\n# Pets\n"
    )
    data = ClassDataset.open(tmp_path, "train")
    assert (data.classes, data.labels.tolist()) == (("dog",), [0])


def test_the_stored_orientation_is_left_to_our_reader(tmp_path: Path) -> None:
    """The library turns images by their EXIF tag when it decodes them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path / "train.parquet", {"image": struct([encoded(1, exif=exif)]), "label": pa.array([0])}, TYPES)
    assert ClassDataset.open(tmp_path, "train")[0].image.shape == (HEIGHT, WIDTH, 3)
    assert ClassDataset.open(tmp_path, "train", options=ClassOptions(exif="apply"))[0].image.shape == (WIDTH, HEIGHT, 3)


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    contents = [encoded(0), None, b"no image"]
    write(tmp_path / "train.parquet", {"image": struct(contents), "label": pa.array([0, 1, 0])}, TYPES)
    data = ClassDataset.open(tmp_path, "train")
    with pytest.raises(BadInput, match=r"row 1 of .*train\.parquet has no image"):
        data[1]
    with pytest.raises(BadInput, match=r"train\.parquet/2"):
        data[2]
    data = ClassDataset.open(tmp_path, "train", skip_bad=2)
    assert [data[i].readable for i in range(3)] == [True, False, False]


def test_images_that_are_stored_as_paths(tmp_path: Path) -> None:
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "a.png").write_bytes(encoded(7))
    (tmp_path / "secret.png").write_bytes(encoded(8))
    paths = ["images/a.png", "../secret.png", str(tmp_path / "secret.png"), "https://example.org/a.png"]
    write(
        tmp_path / "set" / "train.parquet", {"image": struct([None] * 4, paths), "label": pa.array([0, 1] * 2)}, TYPES
    )
    data = ClassDataset.open(tmp_path / "set", "train")
    assert number_of(data, 0) == 7
    for index in (1, 2, 3):
        with pytest.raises(BadInput, match=rf"row {index} of .* outside of .*set: refused"):
            data[index]


def test_stored_names_are_kept_if_they_are_unique(tmp_path: Path) -> None:
    contents = [encoded(n) for n in range(2)]
    for name, paths in (("a", ["x/1.png", "x/2.png"]), ("b", ["x/1.png", "y/1.png"]), ("c", ["../1", "2.png"])):
        write(tmp_path / name / "train.parquet", {"image": struct(contents, paths), "label": pa.array([0, 1])}, TYPES)
    names = [ClassDataset.open(tmp_path / name, "train").columns.names for name in "abc"]
    assert names[0] == ["train.parquet/1.png", "train.parquet/2.png"]
    assert names[1] == names[2] == ["train.parquet/0.png", "train.parquet/1.png"]


def test_the_fingerprint_depends_on_the_content_only(tmp_path: Path) -> None:
    file = pets(tmp_path / "one" / "train.parquet")
    first = ClassDataset.open(tmp_path / "one", "train").fingerprint
    os.utime(file, (1, 1))
    shutil.move(tmp_path / "one", tmp_path / "two")
    assert ClassDataset.open(tmp_path / "two", "train").fingerprint == first
    pets(tmp_path / "two" / "train.parquet", label=pa.array([0, 1, 0, 1, 1, 0]))
    others = [ClassDataset.open(tmp_path / "two", "train").fingerprint]
    pets(tmp_path / "two" / "train.parquet", 1, label=pa.array([0, 1, 0, 1, 0, 1]))
    others.append(ClassDataset.open(tmp_path / "two", "train").fingerprint)
    assert len({first, *others}) == 3


# --- reading by row


def test_reading_in_random_order_unpacks_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    pets(tmp_path / "set" / "train.parquet", count=20)
    data = ClassDataset.open(tmp_path / "set", "train")
    assert [number_of(data, i) for i in (*range(20), *range(20))] == [*range(20)] * 2
    assert not (tmp_path / "cache").exists()  # in order, each group of rows is decoded once
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(20), 5)).tolist()
    assert [number_of(data, i) for i in order] == order
    copies = list((tmp_path / "cache" / "unpacked").glob("*/images.arrow"))
    assert len(copies) == 1
    assert pa.ipc.open_stream(pa.memory_map(str(copies[0]))).read_all().column_names == ["image"]


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    pets(tmp_path / "set" / "train.parquet", count=6)
    data = ClassDataset.open(tmp_path / "set", "train")
    order = [0, 2, 4] * 8
    assert [number_of(data, i) for i in order] == order
    assert caplog.text.count("cannot be unpacked to") == 1


def _numbers(data: ClassDataset, order: list[int], results: Any) -> None:
    results.put([number_of(data, i) for i in order])


@pytest.mark.parametrize(("method", "suffix"), [("fork", "parquet"), ("fork", "arrow"), ("spawn", "parquet")])
def test_other_processes_read_the_same(
    method: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    file = pets(tmp_path / "set" / "train.parquet", count=8)
    if suffix == "arrow":
        as_arrow(file)
    data = ClassDataset.open(tmp_path / "set", "train", fraction=0.5)
    here = [number_of(data, i) for i in range(4)]
    context = multiprocessing.get_context(method)
    results = context.Queue()
    order = [3, 0, 2, 1, 0, 3] * 3
    processes = [context.Process(target=_numbers, args=(data, order, results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert found == [[here[i] for i in order]] * 2


@pytest.mark.parametrize("stream", [True, False])
def test_arrow_files(stream: bool, tmp_path: Path) -> None:
    for number, split in enumerate(("train", "test")):
        as_arrow(pets(tmp_path / f"pets-{split}.parquet", 10 * number), stream)
    (tmp_path / "cache-0a1b2c.arrow").write_bytes(b"a result of map")
    data = ClassDataset.open(tmp_path, "test")
    assert [number_of(data, i) for i in (5, 0, 3)] == [15, 10, 13]
    assert [number_of(pickle.loads(pickle.dumps(data)), i) for i in (5, 0)] == [15, 10]


def test_threads_read_the_same(tmp_path: Path) -> None:
    rows = Rows([pets(tmp_path / "train.parquet", count=30)])
    images = Images(rows, "image", tmp_path)
    order = np.random.default_rng(1).integers(0, 30, 200).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(images, order)) == [encoded(i) for i in order]


# --- what is refused


def test_a_loading_script_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "pets.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nimport datasets\n\n"
        "class Pets(datasets.GeneratorBasedBuilder):\n    pass\n"
    )
    with pytest.raises(BadInput, match=r"loading script, pets\.py, which is not run\. .*refs/convert/parquet"):
        ClassDataset.open(tmp_path, "train")
    assert not (tmp_path / "ran").exists()


def test_damaged_and_unsuitable_files(tmp_path: Path) -> None:
    file = pets(tmp_path / "train.parquet")
    content = file.read_bytes()
    for damaged in (content[:-100], b"", b"PAR1" + bytes(50)):
        file.write_bytes(damaged)
        with pytest.raises(BadInput, match=r"cannot read .*train\.parquet"):
            ClassDataset.open(tmp_path, "train")
    write(file, {"text": pa.array(["a"]), "label": pa.array([0])})
    with pytest.raises(BadInput, match="no column of images: its columns are text, label"):
        ClassDataset.open(tmp_path, "train")
    write(file, {"image": struct([encoded(0)]), "label": pa.array([[0, 1]])})
    with pytest.raises(BadInput, match=r"no column that is recognised as the class\. Its columns are image, label"):
        ClassDataset.open(tmp_path, "train")
    pets(tmp_path / "train.parquet")
    write(tmp_path / "train" / "more.parquet", {"image": struct([encoded(0)]), "other": pa.array([0])})
    with pytest.raises(BadInput, match=r"several configurations|has other columns"):
        ClassDataset.open(tmp_path, "train")


# --- files of the library itself


def test_classes_saved_by_the_library(library: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["cat", "dog"])})
    files = image_files(tmp_path / "images", 8)
    whole = library.Dataset.from_dict({"image": files, "label": [0, 1] * 4}, features=features)
    splits = library.DatasetDict({"train": whole.select(range(6)), "validation": whole.select([7, 6])})
    splits.save_to_disk(tmp_path / "saved", num_shards={"train": 2, "validation": 1})
    splits["train"].save_to_disk(tmp_path / "one")
    splits["train"].to_parquet(tmp_path / "train.parquet")
    data, _ = opened(tmp_path / "saved", train=f"{tmp_path}/train.parquet:{tmp_path}/images")
    assert ([number_of(data, i) for i in range(6)], data.labels.tolist()) == ([0, 1, 2, 3, 4, 5], [0, 1] * 3)
    shutil.rmtree(tmp_path / "images")
    train, val = opened(tmp_path / "saved")
    assert (train.classes, train.labels.tolist()) == (("cat", "dog"), [0, 1] * 3)
    assert [number_of(train, i) for i in range(6)] == [0, 1, 2, 3, 4, 5]
    assert ([number_of(val, i) for i in range(2)], val.labels.tolist()) == ([7, 6], [1, 0])
    assert train.name(5) == "train/data-00001-of-00002.arrow/5.png"
    data = ClassDataset.open(tmp_path / "one", "train")
    assert ([number_of(data, i) for i in range(6)], data.classes) == ([0, 1, 2, 3, 4, 5], ("cat", "dog"))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
