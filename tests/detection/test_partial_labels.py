"""Federated data as LVIS: some classes of an image have all their boxes, some have a part of them, others have none."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones.errors import BadInput
from data.batch import collate
from data.box_dataset import BoxDataset
from data.class_names import merge_same_names
from data.convert.runner import convert
from data.formats import coco_json
from data.options import BoxOptions
from detection.anchors import Anchors
from detection.evaluator import CocoEvaluator
from detection.loss import DetectionLoss
from detection.truth import coco_document
from experiments.joint.groups import GroupBatch, GroupSource
from tests.data.coco_files import write_coco

NAMES = ("red", "blue", "green", "grey")


def federated(root, **fields):
    """Two images with a red and a blue box: `fields` are those of the first; the second has none, as in COCO."""

    def change(document, split):
        document["annotations"] = [a for a in document["annotations"] if a["category_id"] <= 2]
        document["images"][0] |= {"neg_category_ids": [4], "not_exhaustive_category_ids": [2]} | fields

    return write_coco(root, NAMES, change=change)


def test_complete_classes_are_those_with_boxes_and_those_that_are_absent(tmp_path):
    data = BoxDataset.open(federated(tmp_path / "set"), "train")
    assert data.columns.complete.tolist() == [[True, False, False, True], [True] * 4]
    assert collate([data[0], data[1]]).complete.tolist() == data.columns.complete.tolist()
    assert data.columns.select(np.array([1])).complete.tolist() == [[True] * 4]
    plain = BoxDataset.open(write_coco(tmp_path / "plain", NAMES), "train")
    assert plain.columns.complete is None
    assert collate([plain[0]]).complete is None
    other = BoxDataset.open(federated(tmp_path / "other", neg_category_ids=[3]), "train")
    assert other.digests["labels"] != data.digests["labels"]


def test_other_classes_keep_what_is_known(tmp_path):
    columns = BoxDataset.open(federated(tmp_path / "set"), "train").columns
    merged = merge_same_names(columns.renamed(("red", "red", "green", "grey"), (1, 2, 3, 4), range(4)), True)
    assert merged.complete.tolist() == [[False, False, True], [True] * 3]  # not all that is red has a box
    data = BoxDataset.open(tmp_path / "set", "train").with_classes(
        ("grey", "blue", "red", "new"), (1, 2, 3, 4), "a model"
    )
    assert data.columns.complete.tolist() == [[True, False, True, False], [True] * 4]
    assert collate([data[0]]).complete.tolist() == [[True, False, True, False]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"neg_category_ids": 4}, r"images\[0\] has a field neg_category_ids that is not a list"),
        ({"neg_category_ids": [2**63]}, r"images\[0\] has a field neg_category_ids that is not a list"),
        ({"not_exhaustive_category_ids": ["blue"]}, r"images\[0\] has a field not_exhaustive_category_ids that is not"),
    ],
)
def test_malformed_fields_are_named(fields, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        BoxDataset.open(federated(tmp_path / "set", **fields), "train")


def test_ids_of_other_categories_null_and_numbers_with_a_point(tmp_path, caplog):
    """Files whose categories were reduced keep the ids of the others; JSON does not distinguish 4 from 4.0."""
    root = federated(tmp_path / "set", neg_category_ids=[99, 4.0], not_exhaustive_category_ids=None)
    assert BoxDataset.open(root, "train").columns.complete.tolist() == [[True, True, False, True], [True] * 4]
    assert (
        "1 ids in neg_category_ids are not among the categories of the file and are left out, such as 99" in caplog.text
    )


def test_an_object_whose_box_has_no_area_is_an_object_without_a_box(tmp_path):
    root = federated(tmp_path / "set")
    file = root / "annotations/instances_train.json"
    document = json.loads(file.read_text())
    for annotation in document["annotations"]:
        annotation["bbox"][2] *= annotation["category_id"] != 1
    file.write_text(json.dumps(document))
    assert BoxDataset.open(root, "train").columns.complete.tolist() == [[False, False, False, True], [True] * 4]


def test_images_with_addresses_in_place_of_names(tmp_path):
    """As in LVIS: the folder and the name are the end of COCO's address."""

    def change(document, split):
        for image in document["images"]:
            image["coco_url"] = f"http://images.example/{split}/{image.pop('file_name')}"

    root = write_coco(tmp_path / "set", change=change)
    for split in ("train", "val"):
        (root / f"annotations/instances_{split}.json").rename(root / f"annotations/lvis_v1_{split}.json")
    data = BoxDataset.open(root, "val")
    assert [data.name(i) for i in range(2)] == ["val/7.png", "val/9.png"]
    assert data[0].image.shape == (64, 96, 3)


