"""COCO's classes, and the category of a data set for each output of a model."""

from __future__ import annotations

from collections.abc import Sequence

from backbones.errors import BadInput
from data.formats.coco import CocoDetection

# COCO's 80 categories by original id, 1..90 with gaps. The published class heads have 90 outputs, one for each id.
# fmt: off
COCO_CLASSES = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck", 9: "boat",
    10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench", 16: "bird", 17: "cat",
    18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe",
    27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis",
    36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat", 40: "baseball glove", 41: "skateboard",
    42: "surfboard", 43: "tennis racket", 44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife",
    50: "spoon", 51: "bowl", 52: "banana", 53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot",
    58: "hot dog", 59: "pizza", 60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed",
    67: "dining table", 70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard",
    77: "cell phone", 78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator", 84: "book",
    85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear", 89: "hair drier", 90: "toothbrush",
}
# fmt: on
COCO_OUTPUTS = 90


def output_categories(
    dataset: CocoDetection, classes: Sequence[str], category_ids: Sequence[int], published: str | None
) -> list[int]:
    """The category id in `dataset` of each output of a model; -1 for an output without one.

    Args:
        dataset: data set on which the model is evaluated.
        classes: class names of the model's outputs.
        category_ids: category ids of the model's outputs in its training data.
        published: "COCO" for a published COCO detector. Its outputs are matched by id, those of other models by name.

    Raises BadInput if model and data set do not have the same classes.
    """
    by_name = dict(zip(dataset.classes, dataset.category_ids, strict=True))
    ids = list(category_ids)
    if published == "COCO":
        missing = [str(i) for i in sorted(set(dataset.category_ids) - set(COCO_CLASSES))]
    else:
        missing = [name for name in classes if name not in by_name]
        ids = [by_name.get(name, -1) for name in classes]
    if missing:
        raise BadInput(
            f"the model and {dataset.annotation_file} do not have the same classes: "
            f"{', '.join(missing[:5])} {'is' if len(missing) == 1 else 'are'} in only one of them"
        )
    return ids
