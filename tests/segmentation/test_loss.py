"""Losses against reference implementations, and masks without labels."""

import pytest
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.losses import DiceLoss, FocalLoss, LovaszLoss

from backbones.errors import UserError
from data.batch import IGNORE
from segmentation import loss
from segmentation.config import LOSSES, parse_losses
from segmentation.loss import SegmentationLoss


def data(ignored=0.2):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 9, 13, generator=generator, requires_grad=True)
    masks = torch.randint(0, 4, (2, 9, 13), generator=generator)
    masks[torch.rand(masks.shape, generator=generator) < ignored] = IGNORE
    return logits, masks


def test_losses_equal_the_reference():
    logits, masks = data()
    terms = SegmentationLoss(list(LOSSES))(logits, masks)
    expected = {
        "ce": F.cross_entropy(logits, masks, ignore_index=IGNORE),
        "dice": DiceLoss("multiclass", ignore_index=IGNORE)(logits, masks),
        "focal": FocalLoss("multiclass", ignore_index=IGNORE)(logits, masks),
        "lovasz": LovaszLoss("multiclass", ignore_index=IGNORE)(logits, masks),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)


def test_ignored_pixels_have_no_effect():
    logits, masks = data()
    other = logits.detach().clone()
    other.movedim(1, -1)[masks == IGNORE] = 100.0
    criterion = SegmentationLoss(list(LOSSES))
    for first, second in zip(criterion(logits, masks).values(), criterion(other, masks).values(), strict=True):
        torch.testing.assert_close(first.detach(), second)


@pytest.mark.case("R9")
@pytest.mark.parametrize("hard", [1.0, 0.25])
@pytest.mark.parametrize("name", LOSSES)
def test_without_labels_loss_and_gradients_are_zero(name, hard):
    logits, masks = data(ignored=2)
    assert (masks == IGNORE).all()
    (value,) = SegmentationLoss([name], hard_pixels=hard)(logits, masks).values()
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_one_image_of_two_without_labels(name):
    logits, masks = data()
    masks[1] = IGNORE
    (value,) = SegmentationLoss([name])(logits, masks).values()
    value.backward()
    assert 0 < value.item() < 10
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[1] == 0).all()


def test_hard_pixels_have_the_largest_loss():
    logits, masks = data()
    cost = F.cross_entropy(logits, masks, ignore_index=IGNORE, reduction="none")[masks != IGNORE]
    count = round(0.25 * len(cost))
    (value,) = SegmentationLoss(["ce"], hard_pixels=0.25)(logits, masks).values()
    assert value.item() == pytest.approx(cost.sort(descending=True).values[:count].mean().item(), rel=1e-5)


def test_smoothing_and_weights():
    logits, masks = data()
    (value,) = SegmentationLoss(["ce=2"], smoothing=0.1)(logits, masks).values()
    expected = 2 * F.cross_entropy(logits, masks, ignore_index=IGNORE, label_smoothing=0.1)
    torch.testing.assert_close(value, expected)


def test_many_pixels_are_subsampled(monkeypatch):
    logits, masks = data()
    monkeypatch.setattr(loss, "MAX_PIXELS", 80)  # of 234: every second row and column
    (value,) = SegmentationLoss(["dice"])(logits, masks).values()
    torch.testing.assert_close(
        value, DiceLoss("multiclass", ignore_index=IGNORE)(logits[:, :, ::2, ::2], masks[:, ::2, ::2])
    )
    masks[:, ::2, ::2] = IGNORE  # this grid has no class, so that of most labelled pixels is used
    masks[:, ::2] = IGNORE
    masks[:, 1::2, ::2] = IGNORE
    (value,) = SegmentationLoss(["dice"])(logits, masks).values()
    torch.testing.assert_close(
        value, DiceLoss("multiclass", ignore_index=IGNORE)(logits[:, :, 1::2, 1::2], masks[:, 1::2, 1::2])
    )
    masks[:] = IGNORE
    masks[0, -1, -1] = 2  # outside the grid of the other rows and columns
    (value,) = SegmentationLoss(["dice"])(logits, masks).values()
    assert value.item() > 0


def test_names_and_weights():
    assert parse_losses(["ce", "lovasz=0.5"]) == {"ce": 1.0, "lovasz": 0.5}
    for wrong in (["lovas"], ["ce=x"], ["ce=0"], ["ce=-1"], ["ce=nan"], []):
        with pytest.raises(UserError):
            parse_losses(wrong)


@pytest.mark.parametrize("loss", ["ce", "dice", "focal", "lovasz"])
def test_a_single_class(loss):
    """Its probability is always 1. Every loss is finite, and its gradient too."""
    logits = torch.randn(2, 1, 8, 8, requires_grad=True)
    masks = torch.zeros(2, 8, 8, dtype=torch.long)
    masks[:, :2] = IGNORE
    value = SegmentationLoss([loss])(logits, masks)[loss]
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    if loss != "focal":
        assert value.item() == pytest.approx(0)


def test_class_weights_equal_the_references():
    logits, masks = data()
    weights = torch.tensor([1.0, 0.2, 3.0, 0.5])
    criterion = SegmentationLoss(["ce", "focal", "dice"], smoothing=0.1)
    plain = criterion(logits, masks)
    criterion.class_weights = weights
    terms = criterion(logits, masks)
    torch.testing.assert_close(
        terms["ce"], F.cross_entropy(logits, masks, weights, ignore_index=IGNORE, label_smoothing=0.1)
    )
    reference = FocalLoss("multiclass", ignore_index=IGNORE, class_weights=weights.tolist())
    torch.testing.assert_close(terms["focal"], reference(logits, masks))
    torch.testing.assert_close(terms["dice"], plain["dice"])
    criterion.class_weights = torch.full((4,), 7.0)  # only ratios matter
    for name, value in criterion(logits, masks).items():
        torch.testing.assert_close(value, plain[name])


def test_weighted_hard_pixels_by_hand():
    """The pixels with the largest weighted losses; their losses are divided by the sum of their weights."""
    logits, masks = data(ignored=0.0)
    weights = torch.tensor([1.0, 0.2, 3.0, 0.5])
    criterion = SegmentationLoss(["ce"], hard_pixels=0.25)
    criterion.class_weights = weights
    cost = F.cross_entropy(logits, masks, reduction="none").flatten() * weights[masks.flatten()]
    hardest = cost.argsort(descending=True)[: round(0.25 * masks.numel())]
    expected = cost[hardest].sum() / weights[masks.flatten()[hardest]].sum()
    torch.testing.assert_close(criterion(logits, masks)["ce"], expected)
