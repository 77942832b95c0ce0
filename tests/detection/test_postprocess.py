"""Non-maximum suppression, compared with effdet, torchvision, and numbers computed by hand."""

import math

import pytest
import torch
from effdet.soft_nms import batched_soft_nms
from torchvision.ops import batched_nms

from detection.postprocess import (
    MILD_SIGMA,
    Detections,
    box_voting,
    candidates,
    hard_nms,
    soft_nms,
    suppress,
    to_original,
)


def crowded(seed, count=300, classes=3):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 100
    boxes = torch.cat([corners, corners + 5 + torch.rand(count, 2, generator=generator) * 40], dim=-1)
    return boxes, torch.rand(count, generator=generator), torch.randint(0, classes, (count,), generator=generator)


def batch_of(*images):
    return Detections(*(torch.stack(parts) for parts in zip(*images, strict=True)))


def test_soft_nms_by_hand():
    """The second box has an IoU of 1/3 with the first; its score is multiplied by exp(-(1/3)^2 / 0.5).

    The third box has another class; its score does not change.
    """
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 10]])
    detections = soft_nms(batch_of((boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1]))))
    assert detections.labels.tolist() == [[0, 1, 0]]
    expected = torch.tensor([[0.9, 0.7, 0.8 * math.exp(-((1 / 3) ** 2) / 0.5)]])
    torch.testing.assert_close(detections.scores, expected)


@pytest.mark.parametrize("seed", range(3))
def test_soft_nms_equals_effdet(seed):
    images = [crowded(seed), crowded(seed + 100)]
    ours = soft_nms(batch_of(*images))
    for image, (boxes, scores, labels) in enumerate(images):
        index, expected_scores = batched_soft_nms(boxes, scores, labels, score_threshold=0.001)
        torch.testing.assert_close(ours.scores[image], expected_scores[:100], atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.boxes[image], boxes[index[:100]])
        assert ours.labels[image].tolist() == labels[index[:100]].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_hard_nms_equals_torchvision(seed):
    boxes, scores, labels = crowded(seed)
    keep = batched_nms(boxes, scores, labels, 0.5)[:100]
    detections = hard_nms(batch_of((boxes, scores, labels)))
    count = int((detections.labels >= 0).sum())
    assert count == len(keep)
    torch.testing.assert_close(detections.boxes[0, :count], boxes[keep])


@pytest.mark.parametrize("spread", [400, 30, 0.1])  # 100 boxes remain of the first 400 candidates, of more, and of none
def test_hard_nms_of_the_first_candidates_equals_that_of_all(spread):
    torch.manual_seed(0)
    corners = spread * torch.rand(3000, 2)
    boxes = torch.cat([corners, corners + 20 + torch.rand(3000, 2)], 1)
    scores, labels = torch.rand(3000).sort(descending=True).values, torch.randint(0, 3, (3000,))
    keep = batched_nms(boxes, scores, labels, 0.5)[:100]
    detections = hard_nms(batch_of((boxes, scores, labels)))
    torch.testing.assert_close(detections.scores[0, : len(keep)], scores[keep])
    torch.testing.assert_close(detections.boxes[0, : len(keep)], boxes[keep])
    assert (detections.labels[0, len(keep) :] == -1).all()


def test_hard_nms_is_exact_for_the_highest_class_index():
    """In class 89: one pair of small boxes with an IoU a little above 0.5, and one pair a little below."""
    left = torch.tensor([[1500.0, 1500, 1504, 1504], [1510, 1500, 1514, 1504]])
    boxes = torch.cat([left, left + torch.tensor([[1.3325, 0, 1.3325, 0], [1.3345, 0, 1.3345, 0]])])
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([89] * 4)
    detections = hard_nms(batch_of((boxes, scores, labels)))
    assert detections.scores[0, :4].tolist() == pytest.approx([0.9, 0.8, 0.6, 0])


