"""Benchmarks of everything around the networks: loading, suppression, scoring, and the whole predict command."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from effdet.soft_nms import batched_soft_nms
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision import tv_tensors
from torchvision.transforms import v2

from classification.transforms import TrainCrop
from data.batch import Sample, collate
from data.formats import coco_json
from data.images import read_image
from detection.config import COCO_METRICS, PredictConfig
from detection.evaluator import CocoEvaluator
from detection.graphs import DetectionGraphs
from detection.postprocess import Detections, soft_nms
from detection.task import DetectionTask
from detection.transforms import detection_train
from engine.export.build import describe
from engine.export.write import write_file
from tests.benchmarks.common import Row, compare, timed

BOXES = [[10, 10, 200, 200], [300, 100, 500, 400]]


def photographs(folder: Path, count: int, size: tuple[int, int] = (480, 640)) -> list[Path]:
    """JPEG files with as much detail as photographs have: smooth colours and some noise."""
    draw = np.random.default_rng(0)
    files = []
    for number in range(count):
        coarse = draw.integers(0, 256, (size[0] // 16, size[1] // 16, 3), dtype=np.uint8)
        image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC).astype(np.int16)
        image = (image + draw.normal(0, 6, image.shape)).clip(0, 255).astype(np.uint8)
        files.append(folder / f"{number:03d}.jpg")
        Image.fromarray(image).save(files[-1], quality=90)
    return files


def loading() -> list[Row]:
    """JPEG files to augmented batches on one core, against torchvision v2 with the same operations."""
    threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            files = photographs(Path(folder), 64)
            return [_classification(files), _decode_share(files), _detection(files)]
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv_threads)


def _sample(file: Path) -> Sample:
    image = read_image(file)
    return Sample(image, 0, image.shape[:2], (1.0, 1.0), np.array(BOXES, np.float32), np.array([0, 1]))


def _classification(files: list[Path]) -> Row:
    crop = TrainCrop((224, 224), "bicubic", 0.08, 0.4, "none", (124, 116, 104))
    bicubic = v2.InterpolationMode.BICUBIC
    steps = v2.Compose(
        [
            v2.RandomResizedCrop(224, interpolation=bicubic),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.4, 0.4, 0.4),
            v2.PILToTensor(),
        ]
    )

    def ours():
        return collate([crop(_sample(file), seed) for seed, file in enumerate(files)])

    def theirs():
        return torch.stack([steps(Image.open(file).convert("RGB")) for file in files])

    return compare("classification loader, 64 JPEGs of 480x640 to 224 px", "torchvision v2", 1.5, ours, theirs)


def _decode_share(files: list[Path]) -> Row:
    crop = TrainCrop((224, 224), "bicubic", 0.08, 0.4, "none", (124, 116, 104))
    row = compare(
        "classification loader, compared with JPEG decoding alone", "cv2.imdecode alone", 0.6,
        lambda: collate([crop(_sample(file), seed) for seed, file in enumerate(files)]),
        lambda: [cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR) for file in files],
    )  # fmt: skip
    row.remark = "share of the decode rate"
    return row


def _detection(files: list[Path]) -> Row:
    transform = detection_train((512, 512), (0.1, 2.0), (124, 116, 104))
    steps = v2.Compose([v2.ScaleJitter((512, 512), (0.1, 2.0)), v2.RandomHorizontalFlip(),
                        v2.ColorJitter(0.2, 0.2, 0.2, 5 / 360), v2.RandomCrop((512, 512), pad_if_needed=True, fill=124),
                        v2.SanitizeBoundingBoxes()])  # fmt: skip

    def ours():
        return collate([transform(_sample(file), seed) for seed, file in enumerate(files)])

    def theirs():
        done = []
        for file in files:
            image = tv_tensors.Image(v2.functional.pil_to_tensor(Image.open(file).convert("RGB")))
            boxes = tv_tensors.BoundingBoxes(BOXES, format="XYXY", canvas_size=(480, 640))
            done.append(steps({"image": image, "boxes": boxes, "labels": torch.tensor([0, 1])})["image"])
        return torch.stack(done)

    return compare("detection loader, 64 JPEGs of 480x640 to 512 px", "torchvision v2", 1.5, ours, theirs, rounds=5)


def suppression() -> Row:
    """5000 candidates of 20 classes in one image, 100 detections. effdet's loop is cut off at 100 afterwards."""
    torch.manual_seed(0)
    corners = torch.rand(5000, 2) * 400
    boxes = torch.cat([corners, corners + 10 + torch.rand(5000, 2) * 100], 1)
    scores, labels = torch.rand(5000), torch.randint(0, 20, (5000,))
    found = Detections(boxes[None], scores[None], labels[None])

    def theirs():
        index, kept = batched_soft_nms(boxes, scores, labels, method_gaussian=True, score_threshold=0.001)
        return index[:100], kept[:100]

    return compare("soft-NMS, 5000 candidates", "effdet's loop", 5.0, lambda: soft_nms(found), theirs, rounds=3,
                   remark="effdet does not stop at 100 detections, only at its score threshold")  # fmt: skip


