"""`python -m tests.benchmarks.linear_probe ROOT NAME`: scikit-learn's logistic regression on a backbone's features.

An independent check of loaded weights and of `--protocol linear`: the backbone comes from `create_backbone`, everything
after its pooled features from scikit-learn, which `make extras` installs. Features are the mean over the pixels of the
coarsest map, each divided by its standard deviation over the training images. No augmentation.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from backbones import create_backbone
from backbones.base import Backbone
from classification.config import TrainConfig
from classification.task import ClassificationTask
from classification.transforms import EvalCrop, preprocessing
from data.batch import normalise
from data.class_dataset import ClassDataset

STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # inverse strengths of the L2 penalty, `C` of scikit-learn
BATCH = 32


def main(arguments: list[str] | None = None) -> None:
    """Print the accuracy for each strength, and the best one."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.linear_probe", description=__doc__)
    parser.add_argument("root", help="data set for classification")
    parser.add_argument("name", help="name of a backbone, or module:function")
    parser.add_argument("--pretrained", default="true", help="true for published weights, or a weight file")
    parser.add_argument("--image_size", type=int, default=224, help="side of the centre crop, px")
    options = parser.parse_args(arguments)
    if find_spec("sklearn") is None:
        parser.error("scikit-learn is not installed: make extras")
    pretrained = True if options.pretrained == "true" else options.pretrained
    backbone = create_backbone(options.name, pretrained, strides=(32,)).eval()
    config = TrainConfig(backbone=options.name)
    config.data.root = options.root
    splits = ClassificationTask.read(config, Path(options.root))
    settings = preprocessing(options.name, backbone.provenance, options.image_size)
    (x, y), (val_x, val_y) = (features(backbone, split, EvalCrop.of(settings)) for split in splits)
    scores = {strength: accuracy(x, y, val_x, val_y, strength) for strength in STRENGTHS}
    for strength, score in scores.items():
        print(f"C {strength:g}: top-1 {score:.3f}")
    print(f"{options.name} on {options.root}: best top-1 {max(scores.values()):.3f} of {len(val_y)} images")


@torch.inference_mode()
def features(backbone: Backbone, images: ClassDataset, crop: EvalCrop) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features (n, C) and classes (n,) of all images."""
    images = images.with_transform(crop)
    mean, std = backbone.provenance.mean, backbone.provenance.std
    found = []
    for start in range(0, len(images), BATCH):
        batch = [images[i].image for i in range(start, min(start + BATCH, len(images)))]
        pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)
        found.append(backbone(normalise(pixels, mean, std))[-1].mean((2, 3)).numpy())
    return np.concatenate(found), np.asarray(images.labels)


def accuracy(x: np.ndarray, y: np.ndarray, val_x: np.ndarray, val_y: np.ndarray, strength: float) -> float:
    """Top-1 on the validation features, a fraction, of a logistic regression on the training features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
    return float(model.fit(x, y).score(val_x, val_y))


if __name__ == "__main__":
    main()
