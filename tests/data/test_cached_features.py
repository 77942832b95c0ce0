"""Features on disk against the samples and maps that they were made of."""

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
from data.loader import draw_seed, eval_loader, train_loader

SIZE = (16, 24)


class Source:
    """Images that tell their index and seed, with as many boxes, and masks of their own sizes in evaluation."""

    def __init__(self, masks=True):
        self.masks = masks

    def __len__(self):
        return 5

    def __getitem__(self, draw):
        index, seed, _ = draw if isinstance(draw, Draw) else (draw, 0, 0)
        random = np.random.default_rng((index, seed))
        height, width = SIZE if isinstance(draw, Draw) else (20 + index, 30 - index)
        return Sample(
            image=random.integers(0, 256, (*SIZE, 3), dtype=np.uint8),
            image_id=100 + index,
            size=(20 + index, 30 - index),
            scale=(0.5 + index, 0.25),
            boxes=random.uniform(0, 20, (index, 4)).astype(np.float32),
            labels=random.integers(0, 7, index),
            mask=random.integers(0, 256, (height, width), dtype=np.uint8) if self.masks else None,
            readable=index != 3,
        )


def seen(batch):
    """Two maps and a vector, as a backbone would give."""
    x = batch.images.float()
    return CachedFeatures([x[:, :, ::4, ::4].repeat(1, 2, 1, 1), x[:, :, ::8, ::8], x.mean((2, 3)).bfloat16()], SIZE)


def kept(folder, source, augmentations):
    rows = Augmentations(source, augmentations, seed=7)
    batches = ((batch, seen(batch)) for batch in eval_loader(rows, 2, workers=0))
    return cache_features(folder, batches, len(rows), augmentations)


def assert_same(found, sample):
    expected = seen(collate([sample]))
    assert found.image.size == expected.size
    for a, b in zip(collate([found]).images.maps, expected.maps, strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype
    assert (found.image_id, found.size, found.readable) == (sample.image_id, sample.size, sample.readable)
    assert_close(found.scale, sample.scale)
    for a, b in ((found.boxes, sample.boxes), (found.labels, sample.labels)):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert (found.mask is None) == (sample.mask is None)
    assert sample.mask is None or np.array_equal(found.mask, sample.mask)


@pytest.mark.parametrize("masks", [True, False])
def test_evaluation_gets_every_sample_as_it_is(tmp_path, masks):
    source = Source(masks)
    found = kept(tmp_path / "kept", source, augmentations=0)
    assert len(found) == 5
    for index in range(5):
        assert_same(found[index], source[index])


def test_training_gets_what_the_first_epochs_would_draw_in_turn(tmp_path):
    source = Source()
    found = kept(tmp_path / "kept", source, augmentations=3)
    assert len(found) == 5
    for index in range(5):
        for epoch in (0, 1, 2, 3, 10):
            assert_same(found[Draw(index, 99, epoch)], source[Draw(index, draw_seed(7, epoch % 3, index))])


def test_loaders_stack_them_channels_last(tmp_path):
    source = Source()
    batch = next(iter(train_loader(kept(tmp_path / "kept", source, augmentations=1), 4, seed=7, workers=0)))
    pixels = next(iter(train_loader(source, 4, seed=7, workers=0)))
    assert torch.equal(batch.image_ids, pixels.image_ids)
    assert torch.equal(batch.masks, pixels.masks)  # one view is the first epoch's
    assert batch.images.shape == (4, 3, *SIZE)
    for a, b in zip(batch.images.maps, seen(pixels).maps, strict=True):
        assert torch.equal(a, b)
    assert batch.images.maps[0].is_contiguous(memory_format=torch.channels_last)
    assert len(batch[1:]) == len(batch[1:].images) == 3
    assert torch.equal(batch[1:].to("cpu").images.maps[1], batch.images.maps[1][1:])


def test_worker_processes_hand_them_over(tmp_path):
    found = kept(tmp_path / "kept", Source(), augmentations=2)
    alone, shared = (list(train_loader(found, 2, seed=0, workers=workers)) for workers in (0, 1))
    assert len(alone) == 2
    for a, b in zip(alone, shared, strict=True):
        assert torch.equal(a.images.maps[0], b.images.maps[0])


def test_spawned_workers_open_the_files_again(tmp_path):
    source = Source()
    sent = bytes(ForkingPickler.dumps(kept(tmp_path / "kept", source, augmentations=0)))
    assert len(sent) < 1000  # the folder's name, not the features
    assert_same(pickle.loads(sent)[4], source[4])


def test_they_are_computed_once(tmp_path):
    kept(tmp_path / "kept", Source(), augmentations=2)

    def never():
        raise AssertionError
        yield

    assert len(cache_features(tmp_path / "kept", never(), 10, 2)) == 5


def test_a_full_disk_is_told_before_the_work_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(features.shutil, "disk_usage", lambda place: Usage(100))
    with pytest.raises(BadInput, match=rf"has room for 0.0 GB. Set {CACHE_VARIABLE} to a folder with room"):
        kept(tmp_path / "kept", Source(), augmentations=2)
    assert [p.suffix for p in tmp_path.iterdir()] == [".lock"]


class Usage:
    def __init__(self, free):
        self.free = free


def test_a_disk_that_fills_up_meanwhile(tmp_path, monkeypatch):
    def full(place, batches, rows, augmentations):
        (place / "map0.bin").write_bytes(b"1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features, "_write", full)
    with pytest.raises(BadInput, match="No space left on device"):
        kept(tmp_path / "kept", Source(), augmentations=2)
    assert [p.suffix for p in tmp_path.iterdir()] == [".lock"]


def test_unreadable_images_end_the_work_with_their_message(tmp_path):
    class Broken(Source):
        def __getitem__(self, draw):
            raise BadInput("image 3.png is cut off")

    with pytest.raises(BadInput, match="is cut off"):
        kept(tmp_path / "kept", Broken(), augmentations=1)
    assert [p.suffix for p in tmp_path.iterdir()] == [".lock"]


def test_what_is_in_a_folder_is_told(tmp_path):
    kept(tmp_path / "kept", Source(), augmentations=2)
    told = json.loads((tmp_path / "kept" / "complete.json").read_text())
    assert told == {
        "rows": 10,
        "augmentations": 2,
        "size": list(SIZE),
        "maps": [["float32", [4, 6, 6]], ["float32", [2, 3, 3]], ["bfloat16", [3]]],
    }
    assert (tmp_path / "kept" / "map0.bin").stat().st_size == 10 * 4 * 6 * 6 * 4
    assert len(CachedDataset(tmp_path / "kept")) == 5
