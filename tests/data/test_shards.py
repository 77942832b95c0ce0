"""Shards: trainings read the same samples from them as from the data set that was converted, here or in a store."""

import json
import multiprocessing
import pickle
import shutil
import tarfile
from dataclasses import fields, replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from backbones.errors import BadInput, StoreError
from data import stores
from data.batch import Sample
from data.box_dataset import BoxDataset
from data.class_dataset import ClassDataset
from data.convert import shards as writer
from data.convert.__main__ import main
from data.convert.runner import convert
from data.loader import train_loader
from data.mask_dataset import MaskDataset
from data.options import BoxOptions, MaskOptions
from data.shards import local_copy
from data.stores import Store
from engine.config import TrainData
from tests.classification.conftest import write_folders
from tests.detection.conftest import write_coco
from tests.segmentation.conftest import UNLABELLED, write_masks

DATASETS = {
    "classes": (ClassDataset, write_folders, None),
    "boxes": (BoxDataset, write_coco, BoxOptions()),
    "masks": (MaskDataset, write_masks, MaskOptions(ignore_index=UNLABELLED)),
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Kind -> the data set and its shards of about two images each."""
    base = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "SHARD_BYTES", 30_000)
        for kind, (_, write, options) in DATASETS.items():
            write(base / kind)
            convert(str(base / kind), "shards", base / f"{kind}-shards", options)
    return base


@pytest.fixture
def in_memory(converted, monkeypatch, tmp_path):
    """Kind -> address of the shards in fsspec's store in memory."""
    monkeypatch.setenv("BACKBONE_SWAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stores, "FIRST_WAIT", 0.01)
    memory = fsspec.filesystem("memory")

    def put(kind):
        memory.put(str(converted / f"{kind}-shards"), f"/bucket/{tmp_path.name}", recursive=True)
        return f"memory://bucket/{tmp_path.name}"

    yield put
    memory.rm("/bucket", recursive=True)


def pair(kind, root, shards):
    cls, _, options = DATASETS[kind]
    return cls.open(root, "train", options=options), cls.open(shards, "train")


def assert_same(one, other):
    for field in fields(type(one)):
        first, second = getattr(one, field.name), getattr(other, field.name)
        if isinstance(first, np.ndarray) or hasattr(first, "numpy"):
            assert first.dtype == second.dtype, field.name
            np.testing.assert_array_equal(np.asarray(first), np.asarray(second), field.name)
        else:
            assert first == second, field.name


@pytest.mark.parametrize("kind", DATASETS)
def test_samples_classes_and_fingerprint_are_those_of_the_folder(converted, kind):
    folder, shards = pair(kind, converted / kind, converted / f"{kind}-shards")
    assert len(list((converted / f"{kind}-shards").glob("train-*.tar"))) > 2
    assert len(folder) == len(shards)
    for index in range(len(folder)):
        assert_same(folder[index], shards[index])
        assert shards.name(index) == folder.name(index)
        assert shards.columns.content(index) == folder.path(index).read_bytes()
    assert (shards.classes, shards.digests, shards.report) == (folder.classes, folder.digests, folder.report)
    assert shards.columns.format == "shards"
    assert_same(pickle.loads(pickle.dumps(shards))[1], folder[1])
    half = [cls.columns.subset(0.5, 1) for cls in (folder, shards)]
    parts = [type(folder)(columns) for columns in half]
    assert parts[0].digests == parts[1].digests
    assert_same(parts[0][1], parts[1][1])


@pytest.mark.parametrize("kind", DATASETS)
def test_training_and_validation_data_are_those_of_the_folder(converted, kind):
    cls = DATASETS[kind][0]
    data = TrainData()
    data.ignore_index = UNLABELLED
    found = [cls.open_train_val(converted / name, data, 0) for name in (kind, f"{kind}-shards")]
    for one, other in zip(*found, strict=True):
        assert (one.fingerprint, one.classes, one.report) == (other.fingerprint, other.classes, other.report)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", DATASETS)
def test_batches_from_a_store_are_those_of_the_folder_also_when_resumed(converted, in_memory, kind, workers):
    datasets = pair(kind, converted / kind, Path(in_memory(kind)))
    batches = []
    for dataset in datasets:
        loader = train_loader(dataset.with_transform(as_network_input), 3, seed=5, workers=workers)
        loader.batch_sampler.set_epoch(1)
        batches.append(list(loader))
        loader.load_state_dict({"seed": 5, "epoch": 1, "start_batch": 1})
        for one, other in zip(loader, batches[-1][1:], strict=True):
            assert_same(one, other)
    for one, other in zip(*batches, strict=True):
        assert_same(one, other)


def as_network_input(sample: Sample, seed: int) -> Sample:
    return sample if seed % 2 else replace(sample, image=sample.image[:, ::-1].copy())


def test_a_batch_is_one_request_and_each_image_is_read_once(converted, in_memory, monkeypatch):
    _, shards = pair("masks", converted / "masks", Path(in_memory("masks")))
    requests = []
    original = Store.read_ranges
    monkeypatch.setattr(
        Store, "read_ranges", lambda self, ranges: requests.append(len(ranges)) or original(self, ranges)
    )
    monkeypatch.setattr(Store, "read_range", lambda *arguments: pytest.fail("read alone"))
    list(train_loader(shards, 4, seed=0, workers=0))
    assert requests == [4, 4, 4, 4]  # images and masks of two batches


def test_settings_of_the_conversion_have_no_effect_afterwards(converted, caplog):
    _, shards = pair("masks", converted / "masks", converted / "masks-shards")
    assert not caplog.records
    again = MaskDataset.open(converted / "masks-shards", "train", options=MaskOptions(ignore_index=0))
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "the labels in shards are final, so these settings have no effect: --data.ignore_index. Pass them to "
        "data.convert instead"
    ]
    assert_same(again[0], shards[0])


def test_other_tools_read_the_archives(converted):
    names, labels = [], []
    for file in sorted((converted / "boxes-shards").glob("train-*.tar")):
        with tarfile.open(file) as archive:
            members = archive.getmembers()
            names += [member.name for member in members]
            labels += [json.load(archive.extractfile(m)) for m in members if m.name.endswith(".json")]
    assert names[:4] == ["000000000.png", "000000000.json", "000000001.png", "000000001.json"]
    first = BoxDataset.open(converted / "boxes", "train")
    assert labels[3]["file"] == first.name(3)
    assert labels[3]["boxes_xyxy"] == first.columns.boxes[first.columns.image == 3].tolist()


def test_command_and_back(converted, tmp_path, capsys):
    assert main([str(converted / "classes-shards"), "--to", "folders", str(tmp_path / "back")]) == 0
    original = ClassDataset.open(converted / "classes", "train")
    assert ClassDataset.open(tmp_path / "back", "train").digests == original.digests
    assert main([str(converted / "boxes"), "--to", "shards", str(tmp_path / "new"), "--data.format", "coco"]) == 0
    assert "not held" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(converted / "boxes"), "--to", "shards", str(tmp_path / "other"), "--data.ignore_index", "3"])


