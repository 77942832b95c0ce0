"""Augmentation of the user's own: a pipeline that albumentations saved, followed by the geometry of evaluation.

A pipeline is read as data. Only albumentations' own transforms are built from it; nothing is imported or executed.
"""

from __future__ import annotations

import inspect
import logging
import random
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from typing import Any

import albumentations as A
import cv2
import numpy as np

from backbones.errors import BadInput
from data.batch import IGNORE, Sample
from data.channels import Channels
from data.columns import Kind
from data.compat import TARGETS, plain_name, serializable_class, set_random_state
from data.protocols import Transform
from data.transforms import MIN_SIDE

log = logging.getLogger(__name__)

NEAREST = (cv2.INTER_NEAREST, cv2.INTER_NEAREST_EXACT)
OWN_PARAMETERS = ("bbox_params", "keypoint_params", "additional_targets", "mask_interpolation", "seed")  # of Compose
# Masks pass through a pipeline with their values plus 1, so that IGNORE is 0: what a transform adds is mostly 0.
ENCODED_IGNORE = (IGNORE + 1) % 256
TRIAL_SIDE = 512  # px of the image that each transform is tried on


class Augmentation:
    """A pipeline of the user's own, followed by another transform. All random choices depend on the seed of the call.

    Pixels that the pipeline adds have no class in the mask. Boxes are clipped and dropped as in `data.transforms`.

    Args:
        pipeline: what `albumentations.to_dict` returns.
        then: brings the result to the size of the network's input.
        kind: kind of the labels that the pipeline changes with the image.
        channels: of images that are not 8-bit RGB.
        min_visibility: boxes of which a smaller fraction of the area remains after a transform are dropped.

    Raises BadInput for content that is not a pipeline, for transforms that do not exist, for arguments that they do not
    have, and for transforms that change the type of an image or do not change the labels with the image.
    """

    def __init__(
        self,
        pipeline: Mapping[str, Any],
        then: Transform,
        kind: Kind,
        channels: Channels | None = None,
        min_visibility: float = 0.2,
    ) -> None:
        self._kind, self._then, self._channels = kind, then, channels
        self._parameters = A.BboxParams(
            "pascal_voc",
            label_fields=["labels"],
            clip=True,
            filter_invalid_bboxes=True,
            min_visibility=min_visibility,
            min_width=MIN_SIDE,
            min_height=MIN_SIDE,
        )
        steps = _prepared(pipeline["transform"])
        for step in _leaves(steps):
            self._try(step)
        self._compose = self._composed(steps)
        self._random = random.Random()

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """The sample in network pixels. Raises BadInput if the pipeline fails for the image."""
        set_random_state(self._compose, seed, self._random)
        try:
            sample = self._run(self._compose, sample)
        except Exception as error:  # a transform may raise anything for an image that it cannot change
            height, width = sample.image.shape[:2]
            raise _bad(
                f"the pipeline of `augment` fails for image {sample.image_id} of {width} x {height} pixels: "
                f"{_first_line(error)}"
            ) from error
        return self._then(sample, seed)

    def _composed(self, steps: dict[str, Any]) -> A.Compose:
        return A.Compose([_built(steps)], bbox_params=self._parameters if self._kind == "boxes" else None)

    def _run(self, compose: A.Compose, sample: Sample) -> Sample:
        targets: dict[str, Any] = {"image": sample.image}
        # albumentations expects floating-point values in 0..1, and its transforms clip to that.
        limits = self._channels.limits if self._channels is not None and sample.image.dtype == np.float32 else None
        if limits is not None:
            targets["image"] = (sample.image - np.float32(limits[0])) / np.float32(limits[1] - limits[0])
        if self._kind == "boxes":
            targets |= {"bboxes": sample.boxes, "labels": sample.labels}
        elif self._kind == "masks" and sample.mask is not None:
            targets["mask"] = sample.mask.astype(np.uint8) + np.uint8(1)
        out = compose(**targets)
        changes: dict[str, Any] = {"image": np.ascontiguousarray(out["image"])}
        if limits is not None and out["image"].dtype == np.float32:
            changes["image"] = out["image"] * np.float32(limits[1] - limits[0]) + np.float32(limits[0])
        if "bboxes" in targets:
            changes["boxes"] = np.asarray(out["bboxes"], np.float32).reshape(-1, 4)
            changes["labels"] = np.asarray(out["labels"], np.int64)
        if "mask" in targets:
            changes["mask"] = np.ascontiguousarray(out["mask"]).astype(np.uint8) - np.uint8(1)
        return replace(sample, **changes)

    def _try(self, step: dict[str, Any]) -> None:
        """Apply one transform alone, certainly, to an image with labels. Raises BadInput if that does not work."""
        name = step["__class_fullname__"]
        compose = self._composed(step | {"p": 1.0})
        targets = TARGETS[self._kind]
        (transform,) = compose.transforms
        if isinstance(transform, A.DualTransform) and targets is not None and targets not in _targets_of(transform):
            raise _bad(f"{name} of the pipeline in `augment` changes the image, but not its {self._kind}: leave it out")
        set_random_state(compose, 0, random.Random())
        try:
            sample = self._run(compose, _trial(self._channels))
        except Exception as error:
            raise _bad(
                f"{name} of the pipeline in `augment` fails for an image of {TRIAL_SIDE} x {TRIAL_SIDE} pixels: "
                f"{_first_line(error)}"
            ) from error
        count, dtype = (3, "uint8") if self._channels is None else (self._channels.count, self._channels.dtype)
        if sample.image.dtype != dtype or sample.image.ndim != 3 or sample.image.shape[2] != count:
            image = "an 8-bit RGB image" if self._channels is None else f"an image of {count} channels of type {dtype}"
            raise _bad(
                f"{name} of the pipeline in `augment` does not return {image}: leave it out. Images are normalised for "
                "the network after the pipeline"
            )


