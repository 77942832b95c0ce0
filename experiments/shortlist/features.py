"""Features of a network for a data set, computed once, without training.

Images are read and resized as the task evaluates them. In classification, features are the inputs of the network's
class layer. In detection they are means of the maps over regions, and in segmentation their interpolated values at
pixels; the maps of all strides that the task uses are concatenated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, roi_align

from backbones.errors import BadInput
from data.batch import IGNORE, Batch
from data.loader import eval_loader
from data.scan import evenly_spaced
from engine.execution import device_of, execution_for
from experiments.shortlist.scores import Features
from experiments.tasks import task_spec

ROWS = 6000  # most images, regions or pixels of a data set
PIXELS = 24  # sampled in each image
JITTER = 0.3  # largest shift of a region from its box, as a fraction of the box's side, and log of its scale
TRIES, OVERLAP = 20, 0.3  # background regions overlap boxes by less than this IoU


@dataclass(frozen=True)
class Rows:
    """Features of one batch; fields as in `Features`, with images counted from the first of the batch."""

    values: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    offset_values: np.ndarray | None = None
    offsets: np.ndarray | None = None


@dataclass(frozen=True)
class Computed:
    """Features of a network.

    Attributes:
        features: the features.
        fingerprint: of all training images.
        weights: source of the network's weights, see `backbones.provenance.Provenance`, and `sha256` of their file.
    """

    features: Features
    fingerprint: str
    weights: str
    sha256: str


def compute(task_name: str, config: Any, images: int) -> Computed:
    """Features of the network that `config` names, for training images.

    Args:
        task_name: name of the task.
        config: settings of a training; backbone, weights, data, image size, device and precision count.
        images: most images, evenly spaced in the order of the data set.

    Raises UserError and BadInput as a training does, and BadInput for fewer than two classes and for features that are
    not finite.
    """
    spec = task_spec(task_name)
    config = config.with_files()
    task_class = spec.load_task()
    root = spec.data_root(config)
    train, val = task_class.read(config, root)
    task = task_class.build(config, root, train, val)
    scored: Any = task.datasets(train, val)[1]
    chosen = evenly_spaced(len(train), images)
    source = Chosen(train.with_transform(scored.transform), chosen)
    device = device_of(config.device)
    execution = execution_for(device.type, config.precision, "train")
    task.model.to(device).eval()
    compute_maps, collect = COLLECT[task_name]
    random = np.random.default_rng(config.seed)
    found: list[Rows] = []
    with torch.inference_mode(), execution.arithmetic(device.type):
        for batch in eval_loader(source, config.batch_size, config.data.workers):
            moved = batch.to(device)
            maps = [level.float() for level in compute_maps(task.model, task.normalised(moved))]
            found.append(collect(maps, moved, random))
    features = _joined(found, len(train.classes), task_name)
    if not all(np.isfinite(part).all() for part in (features.values, features.offset_values) if part is not None):
        raise BadInput(f"the features of {config.backbone} are not finite numbers")
    weights = task.info.provenance
    return Computed(features, train.fingerprint, weights["source"], weights.get("sha256") or "")


@dataclass(frozen=True)
class Chosen:
    """Some images of a data set."""

    dataset: Any
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[int(self.rows[index])]


def _joined(found: Sequence[Rows], classes: int, task_name: str) -> Features:
    starts = np.cumsum([0, *(int(rows.groups.max(initial=-1)) + 1 for rows in found)])[:-1]
    values, labels = (np.concatenate([getattr(rows, name) for rows in found]) for name in ("values", "labels"))
    groups = np.concatenate([rows.groups + start for rows, start in zip(found, starts, strict=True)])
    keep = evenly_spaced(len(values), ROWS)
    if found[0].offsets is not None:
        labels = np.where(labels < 0, classes, labels)
        classes += 1
    joined = Features(values[keep], labels[keep], groups[keep], classes)
    if len(np.unique(joined.labels)) < 2 or len(np.unique(joined.groups)) < 2:
        raise BadInput(f"{task_name}: features need at least two images and two classes")
    if found[0].offsets is None:
        return joined
    offsets, of_offsets = (
        np.concatenate([getattr(rows, name) for rows in found]) for name in ("offsets", "offset_values")
    )
    keep = evenly_spaced(len(offsets), ROWS)
    return replace(joined, offset_values=of_offsets[keep], offsets=offsets[keep])


def before_class_layer(model: Any, images: Tensor) -> list[Tensor]:
    """[(B, D)] the inputs of a classifier's last layer."""
    inputs: list[Tensor] = []
    hook = model.head.classifier.register_forward_pre_hook(lambda layer, arguments: inputs.append(arguments[0]))
    try:
        model(images)
    finally:
        hook.remove()
    return inputs


def backbone_maps(model: Any, images: Tensor) -> list[Tensor]:
    """The feature maps of a model's backbone."""
    return model.backbone(images)


def whole_images(maps: list[Tensor], batch: Batch, random: np.random.Generator) -> Rows:
    """One row for each image."""
    pooled = maps[0].flatten(1).cpu().numpy()
    return Rows(pooled, batch.labels[:, 0].cpu().numpy(), np.arange(len(pooled)))


