"""Scores against hand-computed numbers and numpy, and ImageNet's classes."""

import numpy as np
import pytest
import torch

from backbones.errors import BadInput
from classification import classes as imagenet
from classification.config import METRICS
from classification.draw import draw_confusion, draw_scores
from classification.evaluator import AccuracyEvaluator
from data.batch import Batch


def batch_of(labels, ids=None, readable=None):
    count = len(labels)
    return Batch(
        images=torch.zeros(count, 3, 1, 1, dtype=torch.uint8),
        image_ids=torch.arange(count) if ids is None else torch.tensor(ids),
        sizes=torch.ones(count, 2, dtype=torch.int64),
        scales=torch.ones(count, 2),
        boxes=torch.zeros(count, 1, 4),
        labels=torch.tensor(labels).view(-1, 1),
        readable=torch.ones(count, dtype=torch.bool) if readable is None else torch.tensor(readable),
    )


def test_by_hand():
    """Two classes of the data are outputs 6 and 0 of seven."""
    evaluator = AccuracyEvaluator(["cat", "dog"], [6, 0], 7)
    logits = torch.tensor(
        [
            [0.0, 1, 2, 3, 4, 5, 6],  # cat, right
            [0.0, 6, 2, 3, 4, 1, 5],  # cat, second
            [0.0, 6, 2, 3, 4, 1, 5],  # dog, last of seven: not among five
            [9.0, 6, 2, 3, 4, 1, 5],  # dog, right
        ]
    )
    evaluator.update(logits.log_softmax(1), batch_of([0, 0, 1, 1], ids=[4, 5, 6, 7]))
    scores = evaluator.compute()
    # Of four images, one is classified as cat (right), one as dog (right), and two as a class without images.
    assert scores == {"top1": 0.5, "top5": 0.75, "balanced": 0.5, "balanced_accuracy": 0.5, "precision": 1.0,
                      "recall": 0.5, "F1": pytest.approx(2 / 3)}  # fmt: skip
    assert tuple(scores) == METRICS
    row = {"precision": 1.0, "recall": 0.5, "F1": pytest.approx(2 / 3), "images": 2}
    assert evaluator.class_table() == {"cat": row, "dog": row}
    assert evaluator.per_class == {"cat": 0.5, "dog": 0.5}
    assert evaluator.confusion[0].tolist() == [0, 1, 0, 0, 0, 0, 1]
    assert evaluator.rows.tolist() == [[4, 0, 6], [5, 0, 1], [6, 1, 1], [7, 1, 0]]
    np.testing.assert_allclose(evaluator.probabilities, logits.softmax(1).max(1).values, rtol=1e-6)
    evaluator.reset()
    evaluator.update(logits[:1].log_softmax(1), batch_of([0]))
    assert evaluator.compute() == dict.fromkeys(METRICS, 1.0)
    evaluator.reset()
    assert evaluator.compute()["top1"] != evaluator.compute()["top1"]  # NaN


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("classes", [2, 4, 30])
def test_equals_numpy(batch_size, classes):
    random = np.random.default_rng(classes)
    logits = random.normal(size=(64, classes)).astype(np.float32)
    labels = random.integers(0, classes, 64)
    evaluator = AccuracyEvaluator([str(i) for i in range(classes)], range(classes), classes)
    for start in range(0, 64, batch_size):
        rows = slice(start, start + batch_size)
        evaluator.update(torch.from_numpy(logits[rows]).log_softmax(1), batch_of(labels[rows].tolist()))
    order = np.argsort(-logits, axis=1)
    scores = evaluator.compute()
    assert scores["top1"] == np.mean(order[:, 0] == labels)
    assert scores["top5"] == np.mean((order[:, :5] == labels[:, None]).any(1))
    expected = [np.mean(order[labels == c, 0] == c) for c in range(classes) if (labels == c).any()]
    assert scores["balanced"] == pytest.approx(np.mean(expected))


def test_unreadable_images_and_absent_classes():
    evaluator = AccuracyEvaluator(["a", "b"], [0, 1], 2)
    logits = torch.tensor([[1.0, 0], [1.0, 0]])
    evaluator.update(logits.log_softmax(1), batch_of([0, 1], readable=[True, False]))
    assert evaluator.compute() == dict.fromkeys(METRICS, 1.0)
    assert evaluator.per_class["b"] != evaluator.per_class["b"]
    evaluator.reset()
    evaluator.update(logits.log_softmax(1), batch_of([0, 1], ids=[8, 9], readable=[False, True]))
    assert evaluator.compute() == dict.fromkeys(METRICS, 0.0) | {"top5": 1.0}
    assert evaluator.rows.tolist() == [[9, 1, 0]]


def test_tiny_probabilities_keep_their_order():
    evaluator = AccuracyEvaluator([str(i) for i in range(7)], range(7), 7)
    logits = torch.tensor([[500.0, 0, 1, 2, 3, 4, 5]])
    evaluator.update(logits.log_softmax(1), batch_of([3]))
    assert evaluator.compute()["top5"] == 1


# --- ImageNet


def test_outputs_are_synsets_in_order():
    assert imagenet.synsets(1000)[0] == "n01440764"
    assert imagenet.names(1000)[0] == "tench"
    assert len(set(imagenet.names(1000))) == 1000
    assert len(imagenet.synsets(21841)) == 21841
    with pytest.raises(BadInput, match="17"):
        imagenet.synsets(17)


def test_classes_match_by_synset_or_word():
    assert imagenet.match(["n01440764", "Carassius_auratus", "GREAT WHITE SHARK"], 1000) == [0, 1, 2]
    assert imagenet.match(list(imagenet.synsets(1000)), 1000) == list(range(1000))
    assert imagenet.match(["n01440764"], 21841) == [imagenet.synsets(21841).index("n01440764")]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["tench", "ants", "bees"], "2 of the data set's 3 classes, such as ants, bees,"),
        (["crane"], "name its folder by one of n02012849, n03126707"),
        (["tench", "n01440764"], "are the same class of the network: tench"),
    ],
)
def test_classes_that_do_not_match(classes, message):
    with pytest.raises(BadInput, match=message):
        imagenet.match(classes, 1000)


def test_synset_folders_get_readable_names():
    assert imagenet.readable(["n01440764", "ants"]) == ["tench", "ants"]
    assert imagenet.readable(["ants"]) == ["ants"]


# --- pictures


def test_scores_are_drawn_next_to_the_image():
    image = np.full((60, 90, 3), 40, np.uint8)
    long = "a name that is much too long for the panel it is written on"
    drawn = draw_scores(image, ["ant", long], [0.75, 0.25], truth="ant")
    assert drawn.shape[1] > 448
    assert (drawn[:290, :440] == 40).all()
    bar = (drawn[:, 448:] == (34, 139, 84)).all(-1).sum(1).max()
    other = (drawn[:, 448:] == (36, 104, 176)).all(-1).sum(1).max()
    assert bar == pytest.approx(3 * other, abs=6)


@pytest.mark.parametrize("classes", [2, 60])
def test_confusion_picture(classes, tmp_path):
    counts = np.random.default_rng(0).integers(0, 9, (classes, classes + 1))
    draw_confusion(counts, [f"$x_{i}" for i in range(classes)], tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 5000
