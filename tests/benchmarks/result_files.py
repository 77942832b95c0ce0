"""Result files of effdet and torchvision for `experiments.compare_results`, from short trainings on one data set.

    python -W ignore -m tests.benchmarks.result_files --data.root BCCD --output runs/result_files

effdet trains tf_efficientdet_lite0 with its own transforms, labeler and loss, and its evaluator writes the file.
torchvision trains its RetinaNet with a pyramid of 64 channels on the same backbone, and the file is written as
docs/guides/results/torchvision.md shows. Both start from the packaged ImageNet weights. The last line printed is the
command that compares the files.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from effdet import create_evaluator, create_model
from effdet.data import DetectionDatset
from effdet.data.loader import DetectionFastCollate
from effdet.data.parsers import CocoParserCfg, create_parser
from effdet.data.transforms import transforms_coco_eval, transforms_coco_train
from PIL import Image
from pycocotools.coco import COCO
from torch import nn
from torch.utils.data import DataLoader
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from backbones import create_backbone

HALF = (0.5, 0.5, 0.5)  # mean and standard deviation that the Lite weights expect
CHANNELS = 64


def optimize(model, losses, rate):
    """A step of AdamW for each loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-4)
    for loss in losses:
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()


def train_effdet(root, size, epochs, batch_size, file):
    """Train effdet's network and write the file with its evaluator."""

    def loader_of(split, is_training):
        config = CocoParserCfg(ann_filename=str(root / f"annotations/instances_{split}.json"))
        dataset = DetectionDatset(root / split, parser=create_parser("coco", cfg=config))
        make = transforms_coco_train if is_training else transforms_coco_eval
        dataset.transform = make(size, use_prefetcher=True)  # effdet's loader with the prefetcher needs a GPU
        return dataset, DataLoader(dataset, batch_size, shuffle=is_training, collate_fn=DetectionFastCollate())

    train, train_loader = loader_of("train", True)
    model = create_model(
        "tf_efficientdet_lite0", bench_task="train", num_classes=len(train.parser.cat_ids), pretrained=False,
        pretrained_backbone=False, bench_labeler=True, image_size=(size, size),
    )  # fmt: skip
    weights = create_backbone("tf_efficientnet_lite0", pretrained=True, strides=(8, 16, 32)).state_dict()
    model.model.backbone.load_state_dict(weights)
    model.train()
    losses = (model(scaled(images), target)["loss"] for _ in range(epochs) for images, target in train_loader)
    optimize(model, losses, 1e-3)
    val, val_loader = loader_of("val", False)
    evaluator = create_evaluator("coco", val, pred_yxyx=False)
    model.eval()
    with torch.no_grad():
        for images, target in val_loader:
            evaluator.add_predictions(model(scaled(images), target)["detections"], target)
    evaluator.save(str(file))


def scaled(images):
    """(B, 3, H, W) in -1..1 from 0..255."""
    return images.float() / 127.5 - 1


class Pyramid(nn.Module):
    """Backbone and feature pyramid as torchvision's detectors take them."""

    def __init__(self):
        super().__init__()
        self.out_channels = CHANNELS
        self.backbone = create_backbone("tf_efficientnet_lite0", pretrained=True, strides=(8, 16, 32))
        channels = [level.channels for level in self.backbone.levels]
        self.fpn = FeaturePyramidNetwork(channels, CHANNELS, extra_blocks=LastLevelP6P7(CHANNELS, CHANNELS))

    def forward(self, images):
        """Return maps of strides 8 to 128 by name."""
        return self.fpn({str(i): features for i, features in enumerate(self.backbone(images))})


def train_torchvision(root, size, epochs, batch_size, seed, file):
    """Train torchvision's RetinaNet and write its detections."""
    sizes = tuple((side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))) for side in (16, 32, 64, 128, 256))
    coco = COCO(str(root / "annotations/instances_train.json"))
    model = RetinaNet(
        Pyramid(), num_classes=max(coco.getCatIds()) + 1, min_size=size, max_size=size, image_mean=HALF, image_std=HALF,
        anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5),
    )  # fmt: skip
    model.train()

    def losses():
        random = np.random.default_rng(seed)
        for _ in range(epochs):
            ids = random.permutation(coco.getImgIds()).tolist()
            for start in range(0, len(ids) - batch_size + 1, batch_size):
                samples = [sample(i, random.random() < 0.5) for i in ids[start : start + batch_size]]
                yield sum(model([image for image, _ in samples], [target for _, target in samples]).values())

    def sample(image_id, is_flipped):
        image = read(root / "train" / coco.loadImgs(image_id)[0]["file_name"])
        usable = [a for a in coco.loadAnns(coco.getAnnIds(image_id)) if min(a["bbox"][2:]) >= 1]
        boxes = torch.tensor([a["bbox"] for a in usable], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        if is_flipped:
            image = image.flip(2)
            boxes[:, [0, 2]] = image.shape[2] - boxes[:, [2, 0]]
        return image, {"boxes": boxes, "labels": torch.tensor([a["category_id"] for a in usable], dtype=torch.int64)}

    optimize(model, losses(), 5e-4)
    model.eval()
    val, results = COCO(str(root / "annotations/instances_val.json")), []
    with torch.no_grad():
        for image_id in val.getImgIds():
            found = model([read(root / "val" / val.loadImgs(image_id)[0]["file_name"])])[0]
            boxes = found["boxes"].clone()
            boxes[:, 2:] -= boxes[:, :2]
            columns = boxes.tolist(), found["scores"].tolist(), found["labels"].tolist()
            for box, score, label in zip(*columns, strict=True):
                results.append({"image_id": image_id, "category_id": label, "bbox": box, "score": score})
    file.write_text(json.dumps(results))


def read(path):
    """(3, H, W) in 0..1."""
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).float() / 255


def main() -> None:
    """Train both with each seed, and print the command that compares the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.root", dest="root", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/result_files"))
    parser.add_argument("--image_size", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[str]] = {"effdet": [], "torchvision": []}
    for seed in range(options.seeds):
        for name, own in files.items():
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002 - effdet's transforms use it
            file = options.output / f"{name}-{seed}.json"
            settings = options.root, options.image_size, options.epochs, options.batch_size
            if name == "effdet":
                train_effdet(*settings, file)
            else:
                train_torchvision(*settings, seed, file)
            own.append(str(file))
            print(f"wrote {file}", flush=True)
    results = " ".join(f"{name}={','.join(own)}" for name, own in files.items())
    truth = options.root / "annotations/instances_val.json"
    print(f"python -m experiments.compare_results --task detection --truth {truth} --results {results}")


if __name__ == "__main__":
    main()
