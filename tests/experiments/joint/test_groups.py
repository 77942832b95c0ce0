"""Photographs with several kinds of labels, their batches, and what a batch without labels does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from backbones.errors import BadInput
from data.batch import IGNORE, Draw, collate
from data.box_dataset import BoxDataset
from data.class_dataset import ClassDataset
from data.loader import train_loader
from data.mask_dataset import MaskDataset
from data.options import MaskOptions
from experiments.joint.batches import JointLoader
from experiments.joint.groups import GroupBatch, GroupSource, group_heads, without_labels
from tests.classification.conftest import write_folders
from tests.detection.conftest import write_coco
from tests.segmentation.conftest import write_masks

KINDS = {"cells": "detection", "map": "segmentation", "cars": "detection"}


def same(sample, seed):
    return sample


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Boxes for eight photographs, masks for the first five of them, boxes for the first three."""
    root = tmp_path_factory.mktemp("groups")
    boxes = BoxDataset.open(write_coco(root / "boxes"), "train")
    masks = MaskDataset.open(write_masks(root / "masks"), "train", options=MaskOptions(ignore_index=9))
    few = BoxDataset(boxes.columns.subset((0.0, 0.4), 0))
    return {"cells": boxes, "map": MaskDataset(masks.columns.subset((0.0, 0.6), 0)), "cars": few}


def test_a_sample_has_the_labels_of_each_head(sets):
    source = GroupSource(sets, KINDS, same)
    assert len(source) == 8
    assert source.partial == {"map", "cars"}
    batch = GroupBatch.of(0, collate([source[Draw(i, 0)] for i in range(8)]), list(sets))
    for name in ("cells", "cars"):
        found = batch.labelled(name, "detection")
        rows = batch.rows[name]
        for row in range(8) if rows is None else rows.tolist():
            own = sets[name]
            expected = own.read(next(i for i in range(len(own)) if own.name(i) == source.names[row]))
            kept = found.labels[row] >= 0
            assert found.labels[row][kept].tolist() == expected.labels.tolist()
            np.testing.assert_array_equal(found.boxes[row][kept].numpy(), expected.boxes)
    assert batch.rows["cells"] is None
    assert [len(batch.rows[name]) for name in ("map", "cars")] == [len(sets["map"]), len(sets["cars"])]
    unlabelled = [i for i in range(8) if i not in batch.rows["map"].tolist()]
    assert bool((batch.batch.masks[unlabelled] == IGNORE).all())


def test_heads_with_the_same_photographs_form_a_group(sets, tmp_path):
    again = {"cells": sets["cells"], "cars": BoxDataset(sets["cells"].columns), "map": sets["map"]}
    kinds = {"cells": "detection", "cars": "detection", "map": "segmentation"}
    assert group_heads(again, kinds, None) == [["cells", "cars"], ["map"]]
    assert group_heads(again, kinds, ["none"]) == [["cells"], ["cars"], ["map"]]
    assert group_heads(again, kinds, ["cells", "map"]) == [["cells", "map"], ["cars"]]
    classes = ClassDataset.open(write_folders(tmp_path / "classes"), "train")
    two = {"cells": sets["cells"], "kind": classes}
    found = GroupSource(two, {"cells": "detection", "kind": "classification"}, same)
    batch = GroupBatch.of(0, collate([found[Draw(10, 0)]]), list(two))
    assert (batch.rows["kind"], batch.rows["cells"].tolist()) == (None, [])
    assert batch.labelled("kind", "classification").labels.tolist() == [[int(classes.labels[2])]]


def test_a_batch_without_labels_has_one_image_without_a_target(sets):
    batch = collate([sets["cells"][0], sets["cells"][1]])
    assert without_labels(batch, "detection").labels.max() == -1
    assert without_labels(batch, "classification").labels.shape == (1, 1)


class Numbers:
    """Samples that are their own index."""

    def __init__(self, images, length):
        self.sample, self.length = images, length

    def __len__(self):
        return self.length

    def __getitem__(self, draw):
        return replace(self.sample, image_id=draw.index)


def steps(loader):
    return [[part.batch.image_ids.tolist() for part in batch.parts] for batch in loader]


def test_a_resumed_loader_continues_at_the_same_step(sets):
    def new():
        sources = [Numbers(sets["cells"][0], length) for length in (6, 10)]
        return JointLoader([train_loader(s, 2, 7, 0) for s in sources], [["cells"], ["cars"]], 7)

    whole, loader = [], new()
    for epoch in range(3):
        loader.set_epoch(epoch)
        whole.append(steps(loader))
    assert [len(epoch) for epoch in whole] == [5, 5, 5]
    assert sorted(i for step in whole[0] for i in step[1]) == list(range(10))
    first = [step[0] for epoch in whole for step in epoch]
    for part in (first[:3], first[3:6]):
        assert sorted(i for batch in part for i in batch) == list(range(6))
    resumed, stopped = new(), new()
    stopped.set_epoch(1)
    iterator = iter(stopped)
    next(iterator), next(iterator)
    resumed.load_state_dict(stopped.state_dict())
    resumed.set_epoch(1)
    assert steps(resumed) == whole[1][2:]
    resumed.set_epoch(2)
    assert steps(resumed) == whole[2]
    with pytest.raises(BadInput, match="seed"):
        resumed.load_state_dict({"seed": 1, "epoch": 0, "start_batch": 0})


def test_rows_move_with_the_batch(sets):
    batch = GroupBatch(0, collate([sets["cells"][0]]), {"a": None, "b": torch.tensor([0])})
    assert batch.to("cpu").rows["b"].tolist() == [0]