def test_images_do_not_mix():
    alone = soft_nms(batch_of(crowded(1)))
    together = soft_nms(batch_of(crowded(1), crowded(2)))
    for one, both in zip(alone, together, strict=True):
        torch.testing.assert_close(one[0], both[0])


def test_voting_by_hand():
    """The second box has an IoU of 0.8 with the first and half its score; the third belongs to another class."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 9], [50, 50, 60, 60]])
    found = batch_of((boxes, torch.tensor([0.8, 0.4, 0.3, 0.2]), torch.tensor([0, 0, 1, 0])))
    selected = Detections(found.boxes[:, :1], found.scores[:, :1], found.labels[:, :1])
    voted = box_voting(selected, found, sigma=0.04)
    weight = 0.4 * math.exp(-(0.2**2) / 0.04)
    torch.testing.assert_close(voted.boxes[0, 0], torch.tensor([0.0, 0, 10, (0.8 * 10 + weight * 8) / (0.8 + weight)]))
    assert voted.scores.tolist() == selected.scores.tolist()
    assert voted.labels.tolist() == [[0]]


def test_a_box_without_voters_around_it_keeps_its_place():
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    found = batch_of((boxes, torch.tensor([0.9, 0.2]), torch.tensor([0, 0])))
    torch.testing.assert_close(box_voting(found, found, voters=1).boxes, found.boxes)


def test_voting_moves_boxes_only_and_keeps_padding():
    images = batch_of(crowded(1), crowded(2))
    soft, voting = soft_nms(images, sigma=MILD_SIGMA), suppress(images, "voting")
    torch.testing.assert_close(voting.scores, soft.scores)
    assert voting.labels.equal(soft.labels)
    assert not voting.boxes.equal(soft.boxes)
    padding = voting.labels < 0
    assert (voting.boxes[padding] == 0).all()


@pytest.mark.parametrize("method", ["soft", "hard", "voting"])
def test_without_detections(method):
    detections = suppress(batch_of((torch.zeros(4, 4), torch.zeros(4), torch.zeros(4, dtype=torch.long))), method)
    assert (detections.labels < 0).all()


def test_few_detections_are_padded():
    images = [
        (torch.tensor([[0.0, 0, 9, 9], [50, 50, 60, 60]]), torch.tensor([0.9, 0.8]), torch.tensor([0, 0])),
        (torch.tensor([[0.0, 0, 9, 9], [50, 50, 60, 60]]), torch.tensor([0.9, 0.0]), torch.tensor([1, 0])),
    ]
    detections = soft_nms(batch_of(*images))
    assert detections.labels.tolist() == [[0, 0], [1, -1]]
    assert detections.scores[1, 1] == 0


def test_candidates_are_the_best_pairs_decoded_and_clipped():
    logits = torch.tensor([[[0.0, 3.0], [2.0, -1.0]]])
    anchors = torch.tensor([[-5.0, 0, 5, 10], [10, 10, 20, 20]])
    detections = candidates(logits, torch.zeros(1, 2, 4), anchors, (15, 100), count=2)
    assert detections.labels.tolist() == [[1, 0]]
    torch.testing.assert_close(detections.boxes[0], torch.tensor([[0.0, 0, 5, 10], [10, 10, 20, 15]]))
    torch.testing.assert_close(detections.scores[0], torch.tensor([3.0, 2.0]).sigmoid())


def test_candidates_clip_each_image_to_its_own_size():
    anchors = torch.tensor([[0.0, 0, 50, 50]])
    sizes = torch.tensor([[20, 30], [40, 10]])
    detections = candidates(torch.zeros(2, 1, 1), torch.zeros(2, 1, 4), anchors, sizes)
    assert detections.boxes[:, 0].tolist() == [[0, 0, 30, 20], [0, 0, 10, 40]]


def test_to_original_by_hand():
    detections = Detections(
        torch.tensor([[[10.0, 10, 20, 400]]]), torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.long)
    )
    back = to_original(detections, torch.tensor([[0.5, 0.25]]), torch.tensor([[480, 640]]))
    assert back.boxes.tolist() == [[[20, 40, 40, 480]]]
