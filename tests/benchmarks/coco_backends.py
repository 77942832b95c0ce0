"""Compares implementations of COCO's scores with pycocotools: equal numbers on odd files, time and memory.

Run as `python -m tests.benchmarks.coco_backends` where pycocotools and the packages to try are installed; absent ones
are left out. It prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import importlib.util
import io
import json
import resource
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np

from tests.benchmarks.coco_files import KINDS, Case

TOLERANCE = 1e-12
IMAGES, BOXES, CLASSES = 5000, 100, 80
# Package -> modules of `COCO` and of the class of the evaluation.
BACKENDS = {
    "pycocotools": ("pycocotools.coco.COCO", "pycocotools.cocoeval.COCOeval"),
    "faster-coco-eval": ("faster_coco_eval.COCO", "faster_coco_eval.COCOeval_faster"),
    "hotcoco": ("hotcoco.COCO", "hotcoco.COCOeval"),
    "vernier": ("pycocotools.coco.COCO", "vernier.COCOeval"),
}


def scores(backend: str, case: Case) -> dict[str, np.ndarray]:
    """The twelve numbers, where there are three limits, and the arrays of precision and recall."""
    coco_class, evaluation_class = (_named(name) for name in BACKENDS[backend])
    case = copy.deepcopy(case)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _loaded(coco_class, case.truth)
        if case.edit:
            case.edit(truth.dataset)
        if case.indexed:
            rows = [
                {"area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0, "id": i} | row
                for i, row in enumerate(case.found, start=1)
            ]
            found = _loaded(coco_class, case.truth | {"annotations": rows})
        else:
            found = truth.loadRes(case.found)
        evaluation = evaluation_class(truth, found, "segm" if case.segm else "bbox")
        evaluation.params.maxDets = list(case.limits)
        evaluation.evaluate()
        evaluation.accumulate()
        result = {name: np.asarray(evaluation.eval[name]) for name in ("precision", "recall")}
        if case.summarized and len(case.limits) == 3:
            evaluation.summarize()
            result["the twelve numbers"] = np.asarray(evaluation.stats)[:12]
    return result


def outcome(backend: str, case: Case) -> dict[str, np.ndarray] | str:
    """The scores, or the name of the exception."""
    try:
        return scores(backend, case)
    except BaseException as error:  # panics of Rust are no `Exception`
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"


def difference(backend: str, case: Case) -> tuple[str, str] | None:
    """How the outcome differs from that of pycocotools, in a word and in detail; None if it does not.

    The word is `numbers`, `error` (pycocotools has none) or `no error` (where pycocotools has one).
    """
    expected, got = outcome("pycocotools", case), outcome(backend, case)
    if isinstance(expected, str):
        return None if isinstance(got, str) else ("no error", f"pycocotools raises {expected}")
    if isinstance(got, str):
        return "error", got
    for name, values in expected.items():
        if values.shape != got[name].shape:
            return "numbers", f"{name} of shape {got[name].shape} instead of {values.shape}"
        if not np.allclose(got[name], values, rtol=0, atol=TOLERANCE, equal_nan=True):
            at = np.unravel_index(np.nanargmax(np.abs(got[name] - values)), values.shape)
            return "numbers", f"{name}: {got[name][at]:.6g} instead of {values[at]:.6g}"
    return None


def _manner(found: tuple[str, str] | None) -> tuple[str, ...]:
    """The word, and for errors the exception."""
    word, detail = found or ("", "")
    return (word,) if word in ("", "numbers") else (word, detail.partition(":")[0])


def smallest(backend: str, case: Case) -> Case:
    """Remove images, objects and detections as long as the outcome differs in the same manner."""
    manner = _manner(difference(backend, case))
    case = copy.deepcopy(case)
    shrinking = True
    while shrinking:
        shrinking = False
        for rows in (case.found, case.truth["annotations"], case.truth["images"], case.truth["categories"]):
            for index in reversed(range(len(rows))):
                row = rows.pop(index)
                if _manner(difference(backend, case)) == manner:
                    shrinking = True
                else:
                    rows.insert(index, row)
    return case


def compare(backend: str, kind: str, files: int) -> tuple[Counter[str], list[tuple[str, str, Case]]]:
    """Random files of a kind that differ, by how, and the smallest example of each manner, with its detail."""
    words: Counter[str] = Counter()
    examples = []
    for number in range(files):
        case = KINDS[kind](np.random.default_rng([zlib.crc32(kind.encode()), number]))
        found = difference(backend, case)
        if found:
            words[found[0]] += 1
            if words[found[0]] == 1:
                example = smallest(backend, case)
                examples.append((found[0], (difference(backend, example) or found)[1], example))
    return words, examples


def large_case() -> tuple[dict[str, Any], np.ndarray]:
    """5,000 images with seven objects and 100 detections each, of 80 classes: truth, and (N, 7) for `loadRes`."""
    random = np.random.default_rng(0)
    count = IMAGES * 7
    image = np.repeat(np.arange(1, IMAGES + 1), 7)
    boxes = np.column_stack([random.uniform(0, 400, (count, 2)), np.exp(random.uniform(2.3, 5.6, (count, 2)))])
    label = random.integers(1, CLASSES + 1, count)
    columns = zip(image.tolist(), label.tolist(), boxes.tolist(), strict=True)
    truth = {
        "images": [{"id": i, "width": 640, "height": 640} for i in range(1, IMAGES + 1)],
        "categories": [{"id": i, "name": str(i)} for i in range(1, CLASSES + 1)],
        "annotations": [
            {"id": i, "image_id": im, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": i % 99 < 1}
            for i, (im, c, box) in enumerate(columns, start=1)
        ],
    }  # fmt: skip
    near = random.integers(0, count, IMAGES * BOXES)
    found = boxes[near] * np.exp(random.normal(0, 0.15, (len(near), 4)))
    of = np.where(random.random(len(near)) < 0.7, label[near], random.integers(1, CLASSES + 1, len(near)))
    return truth, np.column_stack([image[near], found, random.random(len(near)), of])


def measure(backend: str) -> None:
    """Print seconds (the best of two) and the peak of memory in MB above that of the loaded data."""
    truth, rows = large_case()
    found = [
        {"image_id": int(row[0]), "category_id": int(row[6]), "bbox": row[1:5], "score": row[5]}
        for row in rows.tolist()
    ]
    scores(backend, Case({"images": [], "categories": [], "annotations": []}, [], indexed=True))  # imports
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    coco_class, evaluation_class = (_named(name) for name in BACKENDS[backend])
    seconds = []
    for _ in range(2):
        start = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            loaded = _loaded(coco_class, truth)
            evaluation = evaluation_class(loaded, loaded.loadRes(found), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([min(wall for wall, _ in seconds), min(cpu for _, cpu in seconds), (peak - before) / 1024]))


def _loaded(coco_class: Callable[[], Any], document: dict[str, Any]) -> Any:
    coco = coco_class()
    coco.dataset = document
    coco.createIndex()
    return coco


def _named(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def installed() -> list[str]:
    """The packages to try, without pycocotools."""
    return [
        name for name, (_, evaluation) in BACKENDS.items()
        if name != "pycocotools" and importlib.util.find_spec(evaluation.partition(".")[0])
    ]  # fmt: skip


def main() -> None:
    """Compare, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.coco_backends", description=__doc__)
    parser.add_argument("--files", type=int, default=500, help="random files of each kind")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--backends", nargs="+", default=installed(), choices=installed())
    parser.add_argument("--measure", choices=list(BACKENDS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("pycocotools", *options.backends))
    print(f"{versions}; {options.files} random files of each kind.\n")
    print("| files that differ from pycocotools |", " | ".join(options.backends), "|")
    print("|---" * (len(options.backends) + 1) + "|")
    examples = []
    for kind in options.kinds:
        cells = []
        for backend in options.backends:
            words, found = compare(backend, kind, options.files)
            cells.append(", ".join(f"{count} {word}" for word, count in words.items()) or "0")
            examples += [(backend, kind, *each) for each in found]
        print(f"| {kind} |", " | ".join(cells), "|", flush=True)
    print()
    for backend, kind, word, detail, example in examples:
        print(f"- {backend}, {kind}: {word}: {detail}")
        print(f"  truth {example.truth['annotations']}, images {[i['id'] for i in example.truth['images']]}, "
              f"detections {example.found}, maxDets {example.limits}")  # fmt: skip
    print(f"\n| {IMAGES} images, {BOXES} detections each, {CLASSES} classes | wall s | CPU s | memory MB |")
    print("|---|---|---|---|")
    for backend in ("pycocotools", *options.backends):
        command = [sys.executable, "-m", "tests.benchmarks.coco_backends", "--measure", backend]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        wall, cpu, memory = json.loads(done.stdout.splitlines()[-1])
        print(f"| {backend} | {wall:.1f} | {cpu:.1f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
