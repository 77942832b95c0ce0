"""`python -m tests.benchmarks.patch_sizes ROOT`: three ways to a map of stride 16 from a patch of 14 px.

No weights of a transformer come with this package. A small one with a patch of 14 px is trained to predict the map of
EfficientNet-Lite0 at stride 16, whose ImageNet weights do. Then the ways are compared on other images, without any
training: how much of the variance of that map each predicts, and how similar its features are to those of the scaled
image. ROOT has images in `train/CLASS` and `validation/CLASS`. Takes about two minutes on one idle core.
"""

from __future__ import annotations

import argparse
import copy
import math
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from backbones import create_backbone
from backbones.plain import last_map

SIDE, IMAGE, NATIVE = 160, 128, 112  # px: of loaded images, of test images, and of training images: 8 x 8 patches
STEPS, BATCH, RATE = 500, 24, 2e-3


def images_of(folder: Path) -> Tensor:
    """(N, 3, SIDE, SIDE) uint8, the centre of each image."""
    found = []
    for file in sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png")):
        image = Image.open(file).convert("RGB")
        scale = SIDE / min(image.size)
        image = image.resize([max(SIDE, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
        left, top = ((side - SIDE) // 2 for side in image.size)
        found.append(np.asarray(image.crop((left, top, left + SIDE, top + SIDE))))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)


def normalised(images: Tensor) -> Tensor:
    """uint8 -> floats in -1 to 1, which both networks take."""
    return images / 127.5 - 1


def resized(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, C, side, side)."""
    return F.interpolate(x, (side, side), mode="bilinear", antialias=True)


def train(network: nn.Module, head: nn.Module, teacher: nn.Module, images: Tensor, mean: Tensor, std: Tensor) -> None:
    """Train network and head on random crops of random scale, in place."""
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], RATE, weight_decay=0.02)
    for step in range(STEPS):
        side = int(torch.randint(96, SIDE + 1, ()))
        top, left = (int(torch.randint(0, SIDE - side + 1, ())) for _ in range(2))
        crops = images[torch.randint(0, len(images), (BATCH,)), :, top : top + side, left : left + side]
        x = resized(normalised(crops), NATIVE)
        with torch.no_grad():
            target = (teacher(resized(x, IMAGE))[0] - mean) / std
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 30) * (0.5 + 0.5 * math.cos(math.pi * step / STEPS))
        loss = F.mse_loss(head(network.norm(last_map(network, x).movedim(1, 3)).movedim(3, 1)), target)  # type: ignore[operator]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def ways(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The features, (B, C, 8, 8), of images of 128 px by each way to stride 16."""
    kernel = copy.deepcopy(network)
    kernel.set_input_size(img_size=(IMAGE, IMAGE), patch_size=(16, 16))  # type: ignore[operator]
    padded = F.pad(images, (0, -IMAGE % 14, 0, -IMAGE % 14))
    resampled = F.interpolate(
        last_map(network, padded), scale_factor=14 / 16, mode="bilinear", recompute_scale_factor=False
    )
    return {
        "images scaled": last_map(network, resized(images, NATIVE)),
        "map resampled": resampled[..., : IMAGE // 16, : IMAGE // 16],
        "kernel resampled": last_map(kernel, images),
    }


def main() -> None:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.patch_sizes", description=__doc__)
    parser.add_argument("root", type=Path)
    root = parser.parse_args().root
    torch.manual_seed(0)
    teacher = create_backbone("tf_efficientnet_lite0", pretrained=True, strides=(16,)).eval().requires_grad_(False)
    network = timm.create_model(
        "vit_small_patch14_dinov2", img_size=NATIVE, depth=4, embed_dim=128, num_heads=4, num_classes=0,
        dynamic_img_size=True, init_values=None,
    )  # fmt: skip
    head = nn.Conv2d(128, teacher.levels[0].channels, 1)
    images, others = images_of(root / "train"), images_of(root / "validation")
    edge = (SIDE - IMAGE) // 2
    maps = teacher(normalised(images[:64, :, edge:-edge, edge:-edge]))[0]
    mean, std = maps.mean((0, 2, 3), keepdim=True), maps.std((0, 2, 3), keepdim=True)
    train(network, head, teacher, images, mean, std)
    network.eval()
    torch.set_grad_enabled(False)
    errors: dict[str, list[float]] = {}
    similar: dict[str, list[float]] = {}
    for part in others.split(32):
        x = normalised(part[..., edge:-edge, edge:-edge])
        target = (teacher(x)[0] - mean) / std
        found = {way: network.norm(features.movedim(1, 3)).movedim(3, 1) for way, features in ways(network, x).items()}
        for way, features in found.items():
            errors.setdefault(way, []).append(F.mse_loss(head(features), target).item())
            cosine = F.cosine_similarity(features, found["images scaled"], dim=1)
            similar.setdefault(way, []).append(cosine.mean().item())
    for way in errors:
        print(f"{way}: explains {100 * (1 - np.mean(errors[way])):.1f}%, cosine {np.mean(similar[way]):.4f}")


if __name__ == "__main__":
    main()
