"""Padding, memory layout and normalisation, compared with numbers computed by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.batch import IGNORE, Sample, collate, normalise


def sample(count: int, value: int = 0, mask: bool = False, image_id: int = 7) -> Sample:
    return Sample(
        image=np.full((4, 6, 3), value, np.uint8),
        image_id=image_id,
        size=(40, 61),
        scale=(0.1, 0.2),
        boxes=np.arange(4 * count, dtype=np.float32).reshape(count, 4),
        labels=np.arange(count),
        mask=np.full((4, 6), 3, np.uint8) if mask else None,
    )


def test_collate_pads_boxes_with_zeros_and_labels_with_minus_one() -> None:
    batch = collate([sample(1), sample(0), sample(2, image_id=9)])
    assert len(batch) == 3
    assert batch.boxes.dtype == batch.scales.dtype == torch.float32
    assert batch.boxes.tolist() == [
        [[0, 1, 2, 3], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 1, 2, 3], [4, 5, 6, 7]],
    ]
    assert batch.labels.tolist() == [[0, -1], [-1, -1], [0, 1]]
    assert batch.image_ids.tolist() == [7, 7, 9]
    assert batch.sizes.tolist() == [[40, 61]] * 3
    torch.testing.assert_close(batch.scales, torch.tensor([[0.1, 0.2]] * 3))
    assert batch.labels.dtype == batch.image_ids.dtype == batch.sizes.dtype == torch.int64
    assert batch.readable.tolist() == [True] * 3
    assert batch.masks is None


@pytest.mark.case("R5")
def test_a_batch_without_boxes() -> None:
    batch = collate([sample(0), sample(0)])
    assert batch.boxes.shape == (2, 0, 4)
    assert batch.labels.shape == (2, 0)


def test_images_are_channels_last_views_in_the_right_order() -> None:
    first = sample(0)
    first.image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    batch = collate([first, sample(0, 5)])
    assert batch.images.shape == (2, 3, 4, 6)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images[0, :, 0, 1].tolist() == [3, 4, 5]
    assert batch.images[1].unique().tolist() == [5]


def test_either_all_samples_have_a_mask_or_none() -> None:
    batch = collate([sample(0, mask=True), sample(1, mask=True)])
    assert batch.masks is not None
    assert batch.masks.shape == (2, 4, 6)
    assert batch.masks.dtype == torch.uint8
    with pytest.raises(ValueError, match="1 of 2"):
        collate([sample(0, mask=True), sample(0)])


def test_to_moves_every_tensor() -> None:
    batch = collate([replace(sample(1, mask=True), complete=np.ones(3, bool))]).to("meta")
    assert {value.device.type for value in vars(batch).values()} == {"meta"}
    assert collate([sample(1)]).to("meta").masks is None


def test_normalise_by_hand() -> None:
    images = collate([sample(0, 255), sample(0, 51)]).images
    mean, std = (0.5, 0.2, 0.0), (0.5, 0.4, 2.0)
    out = normalise(images, mean, std)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    expected = torch.tensor([[1.0, 2.0, 0.5], [-0.6, 0.0, 0.1]])  # (1 - mean) / std and (0.2 - mean) / std
    torch.testing.assert_close(out[..., 0, 0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(out.amax((2, 3)), out.amin((2, 3)))


def test_masks_of_other_sizes_lie_at_the_top_left() -> None:
    """As in evaluation, where masks have the size of the files: what fills them up is no class."""
    first, second = sample(0), sample(0)
    first.mask, second.mask = np.full((2, 5), 3, np.uint8), np.full((4, 1), 1, np.uint8)
    batch = collate([first, second])
    assert batch.masks is not None
    expected = np.full((2, 4, 5), IGNORE)
    expected[0, :2], expected[1, :, :1] = 3, 1
    np.testing.assert_array_equal(batch.masks, expected)


def test_each_image_keeps_its_own_size_scale_and_state() -> None:
    first, second = sample(0), sample(0)
    second.size, second.scale, second.readable = (8, 9), (2.0, 3.0), False
    batch = collate([first, second])
    assert batch.sizes.tolist() == [[40, 61], [8, 9]]
    torch.testing.assert_close(batch.scales, torch.tensor([[0.1, 0.2], [2.0, 3.0]]))
    assert batch.readable.tolist() == [True, False]
