"""Compare an exported file with the network that it was made from: outputs, results, scores and speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.batch import Batch, collate
from data.loader import eval_loader
from data.protocols import LabelledDataset
from data.scan import evenly_spaced
from engine.export.graphs import Graphs
from engine.export.trace import traced_size
from engine.runtimes.files import Network, images_at_once
from engine.task import Task

TOLERANCE = 1e-3  # of outputs in fp32, relative to the largest value
SCORE_TOLERANCE = 1e-3  # of the headline metric in fp32: 0.1 points
# The same for graphs that resize photographs: some pixels are rounded differently, see `engine.export.resampling`. A
# wrong graph loses more.
PHOTO_TOLERANCE = 1e-2
IMAGES = 16  # validation images whose outputs are compared
BATCHES = (1, 5)  # neither is `trace.TRACED_BATCH`
ROUNDS, WARM_UP = 40, 5  # of timing


def compare_outputs(graphs: Graphs, network: Network, batch: Batch) -> list[dict[str, Any]]:
    """The difference of raw outputs, at sizes and batch sizes that were not traced.

    Args:
        graphs: with the network in PyTorch.
        network: the exported network, without pre- and post-processing.
        batch: validation images as the network takes them.

    Returns one row for each combination: `size`, `batch`, and `difference`, the largest over all outputs, relative to
    the output's largest absolute value.
    """
    images = graphs.task.normalised(batch)
    rows = []
    for height, width in _sizes(graphs, network):
        scaled = images
        if (height, width) != tuple(images.shape[-2:]):
            scaled = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
        for count in BATCHES if network.description.dynamic != "none" else (1,):
            some = scaled[torch.arange(count) % len(scaled)]
            with torch.inference_mode():
                expected = graphs.task.network_outputs(some)
            found = network(some)
            difference = max(_difference(a, b) for a, b in zip(found, expected, strict=True))
            rows.append({"size": [height, width], "batch": count, "difference": difference})
    return rows


def compare_results(graphs: Graphs, network: Network, dataset: LabelledDataset) -> dict[str, Any]:
    """How many results differ for some validation images, see `Graphs.differing`. Sets no state of the task."""
    task = graphs.task
    differ = total = 0
    for index in evenly_spaced(len(dataset), IMAGES).tolist():
        with torch.inference_mode():
            task.runtime = None
            expected = _predict(task, dataset, index)
            task.runtime = network
            found = _predict(task, dataset, index)
            task.runtime = None
        more = graphs.differing(expected, found)
        differ, total = differ + more[0], total + more[1]
    return {"what": graphs.compared, "different": differ, "of": total, "share": differ / max(total, 1)}


def score(task: Task, network: Network | None, dataset: Any, batch_size: int, track: Any) -> dict[str, float]:
    """The task's metrics on a data set, by the exported network, or by the task's own.

    Args:
        task: on the CPU, with the evaluator for the data set.
        network: the exported network; None for the task's model.
        dataset: validation images.
        batch_size: number of images at once, where the file takes several.
        track: wraps the loader, for a progress bar.
    """
    task.runtime = network
    try:
        dataset = dataset.with_transform(task.input_transform())
        loader = eval_loader(dataset, images_at_once(network, batch_size), 0)
        return task.evaluate(track(loader))
    finally:
        task.runtime = None


def milliseconds(calls: Mapping[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, dict[str, float]]:
    """Median and 95th percentile of the time of each call, in ms. The calls take turns, so that load affects all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for turn in range(WARM_UP + rounds):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                if turn >= WARM_UP:
                    times[name].append(1000 * (time.perf_counter() - start))
    return {
        name: {f"p{share}": float(np.percentile(taken, share)) for share in (50, 95)} for name, taken in times.items()
    }


def some_images(dataset: LabelledDataset, count: int = IMAGES) -> Batch:
    """A batch of evenly spaced images, as the network takes them."""
    return collate([dataset[index] for index in evenly_spaced(len(dataset), count).tolist()])


def _predict(task: Task, dataset: LabelledDataset, index: int) -> Any:
    batch = collate([dataset.with_transform(task.input_transform())[index]])
    return task.predictions(task.normalised(batch), batch)


def _sizes(graphs: Graphs, network: Network) -> Iterator[tuple[int, int]]:
    """The size of the task, or three sizes that were not traced, the smallest among them."""
    if network.description.dynamic != "size":
        yield graphs.size
        return
    multiple = graphs.multiple
    height, width = traced_size(graphs.size, multiple)
    yield height + multiple, width
    yield height, width - multiple if width > 2 * multiple else width + multiple
    yield multiple, multiple


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value. Infinite for other shapes and for NaN."""
    if found.shape != expected.shape:
        return float("inf")
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-9))
    return difference if difference == difference else float("inf")
