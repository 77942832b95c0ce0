"""A first class layer for new classes, read off what the published one says about their images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from classification.model import Classifier
from classification.transforms import EvalCrop
from data.batch import collate, normalise
from data.formats.folders import ClassFolders

PER_CLASS, IN_ALL = 16, 256  # images looked at, at most, but at least one of each class
TOGETHER = 16  # images in each step


@torch.no_grad()
def imprint(model: Classifier, dataset: ClassFolders, crop: EvalCrop, settings: dict[str, Any]) -> None:
    """Replace the published class layer by one for the classes of `dataset`.

    Each class starts as the mixture of published classes that its images are taken for: with mean probabilities P
    (new, published), weights are P W and biases P b. Where the new classes are among the published ones, or near them,
    the network classifies well before its first step; a layer from zero has to learn again, from few images, what the
    published one was told by a million.

    Args:
        model: with published weights, class layer included.
        dataset: training images.
        crop: the evaluation's.
        settings: has `mean` and `std` of the normalisation.
    """
    classes = len(dataset.classes)
    count = max(1, min(PER_CLASS, IN_ALL // classes))
    shown = dataset.with_transform(crop)
    layer = model.head.classifier
    assert isinstance(layer, nn.Linear)
    device = layer.weight.device
    training = model.training
    model.eval()
    taken_for = torch.zeros(classes, layer.out_features, device=device)
    indices = [i for label in range(classes) for i in _spread(np.flatnonzero(dataset.labels == label), count)]
    for start in range(0, len(indices), TOGETHER):
        batch = collate([shown[i] for i in indices[start : start + TOGETHER]]).to(device)
        shares = model(normalise(batch.images, settings["mean"], settings["std"])).softmax(1)
        taken_for.index_add_(0, batch.labels[:, 0], shares)
    taken_for /= taken_for.sum(1, keepdim=True)
    new = nn.Linear(layer.in_features, classes, bias=layer.bias is not None, device=device)
    new.weight.copy_(taken_for @ layer.weight)
    if layer.bias is not None:
        new.bias.copy_(taken_for @ layer.bias)
    model.head.classifier = new
    model.train(training)


def _spread(members: np.ndarray, count: int) -> list[int]:
    """Up to `count` of the members, evenly spaced."""
    return members[np.linspace(0, len(members) - 1, min(count, len(members))).round().astype(int)].tolist()
