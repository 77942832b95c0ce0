"""Weight imprinting: initial weights of a class layer for new classes, from the published class layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from classification.model import Classifier
from classification.transforms import EvalCrop
from data.batch import collate
from data.channels import normalised
from data.class_dataset import ClassDataset
from data.scan import evenly_spaced

PER_CLASS, TOTAL = 16, 256  # largest numbers of images to use; each class has at least one
BATCH_SIZE = 16


@torch.no_grad()
def imprint(model: Classifier, dataset: ClassDataset, crop: EvalCrop, settings: dict[str, Any]) -> None:
    """Replace the published class layer by one for the classes of `dataset`.

    The weights of each new class are a mixture of the published weights W. With P (new, published), the mean
    probabilities that the network predicts for the images of each new class, weights are P W and biases are P b. If the
    new classes equal published classes or resemble them, the network classifies well before the first training step.
    A class layer that starts from zero has to learn this from few images.

    Args:
        model: a model with published weights, including the class layer.
        dataset: training images in original pixels.
        crop: the transform for evaluation.
        settings: the preprocessing of the run.
    """
    classes = len(dataset.classes)
    count = max(1, min(PER_CLASS, TOTAL // classes))
    cropped = dataset.with_transform(crop)
    layer = model.head.classifier
    assert isinstance(layer, nn.Linear)
    device = layer.weight.device
    training = model.training
    model.eval()
    mixture = torch.zeros(classes, layer.out_features, device=device)
    indices = [i for label in range(classes) for i in _spread(np.flatnonzero(dataset.labels == label), count)]
    for start in range(0, len(indices), BATCH_SIZE):
        batch = collate([cropped[i] for i in indices[start : start + BATCH_SIZE]]).to(device)
        probabilities = model(normalised(batch.images, settings)).softmax(1)
        mixture.index_add_(0, batch.labels[:, 0], probabilities)
    mixture /= mixture.sum(1, keepdim=True)
    new = nn.Linear(layer.in_features, classes, bias=layer.bias is not None, device=device)
    new.weight.copy_(mixture @ layer.weight)
    if layer.bias is not None:
        new.bias.copy_(mixture @ layer.bias)
    model.head.classifier = new
    model.train(training)


def _spread(members: np.ndarray, count: int) -> list[int]:
    """Up to `count` evenly spaced elements of `members`."""
    return members[evenly_spaced(len(members), count)].tolist()
