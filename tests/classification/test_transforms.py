"""Preprocessing equals timm's to the pixel. Differences can cost ten points of top-1."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import get_pretrained_cfg
from torch import nn

from backbones.weights import load_weights
from classification.transforms import EvalCrop, TrainCrop, preprocessing, seeded
from data.batch import Sample, collate, normalise
from data.images import read_image


def sample(image: np.ndarray) -> Sample:
    return Sample(image, 0, image.shape[:2], (1.0, 1.0), np.zeros((1, 4), np.float32), np.zeros(1, np.int64))  # type: ignore[arg-type]


def crop_of(name: str, image_size: str | None = None) -> tuple[EvalCrop, dict]:
    """The evaluation crop of the task, and its settings."""
    settings = preprocessing(name, load_weights(nn.Module(), name, pretrained=False), image_size)
    return EvalCrop.of(settings), settings


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth shapes and fine texture, so that filters differ."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).resize((width, height), Image.BICUBIC)
    return np.clip(np.asarray(coarse, int) + random.integers(-40, 41, (height, width, 3)), 0, 255).astype(np.uint8)


# Lite0-2: tensorflow/tpu lite/README.md resizes to the input size + 32 px, which determines crop_pct.
@pytest.mark.parametrize(
    ("name", "size", "crop_pct", "interpolation", "mean"),
    [
        ("tf_efficientnet_lite0", 224, 0.875, "bicubic", 0.5),
        ("tf_efficientnet_lite1", 240, 0.882, "bicubic", 0.5),
        ("tf_efficientnet_lite2", 260, 0.890, "bicubic", 0.5),
        ("tf_efficientnet_b0.aa_in1k", 224, 0.875, "bicubic", 0.485),
        ("resnet50.tv_in1k", 224, 0.875, "bilinear", 0.485),
        ("resnet50.a1_in1k", 224, 0.95, "bicubic", 0.485),
        ("inception_v3.tv_in1k", 299, 0.875, "bicubic", 0.5),
    ],
)
def test_constants(name: str, size: int, crop_pct: float, interpolation: str, mean: float) -> None:
    settings = crop_of(name)[1]
    assert settings["size"] == [size, size]
    assert (settings["crop_pct"], settings["interpolation"], settings["mean"][0]) == (crop_pct, interpolation, mean)


@pytest.mark.parametrize(
    "name",
    [
        *("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2", "resnet50.tv_in1k"),
        *("resnet50.a1_in1k", "tf_efficientnetv2_s.in21k_ft_in1k", "convnext_tiny.in12k_ft_in1k_384"),
    ],
)
@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (90, 120), (256, 256)])
def test_evaluation_crop_equals_timms(name: str, shape: tuple[int, int]) -> None:
    crop, settings = crop_of(name)
    image = photo(*shape)
    ours = normalise(collate([crop(sample(image), 0)]).images, settings["mean"], settings["std"])
    published = get_pretrained_cfg(name)
    assert published is not None
    theirs = create_transform(**resolve_data_config(pretrained_cfg=published.to_dict()))(Image.fromarray(image))
    assert ours.shape[1:] == theirs.shape
    assert (ours[0] - theirs).abs().max() < 1e-5


def test_jpeg_decoding_equals_timms(tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    Image.fromarray(photo(300, 400)).save(file, quality=85)
    crop, settings = crop_of("tf_efficientnet_lite0")
    ours = normalise(collate([crop(sample(read_image(file)), 0)]).images, settings["mean"], settings["std"])
    published = get_pretrained_cfg("tf_efficientnet_lite0")
    assert published is not None
    theirs = create_transform(**resolve_data_config(pretrained_cfg=published.to_dict()))(
        Image.open(file).convert("RGB")
    )
    assert (ours[0] - theirs).abs().mean() < 0.5 * 2 / 255


def test_other_input_sizes() -> None:
    crop, settings = crop_of("tf_efficientnet_lite0", "128x192")
    assert settings["size"] == [128, 192]
    assert crop(sample(photo(375, 500)), 0).image.shape == (128, 192, 3)


def train_crop(**options: object) -> TrainCrop:
    settings = {"min_crop": 0.35, "color": 0.2, "augment": "none", "fill": (128, 128, 128)} | options
    return TrainCrop((64, 96), "bicubic", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("augment", ["none", "randaugment", "autoaugment"])
def test_crops_depend_only_on_the_seed(augment: str) -> None:
    image = sample(photo(120, 150))
    one, other = train_crop(augment=augment, vflip=True), train_crop(augment=augment, vflip=True)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = [one(image, seed).image for seed in range(12)]
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is not changed
    torch.manual_seed(8)
    again = [other(image, seed).image for seed in reversed(range(12))][::-1]
    for a, b in zip(first, again, strict=True):
        assert a.shape == (64, 96, 3)
        np.testing.assert_array_equal(a, b)
    assert len({a.tobytes() for a in first}) == 12


def test_crops_respect_min_crop() -> None:
    """On a horizontal ramp, the range of values in the crop is its width."""
    ramp = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (200, 1, 3))
    crop = train_crop(min_crop=0.5, color=0.0)
    widths, flipped = [], 0
    for seed in range(60):
        row = crop(sample(ramp), seed).image[30, :, 0].astype(int)
        widths.append(abs(row[-1] - row[0]) / 199)
        flipped += bool(row[-1] < row[0])
    assert min(widths) > (0.5 * 3 / 4) ** 0.5 - 0.05  # area over half, width over height from 3/4
    assert max(widths) > 0.9
    assert 15 < flipped < 45


def test_seeded_restores_the_generator_after_an_error() -> None:
    before = torch.get_rng_state()

    def fail() -> None:
        with seeded(2**64 - 1):
            torch.rand(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(torch.get_rng_state(), before)