def scoring() -> Row:
    """5,000 images x 100 boxes of 80 classes. Both sides read the annotations once, as a training does.

    Ours also computes precision, recall and F1.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "truth.json")
        results = coco(file, 5000, 7, 100)
        truth = None
        numbers: dict[str, list[float]] = {}
        evaluator = _evaluator(file, results)

        def ours():
            scores = evaluator.compute()
            numbers["ours"] = [scores[name] for name in COCO_METRICS]

        def theirs():
            nonlocal truth
            with contextlib.redirect_stdout(io.StringIO()):
                truth = truth or COCO(str(file))
                evaluation = COCOeval(truth, truth.loadRes(results.copy()), "bbox")
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
            numbers["theirs"] = evaluation.stats.tolist()

        row = compare("COCO evaluation, 5,000 images x 100 boxes", "pycocotools", 8.0, ours, theirs, rounds=2)
        gap = max(abs(a - b) for a, b in zip(numbers["ours"], numbers["theirs"], strict=True))
        row.remark = f"largest difference of the twelve numbers: {gap:.0e}"
        return row


def _evaluator(file: Path, results: np.ndarray) -> CocoEvaluator:
    evaluator = CocoEvaluator(coco_json.parse(file))
    evaluator._rows = [results - [0, 0, 0, 0, 0, 0, 1]]  # category ids are from 1, classes from 0
    return evaluator


def coco(file: Path, images: int, boxes: int, found: int) -> np.ndarray:
    """Write ground truth; returns (N, 7) detections scattered about it."""
    draw = np.random.default_rng(0)
    annotations, results = [], []
    for image in range(1, images + 1):
        corners = draw.uniform(0, 400, (boxes, 2))
        sizes = np.exp(draw.uniform(2, 5.2, (boxes, 2)))
        labels = draw.integers(1, 81, boxes)
        for (x, y), (w, h), label in zip(corners, sizes, labels, strict=True):
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": int(label), "iscrowd": 0,
                                "bbox": [x, y, w, h], "area": w * h})  # fmt: skip
        near = draw.integers(0, boxes, found)
        jitter = draw.normal(0, 0.15, (found, 4)) * np.hstack([sizes, sizes])[near]
        guesses = np.hstack([corners, sizes])[near] + jitter
        guesses[:, 2:] = guesses[:, 2:].clip(min=1)
        of = np.where(draw.random(found) < 0.7, labels[near], draw.integers(1, 81, found))
        results.append(np.column_stack([np.full(found, image), guesses, draw.random(found), of]))
    content = {
        "images": [{"id": i, "width": 640, "height": 640, "file_name": f"{i}.jpg"} for i in range(1, images + 1)],
        "categories": [{"id": i, "name": str(i)} for i in range(1, 81)],
        "annotations": annotations,
    }
    file.write_text(json.dumps(content))
    return np.concatenate(results)


PEER = """
import sys, torch
from pathlib import Path
from PIL import Image
from effdet import DetBenchPredict, create_model
from effdet.data.transforms import transforms_coco_eval
model = create_model("efficientdet_d0", pretrained=False, pretrained_backbone=False, soft_nms=False)
model.load_state_dict(torch.load(sys.argv[1]))
bench = DetBenchPredict(model).eval()
transform = transforms_coco_eval((512, 512), use_prefetcher=True)
mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
with torch.no_grad():
    for file in sorted(Path(sys.argv[2]).glob("*.jpg")):
        image, target = transform(Image.open(file).convert("RGB"), {})
        x = (torch.from_numpy(image).float() - mean) / std
        info = {"img_scale": torch.tensor([target["img_scale"]]), "img_size": torch.tensor([[640.0, 480.0]])}
        bench(x[None], info)