@pytest.fixture
def copied(converted, tmp_path):
    shutil.copytree(converted / "boxes-shards", tmp_path / "set")
    return tmp_path / "set"


def rewrite(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_damage_is_one_message(copied):
    def fails(message):
        with pytest.raises(BadInput, match=message):
            BoxDataset.open(copied, "train")

    first, index, described = copied / "train-00000.tar", copied / "train.npz", copied / "shards.json"
    content = first.read_bytes()
    first.write_bytes(content[:-512])
    fails(r"train-00000.tar has \d+ bytes, and not \d+ as its index states")
    first.unlink()
    fails("train-00000.tar is missing: copy the folder completely")
    first.write_bytes(content)
    stored = index.read_bytes()
    index.write_bytes(stored[:200])
    fails(r"cannot read the index .*train.npz")
    index.write_bytes(stored)
    rewrite(described, lambda found: found["splits"]["train"].pop("category_ids"))
    fails("do not fit together")
    rewrite(described, lambda found: found["splits"]["train"]["shards"][0].update(file="../x.tar"))
    fails("names files outside of its folder")
    rewrite(described, lambda found: found.update(version=9))
    fails("has version 9 of the layout")
    described.write_text("[]")
    fails("does not describe shards")


def test_errors_of_a_store(in_memory, monkeypatch):
    url = in_memory("boxes")
    with pytest.raises(BadInput, match=r"memory://nowhere/x/shards.json does not exist in the store"):
        BoxDataset.open("memory://nowhere/x", "train")
    data = BoxDataset.open(url, "train", skip_bad=5)
    memory = type(fsspec.filesystem("memory"))
    original, failures = memory.cat_file, []

    def cat_file(self, path, start=None, end=None, **options):
        if failures:
            raise failures.pop()
        return original(self, path, start=start, end=end, **options)

    monkeypatch.setattr(memory, "cat_file", cat_file)
    failures[:] = [ConnectionResetError("connection lost"), TimeoutError()]
    assert data[0].readable
    monkeypatch.setattr(stores, "PATIENCE", 0.1)
    failures[:] = [ConnectionResetError("connection lost")] * 100
    with pytest.raises(StoreError, match=r"train-00000.tar cannot be read: connection lost. \d attempts within"):
        data[0]  # not skipped, whatever `skip_bad` is
    assert not data.skipped
    assert len(failures) > 90
    failures[:] = [PermissionError("Access Denied")]
    with pytest.raises(BadInput, match=r"refuses access or finds no credentials: Access Denied"):
        Store(url).read("shards.json")
    failures[:] = [ConnectionResetError("connection lost")] * 1000
    with pytest.raises(StoreError):
        list(train_loader(data, 2, seed=0, workers=1))


def test_an_address_without_a_driver(monkeypatch):
    with pytest.raises(BadInput, match=r"nosuch://bucket/x is no address that can be read"):
        local_copy("nosuch://bucket/x")
    assert stores.address(Path("s3://bucket/a/b")) == "s3://bucket/a/b"
    assert stores.address("hf://owner/name") is None
    assert stores.address("/data/set") is stores.address("C:/data") is stores.address("boxes.json:/photos") is None


def test_forked_processes_read_from_files_that_are_open(converted):
    _, shards = pair("classes", converted / "classes", converted / "classes-shards")
    expected = [shards.columns.content(i) for i in range(4)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(shards.columns.content, range(4)) == expected