@pytest.mark.parametrize("to", ["coco", "shards"])
def test_conversion_keeps_the_fields(to, tmp_path):
    root = federated(tmp_path / "set")
    assert not convert(str(root), to, tmp_path / "out").lost
    ours, theirs = (BoxDataset.open(place, "train").columns.complete for place in (root, tmp_path / "out"))
    assert ours.tolist() == theirs.tolist()
    if to == "coco":
        first, second = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())["images"]
        assert (first["neg_category_ids"], first["not_exhaustive_category_ids"]) == ([4], [2])
        assert not any("category" in field for field in second)


def test_conversion_to_layouts_without_the_fields_counts_them(tmp_path):
    lost = convert(str(federated(tmp_path / "set")), "yolo", tmp_path / "out").lost
    assert lost["pairs of image and class whose objects may lack boxes"] == 4  # two in each split


@pytest.mark.parametrize("assignment", ["iou", "atss"])
def test_anchors_have_no_loss_for_classes_that_may_be_there(assignment):
    anchors = Anchors([8, 16, 32, 64, 128])
    size, count = (128, 128), len(anchors((128, 128)))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, count, 3, generator=generator, requires_grad=True)
    boxes, labels = torch.tensor([[[20.0, 20, 80, 90]], [[0.0, 0, 0, 0]]]), torch.tensor([[1], [-1]])
    complete = torch.tensor([[True, False, False], [True, True, False]])
    loss = DetectionLoss(assignment)
    arguments = (torch.zeros(2, count, 4), anchors, size, boxes, labels)
    (slope,) = torch.autograd.grad(loss(logits, *arguments, complete)["class"], logits)
    (whole,) = torch.autograd.grad(loss(logits, *arguments)["class"], logits)
    learns = loss._assign(anchors, size, *arguments[3:])[0] >= 0
    assert learns.any()
    expected = whole * complete[:, None]
    expected[0, learns, 1] = whole[0, learns, 1]  # the object itself is known
    torch.testing.assert_close(slope, expected)


def scene(rng):
    """Images, their boxes with some left out, what is known, and detections: (N, 7) as in `CocoEvaluator`."""
    boxes, kept, found = [], [], []
    for image in range(30):
        for _ in range(rng.integers(1, 7)):
            box, label = [*rng.uniform(0, 120, 2), *rng.uniform(15, 60, 2)], int(rng.integers(3))
            boxes.append((image, label, box))
            kept.append(rng.random() < 0.7)
            if rng.random() < 0.9:
                found.append([image + 1, *(np.array(box) + rng.normal(0, 2, 4)), rng.random(), label])
        found += [[image + 1, *rng.uniform(0, 120, 2), 30, 30, rng.random(), rng.integers(3)] for _ in range(2)]
    return boxes, np.array(kept), np.array(found)


