"""Order and augmentation depend only on (seed, epoch, index); evaluation reads every image once."""

import importlib.machinery
import json
import multiprocessing
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import data
from backbones.errors import BadInput, UserError
from data.batch import Batch, Draw, Sample
from data.box_dataset import BoxDataset
from data.letterbox import Letterbox
from data.loader import Loader, default_workers, eval_loader, train_loader
from data.sampling import EvalBatches, TrainBatches, draw_seed
from detection.transforms import detection_train

IMAGES, SIDE = 7, 48


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set")
    (path / "annotations").mkdir()
    (path / "train").mkdir()
    draw = np.random.default_rng(0)
    images, boxes = [], []
    for ident in range(1, IMAGES + 1):
        Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path / "train" / f"{ident}.png")
        images.append({"id": ident, "file_name": f"{ident}.png", "width": SIDE, "height": SIDE})
        boxes += [
            {"id": 10 * ident + k, "image_id": ident, "category_id": 1, "bbox": [4 * k, 5, 20, 20]}
            for k in range(ident % 3)
        ]
    document = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (path / "annotations" / "instances_train.json").write_text(json.dumps(document))
    return path


@pytest.fixture
def dataset(root: Path) -> BoxDataset:
    return BoxDataset.open(root, "train", detection_train((32, 32), (0.5, 2.0), (124, 116, 104)))


class Numbers:
    """A data set of black images whose id is their index."""

    def __init__(self, length: int, broken: int | None = None) -> None:
        self.length, self.broken = length, broken

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, draw: int | Draw) -> Sample:
        index = draw.index if isinstance(draw, Draw) else draw
        if index == self.broken:
            raise BadInput(f"image number {index} is broken")
        blank = np.zeros((2, 2, 3), np.uint8)
        return Sample(blank, index, (2, 2), (1.0, 1.0), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


def epoch(loader: Loader, number: int) -> list[Batch]:
    loader.batch_sampler.set_epoch(number)  # type: ignore[union-attr]
    return list(loader)


def equal(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b)
        for one, other in zip(left, right, strict=True)
        for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
        if a is not None
    )


@pytest.mark.case("seed")
def test_workers_do_not_change_the_batches(dataset: BoxDataset) -> None:
    reference = train_loader(dataset, 3, seed=4, workers=0, drop_last=False)
    epochs = [epoch(reference, 0), epoch(reference, 1)]
    assert sorted(i for batch in epochs[0] for i in batch.image_ids.tolist()) == list(range(1, IMAGES + 1))
    assert not equal(*epochs)
    assert equal(epochs[0], epoch(reference, 0))
    for workers in (1, 2):
        loader = train_loader(dataset, 3, seed=4, workers=workers, drop_last=False)
        torch.manual_seed(workers)
        np.random.seed(workers)  # noqa: NPY002 - the global generator must have no effect
        assert equal(epochs[1], epoch(loader, 1))
        assert equal(epochs[0], epoch(loader, 0))
    assert not equal(epochs[0], epoch(train_loader(dataset, 3, seed=5, workers=0, drop_last=False), 0))


def test_augmentation_does_not_depend_on_the_batch(dataset: BoxDataset) -> None:
    def images(batch_size: int) -> dict[int, torch.Tensor]:
        batches = epoch(train_loader(dataset, batch_size, seed=4, workers=0, drop_last=False), 2)
        return {i: image for b in batches for i, image in zip(b.image_ids.tolist(), b.images, strict=True)}

    small, large = images(2), images(7)
    assert small.keys() == large.keys()
    assert all(torch.equal(small[i], large[i]) for i in small)


def test_loading_does_not_change_the_global_generators(dataset: BoxDataset) -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    list(train_loader(dataset, 3, seed=4, workers=1))
    list(eval_loader(dataset, 3, workers=0))
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002


def test_draw_seeds_are_stable_and_distinct() -> None:
    assert draw_seed(0, 0, 0) == 0x282047AD06AEB62B
    assert len({draw_seed(s, e, i) for s in range(10) for e in range(10) for i in range(10)}) == 1000


def indices(batches: Iterator[list[Draw]]) -> list[int]:
    return [draw.index for batch in batches for draw in batch]


@pytest.mark.parametrize(
    ("length", "drop_last", "sizes"),
    [(10, True, [4, 4]), (10, False, [4, 4, 2]), (8, True, [4, 4]), (3, True, [3]), (3, False, [3])],
)
def test_batch_sizes(length: int, drop_last: bool, sizes: list[int]) -> None:
    sampler = TrainBatches(length, 4, seed=0, drop_last=drop_last)
    assert [len(batch) for batch in sampler] == sizes
    assert len(sampler) == len(sizes)


def test_every_epoch_has_another_order() -> None:
    sampler = TrainBatches(100, 10, seed=0)
    orders = []
    for number in (0, 1, 0):
        sampler.set_epoch(number)
        orders.append(indices(iter(sampler)))
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(100))
    assert orders[0] == orders[2] != orders[1]
    assert orders[0] != indices(iter(TrainBatches(100, 10, seed=1)))


def test_draws_carry_their_seed_and_epoch() -> None:
    sampler = TrainBatches(5, 2, seed=7, drop_last=False)
    for number in (0, 3):
        sampler.set_epoch(number)
        drawn = sorted(draw for batch in sampler for draw in batch)
        assert drawn == [Draw(index, draw_seed(7, number, index), number) for index in range(5)]