def pixels(maps: list[Tensor], batch: Batch, random: np.random.Generator) -> Rows:
    """Rows for random pixels with a class: the values of all maps there, interpolated."""
    assert batch.masks is not None
    masks = batch.masks.cpu().numpy()
    height, width = masks.shape[1:]
    values, labels, groups = [], [], []
    for i, mask in enumerate(masks):
        ys, xs = np.nonzero(mask != IGNORE)
        if not len(ys):
            continue
        drawn = random.choice(len(ys), min(PIXELS, len(ys)), replace=False)
        y, x = ys[drawn], xs[drawn]
        # Coordinates in -1..1 from edge to edge; the value of a pixel is that of its centre.
        place = np.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], 1).astype(np.float32)
        grid = torch.from_numpy(place)[None, None].to(maps[0].device)
        sampled = [F.grid_sample(level[i : i + 1], grid, padding_mode="border", align_corners=False) for level in maps]
        values.append(torch.cat(sampled, 1)[0, :, 0].T.cpu().numpy())
        labels.append(mask[y, x].astype(np.int64))
        groups.append(np.full(len(y), i))
    if not values:
        channels = sum(level.shape[1] for level in maps)
        return Rows(np.zeros((0, channels), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))
    return Rows(np.concatenate(values), np.concatenate(labels), np.concatenate(groups))


def regions(maps: list[Tensor], batch: Batch, random: np.random.Generator) -> Rows:
    """Rows for the true boxes and as many background regions (label -1), and for shifted boxes with their offsets."""
    size = (batch.images.shape[2], batch.images.shape[3])
    boxes, labels, groups, shifted, offsets, of_shifted = [], [], [], [], [], []
    for i in range(len(batch.labels)):
        real = (batch.labels[i] >= 0).cpu()
        true = batch.boxes[i].cpu()[real].numpy().astype(np.float64)
        if not len(true):
            continue
        empty = background(true, size, random)
        moved, target = jittered(true, random)
        boxes += [true, empty]
        labels += [batch.labels[i].cpu()[real].numpy(), np.full(len(empty), -1)]
        groups.append(np.full(len(true) + len(empty), i))
        shifted.append(moved)
        offsets.append(target)
        of_shifted.append(np.full(len(moved), i))
    channels = sum(level.shape[1] for level in maps)
    if not boxes:
        none = np.zeros((0, channels), np.float32)
        return Rows(none, np.zeros(0, np.int64), np.zeros(0, np.int64), none, np.zeros((0, 4)))
    image = np.concatenate(groups)
    return Rows(
        _pooled(maps, np.concatenate(boxes), image, size[1]),
        np.concatenate(labels),
        image,
        _pooled(maps, np.concatenate(shifted), np.concatenate(of_shifted), size[1]),
        np.concatenate(offsets),
    )


def _pooled(maps: list[Tensor], boxes: np.ndarray, image: np.ndarray, width: int) -> np.ndarray:
    """(N, D) means of all maps within boxes, by RoIAlign."""
    rows = torch.from_numpy(np.concatenate([image[:, None], boxes], 1).astype(np.float32)).to(maps[0].device)
    parts = [roi_align(level, rows, 1, level.shape[3] / width, aligned=True).flatten(1) for level in maps]
    return torch.cat(parts, 1).cpu().numpy()


def background(boxes: np.ndarray, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """At most as many regions of the boxes' sizes as there are boxes, which hardly overlap any of them.

    Args:
        boxes: (N, 4) x1 y1 x2 y2 in pixels.
        size: height and width of the image in pixels.
        random: draws their places.
    """
    height, width = size
    found = []
    truth = torch.from_numpy(boxes)
    for sides in boxes[:, 2:] - boxes[:, :2]:
        for _ in range(TRIES):
            x, y = random.uniform(0, np.maximum(1e-6, np.array([width, height]) - sides))
            region = np.array([[x, y, x + sides[0], y + sides[1]]])
            if float(box_iou(torch.from_numpy(region), truth).max()) < OVERLAP:
                found.append(region)
                break
    return np.concatenate(found) if found else np.zeros((0, 4))


def jittered(boxes: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Shifted and scaled boxes (N, 4), and their offsets to the true ones (N, 4) as detectors regress them.

    Offsets are the shift of the centre as a fraction of the region's sides, and the logarithm of the ratio of sides.
    """
    sides, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
    moved = centres + sides * random.uniform(-JITTER, JITTER, centres.shape)
    scaled = sides * np.exp(random.uniform(-JITTER, JITTER, sides.shape))
    offsets = np.concatenate([(centres - moved) / scaled, np.log(sides / scaled)], 1)
    return np.concatenate([moved - scaled / 2, moved + scaled / 2], 1), offsets


Maps = Callable[[Any, Tensor], list[Tensor]]
Collect = Callable[[list[Tensor], Batch, np.random.Generator], Rows]
COLLECT: dict[str, tuple[Maps, Collect]] = {
    "classification": (before_class_layer, whole_images),
    "detection": (backbone_maps, regions),
    "segmentation": (backbone_maps, pixels),
}