"""


def predicting(runtime: str = "torch", count: int = 200) -> Row:
    """JPEG files to boxes, start of the process included, D0 with the same weights; hard NMS in both."""
    from effdet import create_model

    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        images.mkdir()
        photographs(images, count)
        weights = Path(folder, "efficientdet_d0.pth")
        torch.save(create_model("efficientdet_d0", pretrained=False, pretrained_backbone=False).state_dict(), weights)
        checkpoint = weights if runtime == "torch" else exported(weights, runtime, Path(folder))
        ours = [sys.executable, "-m", "detection.predict", "--checkpoint", checkpoint, "--images", images, "--output",
                Path(folder, "out"), "--pictures", "false", "--nms", "hard"]  # fmt: skip
        theirs = [sys.executable, "-W", "ignore", "-c", PEER, weights, images]

        def call(command):
            return lambda: subprocess.run([str(c) for c in command], check=True, capture_output=True)

        where = "" if runtime == "torch" else f", in {runtime}"
        work = f"D0 predict, JPEG to boxes, whole process, {count} images{where}"
        row = Row(work, "effdet with torchvision NMS", 3.0, 0, 0, 0)
        pairs = [(timed(call(theirs)), timed(call(ours))) for _ in range(2)]
        row.ratio = float(np.median([a / b for a, b in pairs]))
        row.theirs, row.ours = (float(np.median(column)) for column in zip(*pairs, strict=True))
        print(f"{row.work}: {row.ours:.1f} s against {row.theirs:.1f} s, {row.ratio:.2f}x", flush=True)
        return row


def exported(weights: Path, runtime: str, folder: Path) -> Path:
    """The file of a detector's weights for a runtime."""
    task = DetectionTask.from_published(weights, PredictConfig(checkpoint=str(weights))).eval()
    graphs = DetectionGraphs(task)
    description = describe(graphs, "batch", preprocess=False, postprocess=False)
    return write_file(graphs, description, runtime, folder)[0]


def growth() -> list[str]:
    """Evaluation's time and memory against the number of images, and start-up times, as lines of text."""
    lines = []
    for images in (1000, 2000, 4000):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "truth.json")
            results = coco(file, images, 7, 100)
            seconds = timed(_evaluator(file, results).compute)
        cost = f"{seconds:.1f} s, {results.nbytes / 1e6:.0f} MB of detections"
        lines.append(f"| COCO evaluation of {images:,} images x 100 boxes | {cost} |")
    for command in ("detection.train", "segmentation.eval", "classification.predict", "experiments.compare"):
        seconds = min(
            timed(
                lambda c=command: subprocess.run([sys.executable, "-m", c, "--help"], capture_output=True, check=True)
            )
            for _ in range(3)
        )
        lines.append(f"| `python -m {command} --help` | {seconds:.2f} s |")
    return lines
