"""Scores of features: how well a network's features, without training it, determine the labels of a data set.

All take features as they are. Higher is better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

NEIGHBOURS = 5
RIDGE = 1.0  # penalty for standardised features
LOGISTIC = 1.0  # the same
FOLDS = 5
RATIOS = np.linspace(-32, 32, 129)  # log of alpha / beta, relative to the features' largest variance
TINY = 1e-300  # cost of a target that is 0 everywhere
SMALLEST = 1e-10  # singular values below this fraction of the largest count as 0


def logme(features: np.ndarray, targets: np.ndarray) -> float:
    """The logarithm of the maximum evidence per sample, averaged over targets (You et al., arXiv:2102.11005).

    The evidence is that of y = F w + noise, with w ~ N(0, 1 / alpha) and noise ~ N(0, 1 / beta), at the alpha and beta
    that maximise it.

    Args:
        features: (n, D).
        targets: (n, K) real values; one column of 0 and 1 per class for classification.
    """
    features, targets = features.astype(np.float64), targets.astype(np.float64)
    u, singular, _ = np.linalg.svd(features, full_matrices=False)
    return float(np.mean([_evidence(u, singular**2, y) for y in targets.T]))


def _evidence(u: np.ndarray, squares: np.ndarray, y: np.ndarray) -> float:
    """For one target, from left singular vectors and squared singular values of the features.

    For a ratio alpha / beta, the best beta has a closed form, so that one unknown is left, which is searched. The
    paper's fixed-point iteration divides by 0 or ends in a lower maximum where features fit any target: with fewer
    samples than dimensions.
    """
    n = len(y)
    projected = (u.T @ y) ** 2
    outside = max(float(y @ y - projected.sum()), 0.0)  # squared length of what no weights can explain

    def negative(log_ratio: float | np.ndarray) -> np.ndarray:
        ratio = np.exp(log_ratio)[..., None]
        cost = outside + (projected * ratio / (squares + ratio)).sum(-1)
        explained = np.log1p(squares / ratio).sum(-1)
        return (explained + n * (1 + np.log(2 * np.pi * np.maximum(cost, TINY) / n))) / (2 * n)

    ratios = np.log(squares.max(initial=0.0) or 1.0) + RATIOS
    values = negative(ratios)
    best = int(values.argmin())
    around = ratios[max(best - 1, 0)], ratios[min(best + 1, len(ratios) - 1)]
    refined = minimize_scalar(negative, bounds=around, method="bounded", options={"xatol": 1e-6})
    return -float(min(refined.fun, values[best]))


def h_score(features: np.ndarray, labels: np.ndarray) -> float:
    """tr(cov(f)^+ cov(E[f | y])) of Bao et al., An information-theoretic approach to transferability, ICIP 2019.

    It is the share of the features' directions that classes explain, summed over directions, at most K - 1. With fewer
    samples than dimensions, any labels reach K - 1.

    Args:
        features: (n, D).
        labels: (n,) class indices.
    """
    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    u, singular, _ = np.linalg.svd(centred, full_matrices=False)
    directions = u[:, singular > SMALLEST * singular.max(initial=0.0)]
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(classes), directions.shape[1]))
    np.add.at(sums, index, directions)
    return float((sums**2 / counts[:, None]).sum())


Predictor = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


def nearest(train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """Class of each test sample: the most frequent one among the nearest training samples by cosine similarity.

    Of equally frequent ones, the lowest index counts.
    """
    unit_train, unit_test = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (train, test))
    near = np.argsort(-(unit_test @ unit_train.T), axis=1, kind="stable")[:, :NEIGHBOURS]
    votes = np.zeros((len(test), classes), np.int64)
    np.add.at(votes, (np.arange(len(test))[:, None], labels[near]), 1)
    return votes.argmax(1)


def ridge(train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """Class of each test sample by ridge regression of one column of 0 and 1 per class, with unpenalised intercepts."""
    return ridge_outputs(train, np.eye(classes)[labels], test).argmax(1)


def ridge_outputs(train: np.ndarray, targets: np.ndarray, test: np.ndarray, penalty: float = RIDGE) -> np.ndarray:
    """(m, K) outputs of ridge regression for the test samples."""
    centre, middle = train.mean(0), targets.mean(0)
    x, y = train - centre, targets - middle
    if x.shape[0] < x.shape[1]:
        weights = x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), y)
    else:
        weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
    return (test - centre) @ weights + middle


def logistic(train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """Class of each test sample by multinomial logistic regression with an L2 penalty on the weights."""
    dimensions = train.shape[1]
    truth = np.eye(classes)[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = flat[:-classes].reshape(dimensions, classes), flat[-classes:]
        logs = log_softmax(train @ weights + bias, axis=1)
        gap = np.exp(logs) - truth
        value = -(logs * truth).sum() + LOGISTIC / 2 * (weights**2).sum()
        return float(value), np.concatenate([(train.T @ gap + LOGISTIC * weights).ravel(), gap.sum(0)])

    start = np.zeros((dimensions + 1) * classes)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    return (test @ found[:-classes].reshape(dimensions, classes) + found[-classes:]).argmax(1)


PROBES: dict[str, Predictor] = {"k-NN": nearest, "ridge": ridge, "logistic": logistic}


@dataclass(frozen=True)
class Features:
    """Features of one network on the training images of a data set.

    Attributes:
        values: (n, D) one row for each image, region or pixel.
        labels: (n,) class indices; in detection the last class is the background.
        groups: (n,) index of the image of each row. Rows of one image are never in two folds.
        classes: number of classes K.
        offsets: (m, 4) targets of box regression, and `offset_values` (m, D) the features for them; None without boxes.
    """

    values: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    classes: int
    offset_values: np.ndarray | None = None
    offsets: np.ndarray | None = None


def all_scores(features: Features, is_dense: bool, seed: int = 0) -> dict[str, float]:
    """Every score of a network: name -> value.

    k-NN, ridge and logistic are accuracies on images that were not fitted, in five folds: of all rows, or where a row
    is a region or a pixel (`is_dense`), the mean over classes. LogME and H-score use all rows.
    """
    present = np.unique(features.labels)
    one_hot = (features.labels[:, None] == present).astype(np.float64)
    found = {name: _folded(features, probe, is_dense, seed) for name, probe in PROBES.items()}
    found["LogME"] = logme(features.values, one_hot)
    found["H-score"] = h_score(features.values, features.labels)
    if features.offsets is not None and features.offset_values is not None:
        found["TLogME"] = (found["LogME"] + logme(features.offset_values, features.offsets)) / 2
    return found


def _folded(features: Features, probe: Predictor, is_dense: bool, seed: int) -> float:
    images = np.unique(features.groups)
    fold_of_image = np.random.default_rng(seed).permutation(len(images)) % min(FOLDS, len(images))
    fold = fold_of_image[np.searchsorted(images, features.groups)]
    predicted = np.full(len(fold), -1)
    for number in np.unique(fold):
        test = fold == number
        x = features.values[~test].astype(np.float64)
        mean, std = x.mean(0), x.std(0)
        std[std < 1e-8] = 1.0
        unseen = (features.values[test] - mean) / std
        predicted[test] = probe((x - mean) / std, features.labels[~test], unseen, features.classes)
    hits = predicted == features.labels
    if not is_dense:
        return float(hits.mean())
    return float(np.mean([hits[features.labels == label].mean() for label in np.unique(features.labels)]))
