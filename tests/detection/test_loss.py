"""Assignment by hand, losses compared with effdet and torchvision, and inputs that could make losses NaN."""

import pytest
import torch
from effdet.anchors import AnchorLabeler
from effdet.anchors import Anchors as EffdetAnchors
from effdet.config import get_efficientdet_config
from effdet.loss import DetectionLoss as EffdetLoss
from torchvision.ops import box_iou, complete_box_iou_loss, generalized_box_iou, generalized_box_iou_loss

from detection import assignment
from detection import loss as loss_module
from detection.anchors import Anchors, decode, encode
from detection.assignment import assign_atss, assign_iou
from detection.boxes import ciou_loss, giou_loss, paired_iou
from detection.loss import DetectionLoss, focal_loss

STRIDES = [8, 16, 32, 64, 128]


def of_one_image(assign, anchors, boxes, *arguments):
    """The (A,) assignment for the (N, 4) boxes of one image."""
    (box_index,) = assign(anchors, boxes[None], torch.ones(1, len(boxes), dtype=torch.bool), *arguments)
    return box_index


def test_assign_iou_by_hand():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4], [20, 20, 30, 30], [100, 100, 101, 101]])
    boxes = torch.tensor([[0.0, 0, 10, 8], [90, 90, 110, 110]])
    box_index = of_one_image(assign_iou, anchors, boxes)
    # IoU with the first box: 0.8, 0.5, 0. The second overlaps only the last anchor, with IoU 1/400.
    assert box_index.tolist() == [0, 0, -1, 1]


def test_assign_atss_by_hand():
    """One level, one anchor per cell, stride 10: a row of five 20 px squares centred at x = 5, 15, ... 45, y = 5."""
    x = torch.arange(5) * 10.0
    anchors = torch.stack([x - 5, torch.full_like(x, -5), x + 15, torch.full_like(x, 15)], dim=1)
    boxes = torch.tensor([[-5.0, -5, 15, 15], [25, 0, 45, 10]])
    box_index = of_one_image(assign_atss, anchors, boxes, [5], 1)
    # First box: the IoUs are 1, 1/3, 0, 0, 0, and the threshold is 0.267 + 0.435: only the equal anchor reaches it.
    # Second box, half as high as an anchor: only the anchor with the same centre reaches the threshold.
    iou = box_iou(boxes, anchors)
    threshold = iou.mean(1) + iou.std(1)
    centres = x + 5
    for anchor in range(5):
        fits = [
            box
            for box in range(2)
            if iou[box, anchor] >= threshold[box] and boxes[box, 0] < centres[anchor] < boxes[box, 2]
        ]
        assert box_index[anchor] == (fits[0] if fits else -1)
    assert box_index.tolist() == [0, -1, -1, 1, -1]


def atss_in_loops(anchors, boxes, counts, per_cell):
    """Assignment by loops, as in algorithm 1 of the paper: (A,) index of the box of each anchor, or -1."""
    overlaps = box_iou(boxes, anchors)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    best = [(-1.0, -1)] * len(anchors)
    for number, box in enumerate(boxes):
        distance = (centres - (box[:2] + box[2:]) / 2).norm(dim=1)
        near, first = [], 0
        for count in counts:
            cells = torch.arange(first, first + count, per_cell)
            closest = cells[distance[cells].argsort()[:9]]
            near += [int(cell) + k for cell in closest for k in range(per_cell)]
            first += count
        values = overlaps[number, near]
        threshold = values.mean() + values.std()
        inside = ((centres[near] > box[:2]) & (centres[near] < box[2:])).all(1)
        selected = {near[i] for i in range(len(near)) if inside[i] and values[i] >= threshold}
        for anchor in selected | {near[int(values.argmax())]}:
            best[anchor] = max(best[anchor], (float(overlaps[number, anchor]), number))
    return [number for _, number in best]