def test_scores_are_those_of_the_labelled_images_of_each_class(tmp_path):
    """pycocotools, class by class, on the images where the class is known; left-out objects are crowds there."""
    rng = np.random.default_rng(0)
    boxes, kept, found = scene(rng)
    absent = rng.random((30, 3)) < 0.5
    partial, labelled = np.zeros((30, 3), bool), np.zeros((30, 3), bool)
    for (image, label, _), keep in zip(boxes, kept, strict=True):
        labelled[image, label] |= keep
        partial[image, label] |= not keep
    partial &= labelled
    known = labelled | (absent & ~labelled)
    document = {
        "images": [
            {"id": i + 1, "file_name": f"{i}.jpg", "height": 200, "width": 200,
             "neg_category_ids": (np.flatnonzero(absent[i] & ~labelled[i]) + 1).tolist(),
             "not_exhaustive_category_ids": (np.flatnonzero(partial[i]) + 1).tolist()}
            for i in range(30)
        ],
        "annotations": [
            {"id": n, "image_id": image + 1, "category_id": label + 1, "bbox": box, "area": box[2] * box[3],
             "iscrowd": 0}
            for n, (image, label, box) in enumerate((b for b, keep in zip(boxes, kept, strict=True) if keep), 1)
        ],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(NAMES[:3])],
    }  # fmt: skip
    file = tmp_path / "instances_val.json"
    file.write_text(json.dumps(document))
    evaluator = CocoEvaluator(coco_json.parse(file))
    evaluator.add(found)
    scores = evaluator.compute()

    expected = []
    for label in range(3):
        images = np.flatnonzero(known[:, label]) + 1
        whole = [
            {"id": 1000 + i, "image_id": int(i) + 1, "category_id": label + 1, "bbox": [0, 0, 200, 200], "area": 40000,
             "iscrowd": 1}
            for i in np.flatnonzero(partial[:, label])
        ]  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = document | {"annotations": document["annotations"] + whole}
            truth.createIndex()
            own = found[(found[:, 6] == label) & np.isin(found[:, 0], images)]
            rows = np.column_stack([own[:, :6], own[:, 6] + 1])
            evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
            evaluation.params.catIds, evaluation.params.imgIds = [label + 1], images.tolist()
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        expected.append(evaluation.stats)
    assert scores["AP"] == pytest.approx(np.mean([stats[0] for stats in expected]), abs=1e-9)
    assert scores["AP50"] == pytest.approx(np.mean([stats[1] for stats in expected]), abs=1e-9)
    assert len(evaluator.detections) < len(found)
    plain = CocoEvaluator(coco_json.parse(write_plain(tmp_path, document)))
    plain.add(found)
    assert plain.compute()["AP"] < scores["AP"]


def write_plain(folder, document):
    for image in document["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    (folder / "plain.json").write_text(json.dumps(document))
    return folder / "plain.json"


def test_the_truth_of_a_run_gives_the_same_scores(tmp_path):
    """`truth.json` and `detections.json` of a run need no fields of LVIS: crowd regions stand for them."""
    columns = BoxDataset.open(federated(tmp_path / "set"), "val").columns
    evaluator = CocoEvaluator(columns)
    blue_elsewhere, green, grey, red_in_the_second = (
        [7, 70, 40, 20, 10, 0.9, 1], [7, 0, 0, 9, 9, 0.9, 2], [7, 0, 0, 9, 9, 0.9, 3], [9, 70, 40, 20, 10, 0.9, 0]
    )  # fmt: skip
    evaluator.add(np.array([blue_elsewhere, green, grey, red_in_the_second], float))
    assert evaluator.detections[:, 6].tolist() == [1, 3, 0]  # nothing is known about green
    document = coco_document(evaluator.truth, evaluator.truth.image_ids, [1, 2, 3, 4])
    whole = [a for a in document["annotations"] if a["iscrowd"]]
    assert [(a["image_id"], a["category_id"], a["bbox"]) for a in whole] == [(7, 2, [-1e6, -1e6, 2e6, 2e6])]


def test_heads_of_a_joint_network_keep_their_own(tmp_path):
    few = BoxDataset.open(federated(tmp_path / "few"), "train", options=BoxOptions())
    plain = BoxDataset.open(write_coco(tmp_path / "plain", (*NAMES, "white")), "train")
    source = GroupSource({"few": few, "plain": plain}, dict.fromkeys(("few", "plain"), "detection"), lambda s, seed: s)
    batch = GroupBatch.of(0, collate([source[i] for i in range(2)]), ["few", "plain"])
    assert batch.labelled("few", "detection").complete[:, :4].tolist() == few.columns.complete.tolist()
    assert batch.labelled("plain", "detection").complete.all()