def augmentation(
    setting: str | Mapping[str, Any],
    recipe: Transform,
    resize: Transform,
    kind: Kind,
    channels: Channels | None = None,
) -> Transform:
    """The training transform for the setting `data.augment`.

    Args:
        setting: "recipe", "none", or a pipeline that albumentations saved.
        recipe: the task's own augmentation.
        resize: brings images to the size of the network's input. Nothing in it is random.
        kind: kind of the labels.
        channels: of images that are not 8-bit RGB.

    Raises BadInput for a pipeline that cannot be used, see `Augmentation`.
    """
    if isinstance(setting, str):
        return recipe if setting == "recipe" else resize
    return Augmentation(setting, resize, kind, channels)


def _prepared(step: Any) -> dict[str, Any]:
    """A transform of a pipeline and those within it, with the arguments that keep masks valid.

    Raises BadInput for anything but albumentations' transforms.
    """
    name = step.get("__class_fullname__") if isinstance(step, dict) else None
    if not isinstance(name, str):
        raise _bad("`augment` is not a pipeline that albumentations saved: a transform has no `__class_fullname__`")
    kind = serializable_class(name)
    if kind is None:
        raise _bad(
            f"{name} in `augment` is not a transform of albumentations {metadata.version('albumentations')}: only "
            "transforms of albumentations itself are built from a file"
        )
    arguments = {key: value for key, value in step.items() if key not in OWN_PARAMETERS}
    arguments["__class_fullname__"] = plain_name(name)
    if arguments.pop("always_apply", False):  # of versions before 2
        arguments["p"] = 1.0
    if issubclass(kind, A.BaseCompose):
        children = step.get("transforms")
        if not isinstance(children, list) or not children:
            raise _bad(f"{name} in `augment` has no list of `transforms`")
        return arguments | {"transforms": [_prepared(child) for child in children]}
    known = inspect.signature(kind).parameters
    if arguments.get("fill_mask") is not None:
        arguments["fill_mask"] = ENCODED_IGNORE
    if "mask_interpolation" in known and arguments.get("mask_interpolation") not in NEAREST:
        arguments["mask_interpolation"] = cv2.INTER_NEAREST
    if "ignore_values" in known:  # of CropNonEmptyMaskIfExists, which looks for values other than 0 and these
        arguments["ignore_values"] = [value + 1 for value in (0, *(arguments.get("ignore_values") or ()))]
    return arguments


def _leaves(step: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The transforms that change an image, without those that combine others."""
    if "transforms" not in step:
        yield step
    for child in step.get("transforms", ()):
        yield from _leaves(child)


def _built(step: dict[str, Any]) -> Any:
    """The albumentations object. Raises BadInput for arguments that it does not have or that are out of range."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            built = A.from_dict({"transform": step})
        except Exception as error:
            raise _bad(f"{step['__class_fullname__']} in `augment` is not valid: {_first_line(error)}") from error
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        if "not valid for transform" in message:  # albumentations would leave these arguments out
            raise _bad(f"the pipeline in `augment` is not valid: {message}")
        log.warning("--data.augment: %s", message)
    return built


def _targets_of(transform: A.BasicTransform) -> tuple[Any, ...]:
    targets = transform._targets
    return targets if isinstance(targets, tuple) else (targets,)


def _trial(channels: Channels | None) -> Sample:
    """An image of noise with two boxes and three classes."""
    draw = np.random.default_rng(0)
    side = TRIAL_SIDE
    mask = np.full((side, side), IGNORE, np.uint8)
    mask[side // 8 : side // 2] = 0
    mask[side // 2 :, : side // 2], mask[side // 2 :, side // 2 :] = 1, 2
    image = draw.integers(0, 256, (side, side, 3), np.uint8)
    if channels is not None and channels.limits is not None:
        values = draw.uniform(*channels.limits, (side, side, channels.count))
        image = values.astype(channels.dtype)
    return Sample(
        image=image,
        image_id=0,
        size=(side, side),
        scale=(1.0, 1.0),
        boxes=np.array(
            [[side / 8, side / 8, side / 2, side / 2], [side / 2, side / 3, side - 9, side - 9]], np.float32
        ),
        labels=np.array([0, 1]),
        mask=mask,
    )


def _first_line(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"it needs {error}, which there is not"
    return " ".join(str(error).split())[:300] or type(error).__name__


def _bad(message: str) -> BadInput:
    return BadInput(message, settings=("data.augment",))