@pytest.mark.parametrize("seed", range(3))
def test_assign_atss_equals_loops(seed):
    """Small, large, elongated and overlapping boxes on three levels with nine anchors per cell."""
    generator = torch.Generator().manual_seed(seed)
    anchors = Anchors(STRIDES[:3])
    corners = torch.rand(8, 2, generator=generator) * 100
    sides = 4 + 90 * torch.rand(8, 2, generator=generator) ** 2
    boxes = torch.cat([corners, corners + sides], dim=1)
    anchor_boxes, counts = anchors((128, 160)), anchors.counts((128, 160))
    box_index = of_one_image(assign_atss, anchor_boxes, boxes, counts, anchors.per_cell).tolist()
    assert box_index == atss_in_loops(anchor_boxes, boxes, counts, anchors.per_cell)
    assert set(box_index) == set(range(-1, 8))


def test_quality_focal_loss_by_hand(scene):
    """arXiv:2006.04388, equation 6: the target is the IoU of the predicted box, without gradient; beta is 2."""
    logits, deltas, anchors, boxes, labels = scene
    logits, deltas = logits.clone().requires_grad_(), deltas.clone().requires_grad_()
    anchor_boxes, total, count = anchors((256, 256)), 0.0, 1
    for image in range(2):
        image_boxes = boxes[image, labels[image] >= 0]
        box_index = of_one_image(assign_atss, anchor_boxes, image_boxes, anchors.counts((256, 256)), anchors.per_cell)
        target = torch.zeros(len(anchor_boxes), 5)
        for anchor in (box_index >= 0).nonzero().flatten().tolist():
            box = int(box_index[anchor])
            predicted = decode(deltas[image, anchor].detach(), anchor_boxes[anchor])
            target[anchor, labels[image, box]] = box_iou(predicted[None], image_boxes[box][None])[0, 0]
            count += 1
        score = logits[image].sigmoid()
        entropy = -target * score.log() - (1 - target) * (1 - score).log()
        total = total + ((target - score) ** 2 * entropy).sum()
    losses = DetectionLoss("atss", "giou")(logits, deltas, anchors, (256, 256), boxes, labels)
    torch.testing.assert_close(losses["class"], total / count, rtol=1e-4, atol=1e-5)
    assert torch.autograd.grad(losses["class"], deltas, allow_unused=True)[0] is None


def test_iou_of_disjoint_boxes_is_zero():
    """Also for boxes that are disjoint along both axes: the product of two negative overlaps would be positive."""
    generator = torch.Generator().manual_seed(0)
    corners = 100 * torch.rand(2, 50, 2, generator=generator)
    a, b = torch.cat([corners, corners + 1 + 20 * torch.rand(2, 50, 2, generator=generator)], dim=-1)
    torch.testing.assert_close(paired_iou(a[:, None], b), box_iou(a, b))
    assert (paired_iou(a[:, None], b) == 0).float().mean() > 0.5


def test_box_losses_equal_torchvision():
    """Values and gradients, also of disjoint, nested and equal boxes and of boxes without an area."""
    generator = torch.Generator().manual_seed(0)
    corners = 100 * torch.rand(2, 200, 2, generator=generator)
    a, b = torch.cat([corners, corners + 1 + 60 * torch.rand(2, 200, 2, generator=generator)], dim=-1)
    b[:20], b[20:40, 2:] = a[:20], a[20:40, 2:]
    a[40:50, 2] = a[40:50, 0]
    for ours, reference in ((giou_loss, generalized_box_iou_loss), (ciou_loss, complete_box_iou_loss)):
        own, other = a.clone().requires_grad_(), a.clone().requires_grad_()
        value, expected = ours(own, b), reference(other, b)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(*(torch.autograd.grad(v.sum(), x)[0] for v, x in ((value, own), (expected, other))))


def test_anchor_of_two_boxes_learns_the_one_of_higher_iou():
    anchors = torch.tensor([[0.0, 0, 10, 10], [90, 0, 100, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 20], [0, 0, 10, 10]])
    assert of_one_image(assign_atss, anchors, boxes, [2], 1).tolist() == [1, -1]


