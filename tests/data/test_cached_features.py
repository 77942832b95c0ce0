"""Cached features, compared with the samples and feature maps that were stored."""

import json
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from backbones.base import CachedFeatures
from backbones.errors import BadInput
from data import cached_features as features
from data.atomic_directory import CACHE_VARIABLE
from data.batch import Draw, Sample, collate
from data.cached_features import Augmentations, CachedDataset, cache_features
from data.loader import eval_loader, train_loader
from data.sampling import draw_seed

SIZE = (16, 24)


class Source:
    """Images that depend on index and seed, with one class each."""

    def __len__(self):
        return 5

    def __getitem__(self, draw):
        index, seed, _ = draw if isinstance(draw, Draw) else (draw, 0, 0)
        random = np.random.default_rng((index, seed))
        return Sample(
            image=random.integers(0, 256, (*SIZE, 3), dtype=np.uint8),
            image_id=100 + index,
            size=(20 + index, 30 - index),
            scale=(0.5 + index, 0.25),
            boxes=np.zeros((1, 4), np.float32),
            labels=random.integers(0, 7, 1),
            readable=index != 3,
        )


def features_of(batch):
    """Two maps and a vector, in place of a backbone's features."""
    x = batch.images.float()
    return CachedFeatures([x[:, :, ::4, ::4].repeat(1, 2, 1, 1), x[:, :, ::8, ::8], x.mean((2, 3)).bfloat16()], SIZE)


def cached(folder, source, augmentations):
    rows = Augmentations(source, augmentations, seed=7)
    batches = ((batch, features_of(batch)) for batch in eval_loader(rows, 2, workers=0))
    return cache_features(folder, batches, len(rows), augmentations)


def assert_same(found, sample):
    expected = features_of(collate([sample]))
    assert found.image.size == expected.size
    for a, b in zip(collate([found]).images.maps, expected.maps, strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype
    assert (found.image_id, found.size, found.readable) == (sample.image_id, sample.size, sample.readable)
    assert_close(found.scale, sample.scale)
    for a, b in ((found.boxes, sample.boxes), (found.labels, sample.labels)):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_evaluation_reads_every_sample_unchanged(tmp_path):
    source = Source()
    found = cached(tmp_path / "features", source, augmentations=0)
    assert len(found) == 5
    for index in range(5):
        assert_same(found[index], source[index])


def test_training_cycles_through_the_augmentations_of_the_first_epochs(tmp_path):
    source = Source()
    found = cached(tmp_path / "features", source, augmentations=3)
    assert len(found) == 5
    for index in range(5):
        for epoch in (0, 1, 2, 3, 10):
            assert_same(found[Draw(index, 99, epoch)], source[Draw(index, draw_seed(7, epoch % 3, index))])


def test_loaders_stack_features_channels_last(tmp_path):
    source = Source()
    batch = next(iter(train_loader(cached(tmp_path / "features", source, augmentations=1), 4, seed=7, workers=0)))
    pixels = next(iter(train_loader(source, 4, seed=7, workers=0)))
    assert torch.equal(batch.image_ids, pixels.image_ids)
    assert torch.equal(batch.labels, pixels.labels)  # the only augmentation is that of the first epoch
    assert batch.images.shape == (4, 3, *SIZE)
    for a, b in zip(batch.images.maps, features_of(pixels).maps, strict=True):
        assert torch.equal(a, b)
    assert batch.images.maps[0].is_contiguous(memory_format=torch.channels_last)
    assert len(batch[1:]) == len(batch[1:].images) == 3
    assert torch.equal(batch[1:].to("cpu").images.maps[1], batch.images.maps[1][1:])


def test_worker_processes_return_equal_features(tmp_path):
    found = cached(tmp_path / "features", Source(), augmentations=2)
    without_workers, with_workers = (list(train_loader(found, 2, seed=0, workers=workers)) for workers in (0, 1))
    assert len(without_workers) == 2
    for a, b in zip(without_workers, with_workers, strict=True):
        assert torch.equal(a.images.maps[0], b.images.maps[0])


def test_spawned_workers_open_the_files_again(tmp_path):
    source = Source()
    sent = bytes(ForkingPickler.dumps(cached(tmp_path / "features", source, augmentations=0)))
    assert len(sent) < 1000  # the folder's name, not the features
    assert_same(pickle.loads(sent)[4], source[4])


def test_features_are_computed_once(tmp_path):
    cached(tmp_path / "features", Source(), augmentations=2)

    def never():
        raise AssertionError
        yield

    assert len(cache_features(tmp_path / "features", never(), 10, 2)) == 5


def test_lack_of_disk_space_is_reported_before_computing_and_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(features.shutil, "disk_usage", lambda place: Usage(100))
    with pytest.raises(BadInput, match=rf"has room for 0.0 GB. Set {CACHE_VARIABLE} to a folder with room"):
        cached(tmp_path / "features", Source(), augmentations=2)
    assert [p.suffix for p in tmp_path.iterdir()] == [".lock"]


class Usage:
    def __init__(self, free):
        self.free = free


def test_a_disk_that_becomes_full_while_writing(tmp_path, monkeypatch):
    def full(place, batches, rows, augmentations):
        (place / "map0.bin").write_bytes(b"1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features, "_write", full)
    with pytest.raises(BadInput, match="No space left on device"):
        cached(tmp_path / "features", Source(), augmentations=2)
    assert [p.suffix for p in tmp_path.iterdir()] == [".lock"]


def test_unreadable_images_raise_their_own_error(tmp_path):
    class Broken(Source):
        def __getitem__(self, draw):
            raise BadInput("image 3.png is cut off")

    with pytest.raises(BadInput, match="is cut off"):
        cached(tmp_path / "features", Broken(), augmentations=1)
    assert [p.suffix for p in tmp_path.iterdir()] == [".lock"]


def test_contents_of_a_folder(tmp_path):
    cached(tmp_path / "features", Source(), augmentations=2)
    layout = json.loads((tmp_path / "features" / "complete.json").read_text())
    assert layout == {
        "rows": 10,
        "augmentations": 2,
        "size": list(SIZE),
        "maps": [["float32", [4, 6, 6]], ["float32", [2, 3, 3]], ["bfloat16", [3]]],
    }
    assert (tmp_path / "features" / "map0.bin").stat().st_size == 10 * 4 * 6 * 6 * 4
    assert len(CachedDataset(tmp_path / "features")) == 5