def test_a_loader_counts_on_from_where_it_was_resumed() -> None:
    loader = train_loader(Numbers(12), 2, seed=0, workers=0)
    loader.load_state_dict({"seed": 0, "epoch": 0, "start_batch": 2})
    for _, _batch in zip(range(3), loader, strict=False):
        pass
    assert loader.state_dict() == {"seed": 0, "epoch": 0, "start_batch": 5}


def test_resuming_within_an_epoch() -> None:
    sampler = TrainBatches(20, 3, seed=7)
    sampler.set_epoch(5)
    complete = list(sampler)
    state = sampler.state_dict(batches_done=2)

    resumed = TrainBatches(20, 3, seed=7)
    resumed.load_state_dict(state)
    resumed.set_epoch(5)  # as a trainer does before every epoch
    assert list(resumed) == complete[2:]
    assert len(resumed) == len(complete)
    assert list(resumed) == complete  # only the first iteration starts later
    resumed.load_state_dict(state)
    resumed.set_epoch(6)
    assert len(list(resumed)) == len(complete)
    with pytest.raises(BadInput, match="seed 7"):
        TrainBatches(20, 3, seed=8).load_state_dict(state)


@pytest.mark.parametrize("length", [1, 7, 8, 11])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_covers_each_image_once_over_all_processes(length: int, world: int) -> None:
    shards = [EvalBatches(length, 2, rank, world) for rank in range(world)]
    all_indices = [index for shard in shards for batch in shard for index in batch]
    assert sorted(all_indices) == list(range(length))
    assert [len(list(shard)) for shard in shards] == [len(shard) for shard in shards]


def test_processes_need_an_image_and_an_equal_part_of_each_batch() -> None:
    with pytest.raises(BadInput, match="2 training images are too few for 3 processes"):
        TrainBatches(2, 3, seed=0, world=3)
    with pytest.raises(UserError, match=r"`batch_size=4` .* use a multiple of 3"):
        TrainBatches(8, 4, seed=0, world=3)


def test_loaders_have_the_part_of_their_process() -> None:
    loaders = [eval_loader(Numbers(5), 2, 0, rank, 2) for rank in (0, 1)]
    assert [i for loader in loaders for batch in loader for i in batch.image_ids.tolist()] == [0, 1, 2, 3, 4]
    assert [len(list(train_loader(Numbers(6), 4, 0, 0, rank=rank, world=2))) for rank in (0, 1)] == [1, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_is_in_order_and_repeatable(root: Path, workers: int) -> None:
    dataset = BoxDataset.open(root, "train", Letterbox((32, 40), (124, 116, 104)))
    loader = eval_loader(dataset, 3, workers=workers)
    first = list(loader)
    assert [i for batch in first for i in batch.image_ids.tolist()] == list(range(1, IMAGES + 1))
    assert [len(batch) for batch in first] == [3, 3, 1]
    assert first[0].images.shape == (3, 3, 32, 40)
    assert first[0].images.is_contiguous(memory_format=torch.channels_last)
    assert equal(first, list(loader))


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_data_raises_the_same_error_in_any_process(workers: int) -> None:
    with pytest.raises(BadInput) as caught:
        list(eval_loader(Numbers(6, broken=4), 2, workers=workers))
    assert str(caught.value) == "image number 4 is broken"


@pytest.mark.case("R11")
def test_skip_bad_counts_the_images_of_all_workers(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "set"
    subprocess.run(["cp", "-r", root, copy], check=True)
    for ident in (1, 6):
        os.truncate(copy / "train" / f"{ident}.png", 30)
    transform = Letterbox((32, 32), (0, 0, 0))
    allowed = BoxDataset.open(copy, "train", transform, skip_bad=2)
    batches = list(eval_loader(allowed, 1, workers=2))
    assert [batch.readable.item() for batch in batches] == [False, True, True, True, True, False, True]
    assert allowed.skipped == [1, 6]
    with pytest.raises(BadInput, match="skip_bad=1"):
        list(eval_loader(BoxDataset.open(copy, "train", transform, skip_bad=1), 1, workers=2))


def test_default_workers_leave_cores_to_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {False: [(1, 0), (2, 0), (4, 1), (16, 4), (64, 8)], True: [(1, 0), (2, 1), (4, 3), (64, 8)]}
    for accelerator, cases in expected.items():
        monkeypatch.setattr(torch.accelerator, "is_available", lambda accelerator=accelerator: accelerator)
        for cores, workers in cases:
            monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
            assert default_workers() == workers


@pytest.mark.parametrize(
    ("platform", "method", "script", "forked", "workers"),
    [
        ("linux", None, True, True, 4),
        ("linux", "fork", True, True, 4),
        ("linux", "spawn", False, False, 4),
        ("linux", "spawn", True, False, 0),  # each worker would run the script again
        ("darwin", None, False, False, 4),
        ("win32", "spawn", True, False, 0),
    ],
)
def test_workers_start_as_the_program_has_chosen(
    monkeypatch: pytest.MonkeyPatch, platform: str, method: str | None, script: bool, forked: bool, workers: int
) -> None:
    main = types.ModuleType("__main__")
    main.__spec__ = None if script else importlib.machinery.ModuleSpec("detection.train", None)
    main.__file__ = "train.py"
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none=False: method)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert default_workers() == workers
    loader = eval_loader(Numbers(4), 2, workers=1)
    assert (getattr(loader.multiprocessing_context, "_name", None) == "fork") == forked


def test_importing_the_package_imports_no_large_library() -> None:
    code = "import sys, data; sys.exit(bool({'torch', 'albumentations', 'cv2', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    assert all(callable(getattr(data, name)) for name in data.__all__)
    assert set(data.__all__) <= set(dir(data))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        data.nothing  # noqa: B018
