"""Draws the demo scenes and writes them in the three layouts of the data readers, so that the demo uses the readers.

A scene depends only on its split and its number, so that it is the same on every machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backbones.errors import BadInput, unknown_name
from data.atomic_directory import CACHE_VARIABLE, cache_folder, create_once
from data.demo.scenes import STUFF, THINGS, Scene, draw_portrait, draw_scene

VERSION = 6  # increase it whenever the drawing changes: older caches are then no longer used
LAYOUTS = ("classification", "detection", "segmentation")
SPLITS = ("train", "val")
MARKER = "complete.json"
# The ids have gaps as in COCO, so that a reader that uses category ids as class indices fails.
CATEGORY_IDS = tuple(number for number in range(1, len(THINGS) + 3) if number not in (4, 9))


@dataclasses.dataclass(frozen=True)
class Plan:
    """Settings of the demo data. They and `VERSION` determine the name of the cache folder."""

    scenes: tuple[int, int] = (480, 120)
    """Number of scenes for training and validation, used by detection and segmentation."""
    portraits: tuple[int, int] = (60, 20)
    """Number of classification images per class for training and validation."""
    scene_sizes: tuple[tuple[int, int], ...] = ((192, 224), (192, 224), (224, 192), (208, 208))
    """(height, width) of scenes in pixels; one is drawn at random for each scene."""
    portrait_sides: tuple[int, int] = (128, 160)
    """Range of height and width of classification images in pixels."""
    objects: tuple[int, int] = (3, 10)
    """Range of the number of objects in a scene, without crowds."""
    empty_every: int = 40
    """One of this many scenes has no objects."""
    crowd_every: int = 15
    """One of this many scenes has a crowd, annotated as one region with `iscrowd`."""
    jpeg_quality: int = 90

    def folder(self) -> str:
        """Name of the cache folder of this plan."""
        settings = json.dumps([dataclasses.asdict(self), STUFF, THINGS, CATEGORY_IDS])
        return f"demo-v{VERSION}-{hashlib.sha256(settings.encode()).hexdigest()[:10]}"

    def images(self) -> int:
        """Number of images."""
        return sum(self.scenes) + sum(self.portraits) * len(THINGS)


def demo_root(task: str, plan: Plan | None = None) -> Path:
    """Root of the demo data for `task`: classification, detection or segmentation. Draws the data if they do not exist.

    Any number of processes may call this at the same time: one draws, the others wait. Raises `UserError` for another
    task and `BadInput` if the cache cannot be written.
    """
    if task not in LAYOUTS:
        raise unknown_name("task", task, LAYOUTS)
    plan, cache = plan or Plan(), cache_folder()
    root = cache / plan.folder()

    def draw(folder: Path) -> None:
        with _progress(plan.images()) as advance:
            write_demo(folder, plan, advance)

    try:
        create_once(root, MARKER, draw, "drawing the demo scenes")
    except OSError as error:
        raise BadInput(
            f"cannot write the demo scenes to {cache}: {error.strerror or error}. They need about 50 MB there; "
            f"set {CACHE_VARIABLE} to a writable folder with room."
        ) from error
    return root / task


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        job = bar.add_task("drawing the demo scenes (once)", total=total)
        yield lambda: bar.advance(job)


# ---- the three layouts -----------------------------------------------------------------------------------------------


def write_demo(root: Path, plan: Plan, advance: Callable[[], None] = lambda: None) -> None:
    """Write the three data sets into the existing folder `root`, and last the file `complete.json`.

    The bytes depend only on `plan`, not on the number of threads. `advance` is called after each image. Raises
    `OSError` if the folder cannot be written.
    """
    detection, segmentation = root / "detection", root / "segmentation"
    for name in SPLITS:
        for folder in (detection, segmentation / "images", segmentation / "annotations"):
            (folder / name).mkdir(parents=True)
        for thing in THINGS:
            (root / "classification" / name / thing).mkdir(parents=True)
    (detection / "annotations").mkdir()
    (segmentation / "classes.txt").write_text("\n".join(STUFF + THINGS) + "\n")

    # Threads, since OpenCV and NumPy release the interpreter's lock while they draw. Worker processes would outlive a
    # killed parent, and would still write or hold the lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for split in range(len(SPLITS)):
            portraits = list(itertools.product(range(len(THINGS)), range(plan.portraits[split])))
            for _ in pool.map(functools.partial(_write_portrait, root, plan, split), portraits):
                advance()
            truths = []
            for truth in pool.map(functools.partial(_write_scene, root, plan, split), range(plan.scenes[split])):
                truths.append(truth)
                advance()
            _write_coco(detection / "annotations" / f"instances_{SPLITS[split]}.json", split, truths)

    with (root / MARKER).open("w") as marker:
        json.dump({"version": VERSION, "plan": dataclasses.asdict(plan)}, marker, indent=1)
        marker.flush()
        os.fsync(marker.fileno())


def scene(plan: Plan, split: int, index: int) -> Scene:
    """Scene `index` of a split (0 for train, 1 for val)."""
    rng = np.random.default_rng([VERSION, split, 0, index])
    height, width = plan.scene_sizes[rng.integers(len(plan.scene_sizes))]
    if index % plan.empty_every == plan.empty_every - 1:
        return draw_scene(rng, height, width, objects=0)
    fewest, most = plan.objects
    return draw_scene(rng, height, width, int(rng.integers(fewest, most + 1)), crowd=index % plan.crowd_every == 0)


def _write_scene(root: Path, plan: Plan, split: int, index: int) -> Scene:
    drawn, name = scene(plan, split, index), f"{SPLITS[split]}_{index:05d}"
    photo = root / "detection" / SPLITS[split] / f"{name}.jpg"
    photo.write_bytes(_jpeg(drawn.image, plan.jpeg_quality))
    copy = root / "segmentation" / "images" / SPLITS[split] / photo.name
    try:
        os.link(photo, copy)
    except OSError:  # the file system has no hard links
        shutil.copyfile(photo, copy)
    mask = cv2.imencode(".png", drawn.classes)[1].tobytes()
    (root / "segmentation" / "annotations" / SPLITS[split] / f"{name}.png").write_bytes(mask)
    return dataclasses.replace(drawn, image=drawn.image[:0])  # the pixels are on disk; free the memory


def _write_portrait(root: Path, plan: Plan, split: int, thing_and_index: tuple[int, int]) -> None:
    thing, index = thing_and_index
    rng = np.random.default_rng([VERSION, split, 1 + thing, index])
    low, high = plan.portrait_sides
    height, width = rng.integers(low, high + 1, 2).tolist()
    drawn = draw_portrait(rng, height, width, thing)
    path = root / "classification" / SPLITS[split] / THINGS[thing] / f"{index:04d}.jpg"
    path.write_bytes(_jpeg(drawn.image, plan.jpeg_quality))


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _write_coco(path: Path, split: int, scenes: list[Scene]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, drawn in enumerate(scenes):
        height, width = drawn.classes.shape
        number = split * 100_000 + index + 1
        file = f"{SPLITS[split]}_{index:05d}.jpg"
        images.append({"id": number, "file_name": file, "height": height, "width": width})
        for instance in drawn.instances:
            mask = drawn.keys == instance.key
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": CATEGORY_IDS[instance.thing],
                    "bbox": list(instance.box),
                    "area": instance.area,
                    "iscrowd": int(instance.crowd),
                    "segmentation": _run_lengths(mask) if instance.crowd else _polygons(mask, instance.box),
                }
            )
    categories = [{"id": i, "name": name} for i, name in zip(CATEGORY_IDS, THINGS, strict=True)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def _run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """COCO's uncompressed run-length encoding of a mask (H, W): runs along the columns, starting with background."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    starts = np.flatnonzero(flat[1:] != flat[:-1])
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], starts, [mask.size]])).tolist()}


def _polygons(mask: np.ndarray, box: tuple[int, int, int, int]) -> list[list[float]]:
    """Outlines x0, y0, x1, y1, ... of a mask (H, W) in pixels; 0 is the outer edge of the first pixel."""
    x, y, width, height = box
    # OpenCV's contours run through pixel centres and lose half a pixel on each side; enlarged 4 times, an eighth.
    patch = cv2.resize(
        mask[y : y + height, x : x + width].astype(np.uint8), None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST
    )
    outlines, _ = cv2.findContours(patch, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [((line.reshape(-1, 2) + 0.5) / 4 + (x, y)).ravel().tolist() for line in outlines if len(line) >= 3]
