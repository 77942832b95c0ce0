"""A small COCO data set of coloured rectangles, on which a training takes seconds."""

import json

import cv2
import numpy as np
import pytest

COLORS = {2: (220, 40, 40), 5: (40, 200, 60)}


def write_coco(root, train=8, val=4):
    random = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        (root / split).mkdir()
        images, annotations = [], []
        for i in range(1, count + 1):
            picture = random.integers(90, 150, (96, 128, 3), dtype=np.uint8)
            for category, color in COLORS.items():
                x, y = (int(v) for v in random.integers(2, 50, 2))
                w, h = (int(v) for v in random.integers(20, 44, 2))
                cv2.rectangle(picture, (x, y), (x + w, y + h), color, -1)
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": i, "category_id": category, "iscrowd": 0,
                     "bbox": [x, y, w, h], "area": w * h}
                )  # fmt: skip
            cv2.imwrite(str(root / split / f"{i}.png"), picture[..., ::-1])
            images.append({"id": i, "file_name": f"{i}.png", "width": 128, "height": 96})
        categories = [{"id": 2, "name": "red <b>"}, {"id": 5, "name": "green"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def coco_root(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco") / "rectangles")