def test_every_box_is_learned_also_small_ones():
    """A small box without an anchor centre in it is learned by its best candidate."""
    anchors = Anchors(STRIDES)
    anchor_boxes = anchors((256, 256))
    boxes = torch.tensor([[0.0, 0, 3, 3], [200, 200, 203, 206]])
    box_index = of_one_image(assign_atss, anchor_boxes, boxes, anchors.counts((256, 256)), anchors.per_cell)
    assert set(box_index.tolist()) == {-1, 0, 1}


def focal_in_torch(logits, target, gamma, alpha=None):
    """|t - p|^gamma times the cross entropy, of all elements, by automatic differentiation."""
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    balance = 1.0 if alpha is None else torch.where(target > 0, alpha, 1 - alpha)
    return balance * (target - logits.sigmoid()).abs().pow(gamma) * entropy


@pytest.mark.parametrize(("gamma", "alpha"), [(1.5, 0.25), (2.0, None)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("partial", [False, True])
def test_focal_loss_and_gradient_equal_automatic_differentiation(gamma, alpha, weighted, partial, monkeypatch):
    monkeypatch.setattr(loss_module, "ELEMENTS", 2 * 30 * 4)  # two images at a time
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(5, 30, 4, generator=generator, dtype=torch.float64)
    logits[0, 0] = torch.tensor([40.0, -40, 200, -200])  # saturated: a naive log would be infinite
    positive = torch.rand(5, 30, generator=generator) < 0.3
    classes = torch.randint(0, 4, (5, 30), generator=generator)
    scores = torch.ones(5, 30) if alpha else torch.rand(5, 30, generator=generator, dtype=torch.float64)
    weights = torch.rand(5, 30, generator=generator, dtype=torch.float64) if weighted else None
    target = torch.zeros_like(logits)
    target.scatter_(2, classes[..., None], (scores * positive)[..., None].double())
    place = torch.arange(5 * 30).view(5, 30) * 4 + classes
    chosen = positive | (torch.rand(5, 30, generator=generator) < 0.2)  # targets of 0 may be listed, too
    complete = torch.rand(5, 4, generator=generator) < 0.6 if partial else None
    counts = torch.ones_like(logits) if complete is None else complete[:, None].expand_as(logits).double()
    counts = counts.flatten().index_fill(0, place[chosen], 1).view_as(logits)
    ours, reference = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    total = focal_loss(ours, place[chosen], (scores * positive)[chosen], weights, gamma, alpha, complete)
    expected = counts * focal_in_torch(reference, target, gamma, alpha)
    expected = (expected if weights is None else expected * weights[..., None]).sum()
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=0)
    (3 * total).backward()
    (3 * expected).backward()
    torch.testing.assert_close(ours.grad, reference.grad, rtol=1e-8, atol=1e-12)


def test_focal_loss_keeps_one_tensor_of_the_size_of_the_logits(scene):
    logits = scene[0].clone().requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        focal_loss(logits, torch.arange(10), torch.rand(10))
    assert kept == [logits.numel()]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pairs", [1, 2**24], ids=["a box at a time", "all boxes"])
def test_an_image_is_assigned_the_same_alone_and_in_a_batch(seed, pairs, monkeypatch):
    """Also next to an image without boxes, with rows of padding between boxes, and with equal boxes."""
    monkeypatch.setattr(assignment, "PAIRS", pairs)
    generator = torch.Generator().manual_seed(seed)
    anchors = Anchors(STRIDES[:3])
    anchor_boxes, counts = anchors((128, 160)), anchors.counts((128, 160))
    corners = torch.rand(3, 7, 2, generator=generator) * 100
    boxes = torch.cat([corners, corners + 2 + 80 * torch.rand(3, 7, 2, generator=generator) ** 2], dim=-1)
    boxes[0, 5] = boxes[0, 2]
    boxes[0, 0] = torch.tensor([16.0, 16, 32, 32])  # its centre is equally far from four cells
    valid = torch.rand(3, 7, generator=generator) < 0.7
    valid[0, [0, 2, 5]], valid[1] = True, False
    for assign, arguments in ((assign_iou, ()), (assign_atss, (counts, anchors.per_cell))):
        together = assign(anchor_boxes, boxes, valid, *arguments)
        assert (together[1] == -1).all()
        for image in (0, 2):
            alone = of_one_image(assign, anchor_boxes, boxes[image, valid[image]], *arguments)
            numbers = torch.cat([valid[image].nonzero().flatten(), torch.tensor([-1])])
            assert together[image].tolist() == numbers[alone].tolist()


@pytest.fixture(scope="module")
def scene():
    """Boxes, labels and random predictions at 256 px for two images with different numbers of boxes."""
    generator = torch.Generator().manual_seed(0)
    anchors = Anchors(STRIDES)
    count = sum(anchors.counts((256, 256)))
    corners = torch.rand(2, 6, 2, generator=generator) * 180
    boxes = torch.cat([corners, corners + 20 + 50 * torch.rand(2, 6, 2, generator=generator)], dim=-1)
    labels = torch.randint(0, 5, (2, 6), generator=generator)
    labels[1, 4:] = -1
    logits = torch.randn(2, count, 5, generator=generator) - 3
    deltas = torch.randn(2, count, 4, generator=generator) * 0.1
    return logits, deltas, anchors, boxes, labels


def test_published_loss_equals_effdet(scene):
    logits, deltas, anchors, boxes, labels = scene
    config = get_efficientdet_config("tf_efficientdet_d0")
    labeler = AnchorLabeler(EffdetAnchors(3, 7, 3, config.aspect_ratios, 4.0, (256, 256)), 5, match_threshold=0.5)
    config.num_classes = 5
    valid = labels >= 0
    expected = labeler.batch_label_anchors(
        [b[v][:, [1, 0, 3, 2]] for b, v in zip(boxes, valid, strict=True)],
        [label[v].float() + 1 for label, v in zip(labels, valid, strict=True)],
    )
    counts = Anchors(STRIDES).counts((256, 256))
    sides = [256 // stride for stride in STRIDES]

    def maps(values):
        parts = values.split(counts, dim=1)
        return [p.reshape(2, s, s, -1).permute(0, 3, 1, 2) for p, s in zip(parts, sides, strict=True)]

    total, class_loss, box_loss = EffdetLoss(config)(maps(logits), maps(deltas[..., [1, 0, 3, 2]]), *expected)
    ours = DetectionLoss("iou", "huber")(logits, deltas, anchors, (256, 256), boxes, labels)
    torch.testing.assert_close(ours["class"], class_loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours["box"], 50.0 * box_loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sum(ours.values()), total, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("assignment", ["iou", "atss"])
@pytest.mark.parametrize("box_loss", ["huber", "giou", "ciou"])
def test_perfect_boxes_have_no_loss(scene, assignment, box_loss):
    logits, deltas, anchors, boxes, labels = scene
    perfect = deltas.clone()
    for image in range(2):
        image_boxes = boxes[image, labels[image] >= 0]
        anchor_boxes = anchors((256, 256))
        if assignment == "iou":
            box_index = of_one_image(assign_iou, anchor_boxes, image_boxes)
        else:
            box_index = of_one_image(
                assign_atss, anchor_boxes, image_boxes, anchors.counts((256, 256)), anchors.per_cell
            )
        perfect[image] = encode(image_boxes[box_index.clamp(min=0)], anchor_boxes)
    cost = DetectionLoss(assignment, box_loss)
    assert float(cost(logits, perfect, anchors, (256, 256), boxes, labels)["box"]) < 1e-3
    assert float(cost(logits, perfect + 0.3, anchors, (256, 256), boxes, labels)["box"]) > 0.05


def test_giou_is_weighted_mean_over_positives(scene):
    logits, deltas, anchors, boxes, labels = scene
    terms, count = 0.0, 1.0
    for image in range(2):
        image_boxes = boxes[image, labels[image] >= 0]
        box_index = of_one_image(assign_iou, anchors((256, 256)), image_boxes)
        positive = box_index >= 0
        predicted = decode(deltas[image], anchors((256, 256)))[positive]
        giou = generalized_box_iou(predicted, image_boxes).gather(1, box_index[positive][:, None])
        terms, count = terms + (1 - giou).sum(), count + positive.sum()
    ours = DetectionLoss("iou", "giou")(logits, deltas, anchors, (256, 256), boxes, labels)["box"]
    torch.testing.assert_close(ours, 2 * terms / count, rtol=1e-4, atol=1e-5)


@pytest.mark.case("R5")
@pytest.mark.parametrize("assignment", ["iou", "atss"])
@pytest.mark.parametrize("boxes_each", [0, 6], ids=["no image has boxes", "padding alone"])
def test_images_without_boxes(scene, assignment, boxes_each):
    """Finite loss, and a finite gradient for both heads."""
    logits, deltas, anchors, boxes, _ = scene
    logits, deltas = logits.clone().requires_grad_(), deltas.clone().requires_grad_()
    nothing = torch.full((2, boxes_each), -1)
    losses = DetectionLoss(assignment, "giou")(logits, deltas, anchors, (256, 256), boxes[:, :boxes_each], nothing)
    sum(losses.values()).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0
    assert (deltas.grad == 0).all()


@pytest.mark.parametrize("assignment", ["iou", "atss"])
def test_gradient_lowers_the_loss(scene, assignment):
    logits, deltas, anchors, boxes, labels = scene
    logits, deltas = logits.clone().requires_grad_(), deltas.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits, deltas], lr=0.05)
    cost = DetectionLoss(assignment, "giou")
    first = None
    for _ in range(40):
        optimizer.zero_grad()
        loss = sum(cost(logits, deltas, anchors, (256, 256), boxes, labels).values())
        loss.backward()
        optimizer.step()
        first = first or float(loss)
    assert float(loss) < 0.8 * first


@pytest.mark.parametrize("assignment", ["iou", "atss"])
def test_class_weights_multiply_the_loss_of_the_anchors_of_a_class(assignment):
    """With one object, the weighted loss is linear in the weight of its class; other weights have no effect."""
    torch.manual_seed(0)
    anchors, size = Anchors(STRIDES, 4.0), (64, 64)
    count = len(anchors(size))
    logits, deltas = torch.randn(1, count, 3), torch.randn(1, count, 4) * 0.1
    boxes, labels = torch.tensor([[[8.0, 8, 40, 44]]]), torch.tensor([[1]])
    criterion = DetectionLoss(assignment, "giou")

    def loss(weights):
        criterion.class_weights = None if weights is None else torch.tensor(weights)
        return criterion(logits, deltas, anchors, size, boxes, labels)

    plain = loss(None)
    for weights in ([1.0, 1.0, 1.0], [5.0, 1.0, 0.1]):
        torch.testing.assert_close(loss(weights), plain)
    positive, double, triple = (loss([1.0, w, 1.0])["class"] for w in (1.0, 2.0, 3.0))
    torch.testing.assert_close(triple - double, double - positive)
    anchor_boxes = anchors(size)
    assign, arguments = assign_iou, ()
    if assignment == "atss":
        assign, arguments = assign_atss, (anchors.counts(size), anchors.per_cell)
    rows = of_one_image(assign, anchor_boxes, boxes[0], *arguments)
    learns = rows >= 0
    target = torch.zeros_like(logits)
    box = boxes[0].expand(int(learns.sum()), 4)
    target[0, learns, 1] = (
        1.0 if assignment == "iou" else paired_iou(decode(deltas[0, learns], anchor_boxes[learns]), box)
    )
    gamma, alpha = (1.5, 0.25) if assignment == "iou" else (2.0, None)
    part = focal_in_torch(logits[:, learns], target[:, learns], gamma, alpha).sum() / (learns.sum() + 1)
    torch.testing.assert_close(double - positive, part)
    torch.testing.assert_close(loss([1.0, 2.0, 1.0])["box"], plain["box"])
