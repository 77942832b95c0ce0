"""COCO files of drawn boxes, detections as several tools write them, and their AP by pycocotools."""

import contextlib
import io
import json

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

IMAGES, CATEGORIES = 40, (1, 3, 7)


def truth_of(images=IMAGES, categories=CATEGORIES, names="val/img_{:03d}.jpg"):
    """A COCO instances file with one to four boxes in each image."""
    random = np.random.default_rng(0)
    annotations = []
    for image in range(1, images + 1):
        for _ in range(random.integers(1, 5)):
            x, y, w, h = random.uniform([0, 0, 20, 20], [180, 180, 100, 100])
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": int(random.choice(categories)),
                 "bbox": [x, y, w, h], "area": w * h, "iscrowd": int(random.random() < 0.1)}
            )  # fmt: skip
    return {
        "images": [
            {"id": i, "width": 300, "height": 300, "file_name": names.format(i + 4)} for i in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in categories],
    }


def detections_of(truth, seed=0, noise=6.0, decimals=2):
    """The true boxes with noise, as detectors write them in COCO's format. Scores of few decimals have ties."""
    random = np.random.default_rng(seed)
    categories = [category["id"] for category in truth["categories"]]
    found = []
    for annotation in truth["annotations"]:
        for _ in range(random.integers(0, 4)):
            category = annotation["category_id"] if random.random() < 0.8 else int(random.choice(categories))
            box = (np.array(annotation["bbox"]) + random.normal(0, noise, 4)).clip(1).round(3).tolist()
            score = round(float(random.uniform(0.01, 1)), decimals)
            found.append({"image_id": annotation["image_id"], "category_id": category, "bbox": box, "score": score})
    return found


def sorted_by_content(detections):
    """The detections in an order that their content defines: what a comparison scores."""
    return sorted(detections, key=lambda d: (d["image_id"], -d["score"], d["category_id"], *d["bbox"]))


def coco_stats(truth, detections):
    """The twelve numbers of pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(truth))
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(json.loads(json.dumps(detections))), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def write(path, content):
    """Write JSON; returns the path."""
    path.write_text(json.dumps(content))
    return path


# What the tools change in a detection in COCO's format. Positions are of the classes sorted by id.
def ultralytics(truth, detection, first=1, with_file=False):
    """`predictions.json` of `yolo val save_json=True` on data that are not COCO's: stems and positions."""
    categories = sorted(category["id"] for category in truth["categories"])
    name = next(image["file_name"] for image in truth["images"] if image["id"] == detection["image_id"])
    stem = name.rpartition("/")[2].rpartition(".")[0]
    return {
        "image_id": int(stem) if stem.isnumeric() else stem,
        **({"file_name": name.rpartition("/")[2]} if with_file else {}),
        "category_id": categories.index(detection["category_id"]) + first,
        "bbox": detection["bbox"],
        "score": detection["score"],
    }


def detectron2(truth, detection):
    """`coco_instances_results.json` of Mask R-CNN, which has masks, too."""
    return {**detection, "segmentation": {"size": [300, 300], "counts": "PP_<"}}


def mmdetection(truth, detection):
    """`PREFIX.bbox.json` of `CocoMetric` with `outfile_prefix`."""
    return {name: detection[name] for name in ("image_id", "bbox", "score", "category_id")}


def effdet(truth, detection):
    """What `Evaluator.save` writes."""
    return {name: detection[name] for name in ("image_id", "bbox", "score", "category_id")}


def rf_detr(truth, detection):
    """Image ids as texts and categories as floats, as scripts with NumPy and supervision write them."""
    return {**detection, "image_id": str(detection["image_id"]), "category_id": float(detection["category_id"])}


TOOLS = {
    "ultralytics": ultralytics,
    "ultralytics of earlier versions": lambda truth, detection: ultralytics(truth, detection, first=0),
    "ultralytics with file names": lambda truth, detection: ultralytics(truth, detection, with_file=True),
    "detectron2": detectron2,
    "mmdetection": mmdetection,
    "effdet": effdet,
    "torchvision": lambda truth, detection: dict(detection),
    "rf-detr": rf_detr,
}
