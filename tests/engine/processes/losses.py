"""Every process computes losses of its part of a batch, and checks values and gradients against the whole batch."""

import torch

from classification.loss import ClassificationLoss
from detection.anchors import Anchors
from detection.loss import DetectionLoss
from engine import distributed
from segmentation.loss import SegmentationLoss

IMAGES, SIZE = 4, (64, 64)


def check(name, loss, outputs, *targets):
    """The mean of the processes' losses and gradients are those of a single process with the whole batch."""
    whole = [x.clone().requires_grad_() for x in outputs]
    with single_process():
        expected = loss(*whole, *targets)
        sum(expected.values()).backward()
    own = slice(distributed.rank() * IMAGES // 2, (distributed.rank() + 1) * IMAGES // 2)
    parts = [x[own].clone().requires_grad_() for x in outputs]
    found = loss(*parts, *(t[own] if isinstance(t, torch.Tensor) else t for t in targets))
    sum(found.values()).backward()
    for key, value in expected.items():
        mean = distributed.total(found[key].detach()) / 2
        place = f"{name} {key}"
        torch.testing.assert_close(mean, value.detach(), rtol=1e-6, atol=1e-7, msg=f"{place}: {mean} {value}")
    for part, all_ in zip(parts, whole, strict=True):
        # DDP divides the gradients by the number of processes.
        torch.testing.assert_close(part.grad / 2, all_.grad[own], rtol=1e-5, atol=1e-8, msg=f"gradient of {name}")


class single_process:
    """In this context the losses know of one process."""

    def __enter__(self):
        self.world, distributed.world = distributed.world, lambda: 1

    def __exit__(self, *_):
        distributed.world = self.world


def segmentation():
    torch.manual_seed(0)
    logits, masks = torch.randn(IMAGES, 5, 8, 8), torch.randint(0, 5, (IMAGES, 8, 8))
    masks[0, :6] = masks[torch.rand(masks.shape) < 0.3] = 255  # the processes have different numbers of labelled pixels
    weighted = SegmentationLoss(["ce", "focal"])
    weighted.class_weights = torch.rand(5) + 0.5
    check("all", SegmentationLoss(["ce", "dice", "focal", "lovasz"], 0.1), [logits], masks)
    check("hard pixels", SegmentationLoss(["ce"], hard_pixels=0.3), [logits], masks)
    check("class weights", weighted, [logits], masks)
    masks[:2] = 255
    check("labels in one process only", SegmentationLoss(["ce", "dice"]), [logits], masks)
    masks[:] = 255
    check("no labels", SegmentationLoss(["ce", "dice"]), [logits], masks)


def detection():
    torch.manual_seed(0)
    anchors = Anchors((8, 16), 4)
    count = len(anchors(SIZE))
    logits, deltas = torch.randn(IMAGES, count, 3), 0.1 * torch.randn(IMAGES, count, 4)
    corner = 40 * torch.rand(IMAGES, 2, 2)
    boxes = torch.cat([corner, corner + 20], 2)
    labels = torch.tensor([[0, 1], [2, -1], [-1, -1], [1, -1]])
    for assignment, box_loss in (("iou", "huber"), ("atss", "giou")):
        for found in (labels, labels.where(torch.arange(IMAGES)[:, None] > 1, -1), torch.full_like(labels, -1)):
            loss = DetectionLoss(assignment, box_loss)

            def of_batch(logits, deltas, boxes, labels, loss=loss):
                return loss(logits, deltas, anchors, SIZE, boxes, labels)

            check(f"{assignment} {found.tolist()}", of_batch, [logits, deltas], boxes, found)


def classification():
    torch.manual_seed(0)
    images, labels, logits = torch.rand(IMAGES, 3, 8, 8), torch.tensor([0, 1, 2, 1]), torch.randn(IMAGES, 3)
    own = slice(distributed.rank() * 2, distributed.rank() * 2 + 2)
    for seed in range(4):
        loss = ClassificationLoss(3, 0.1, mixup=0.5, cutmix=1.0)
        with single_process():
            mixed, targets = loss.mix(images, labels, seed)
        mixed_part, targets_part = loss.mix(images[own], labels[own], seed)
        torch.testing.assert_close(mixed_part, mixed[own])
        torch.testing.assert_close(targets_part, targets[own])
        loss.class_weights = torch.tensor([0.5, 1.0, 2.0])
        check("mixed", loss, [logits], targets)
        check("class weights", loss, [logits], labels)


if __name__ == "__main__":
    with distributed.joined(torch.device("cpu")):
        segmentation()
        detection()
        classification()
