"""Simulated results of trainings whose true difference is known: top-1, mIoU and AP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.special import expit, ndtri

from engine.image_results import ImageResults

METRICS = ("top1", "mIoU", "AP")
PRESENT = (0.95, 0.7, 0.5, 0.3)  # probability that an image contains each class of the simulated class maps
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Side:
    """A backbone in the simulation; all standard deviations are in logits.

    Attributes:
        skill: mean of the probability to be right, as a logit.
        between_seeds: standard deviation of the skill between trainings.
        between_images: standard deviation of the images' difficulty, the same for both sides.
        own_images: standard deviation of how differently this backbone finds images difficult.
    """

    skill: float
    between_seeds: float
    between_images: float = 1.0
    own_images: float = 0.5


def simulate(
    metric: str, sides: tuple[Side, Side], seeds: tuple[int, int], images: int, random: np.random.Generator
) -> tuple[list[ImageResults], list[ImageResults]]:
    """Results by image of some trainings of two backbones, on the same images."""
    shared = _MAKERS[metric](images, random)
    difficulty = random.normal(0, 1, images)
    found = []
    for side, count in zip(sides, seeds, strict=True):
        own = random.normal(0, side.own_images, images)
        skills = random.normal(side.skill, side.between_seeds, count)
        found.append([shared(skill + side.between_images * difficulty + own, random) for skill in skills])
    return found[0], found[1]


@cache
def true_score(metric: str, side: Side, images: int = 4000, trainings: int = 400) -> float:
    """The expected score of a training of a backbone, over trainings and images."""
    random = np.random.default_rng(12345)
    once = np.ones((1, images), np.int64)
    total = 0.0
    for quantile in (np.arange(trainings) + 0.5) / trainings:
        training = replace(side, skill=side.skill + side.between_seeds * ndtri(quantile), between_seeds=0.0)
        (run,), _ = simulate(metric, (training, training), (1, 0), images, random)
        total += float(run.score(once)[0])
    return total / trainings


def _classified(images: int, random: np.random.Generator) -> Callable[[np.ndarray, np.random.Generator], ImageResults]:
    keys = tuple(map(str, range(images)))

    def result(logits: np.ndarray, random: np.random.Generator) -> ImageResults:
        right = (random.random(images) < expit(logits)).astype(np.float64)
        return ImageResults(keys, "top1", lambda counts: counts @ right / counts.sum(1))

    return result


def _segmented(images: int, random: np.random.Generator) -> Callable[[np.ndarray, np.random.Generator], ImageResults]:
    keys = tuple(map(str, range(images)))
    present = random.random((images, len(PRESENT))) < PRESENT
    truth = present * random.lognormal(6, 1, present.shape)

    def result(logits: np.ndarray, random: np.random.Generator) -> ImageResults:
        shares = expit(logits[:, None] + random.normal(0, 1, truth.shape))
        right = truth * shares
        wrong = truth.sum(1, keepdims=True) * (1 - shares) * 0.1
        predicted = right + wrong

        def score(counts: np.ndarray) -> np.ndarray:
            t, p, r = counts @ truth, counts @ predicted, counts @ right
            with np.errstate(invalid="ignore", divide="ignore"):
                iou = np.where(t > 0, r / (t + p - r), np.nan)
            return np.nanmean(iou, axis=1)

        return ImageResults(keys, "mIoU", score)

    return result


def _detected(images: int, random: np.random.Generator) -> Callable[[np.ndarray, np.random.Generator], ImageResults]:
    keys = tuple(map(str, range(images)))
    objects = 1 + random.poisson(2, images)
    of_object = np.repeat(np.arange(images), objects)

    def result(logits: np.ndarray, random: np.random.Generator) -> ImageResults:
        own = logits[of_object] + random.normal(0, 1, len(of_object))
        found = of_object[random.random(len(of_object)) < expit(own)]
        false = np.repeat(np.arange(images), random.poisson(1.5, images))
        image = np.concatenate([found, false])
        scores = np.concatenate([random.normal(1.5, 1, len(found)), random.normal(0, 1, len(false))])
        order = np.argsort(-scores)
        image, correct = image[order], (np.arange(len(image)) < len(found))[order]

        def score(counts: np.ndarray) -> np.ndarray:
            total = counts @ objects
            values = np.empty(len(counts))
            for row, weights in enumerate(counts[:, image]):
                true = np.cumsum(weights * correct)
                precision = np.divide(true, np.cumsum(weights), out=np.zeros(len(true)), where=np.cumsum(weights) > 0)
                envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
                values[row] = envelope[np.searchsorted(true / total[row], RECALLS)].mean()
            return values

        return ImageResults(keys, "AP", score)

    return result


_MAKERS = {"top1": _classified, "mIoU": _segmented, "AP": _detected}
