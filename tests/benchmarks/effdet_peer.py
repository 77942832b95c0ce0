"""effdet 0.4.1 trained on the same images and budget as `detection.train`: the peer of the README's first table.

    python -W ignore -m tests.benchmarks.effdet_peer --image_size 256 --epochs 8                # the demo scenes
    python -W ignore -m tests.benchmarks.effdet_peer --data.root ROOT --image_size 320 --epochs 30

Its own model (tf_efficientdet_lite0, the same packaged ImageNet weights), labeler, loss and hard NMS, under AdamW with
a cosine from 1e-3. Images, augmentation, letterbox and scoring are ours, so that nothing else differs.
"""

import argparse
import time
from pathlib import Path

import torch
from effdet import DetBenchPredict, create_model

from backbones import create_backbone
from data.batch import normalise
from data.box_dataset import BoxDataset
from data.demo.writer import demo_root
from data.letterbox import Letterbox
from data.loader import eval_loader, train_loader
from detection.config import TrainConfig
from detection.evaluator import CocoEvaluator
from detection.postprocess import Detections, to_original
from detection.transforms import detection_train
from engine.optimization import warmup_cosine

NAME, BACKBONE = "tf_efficientdet_lite0", "tf_efficientnet_lite0"
HALF = (0.5, 0.5, 0.5)  # mean and standard deviation that the Lite weights expect
FILL = (128, 128, 128)


def main() -> None:
    """Train, score, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.root", dest="root", type=Path)
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)

    size = (options.image_size, options.image_size)
    root = options.root or demo_root("detection")
    train = BoxDataset.open(root, "train", detection_train(size, TrainConfig().jitter, FILL))
    val = BoxDataset.open(root, "val", Letterbox(size, FILL))
    model = create_model(
        NAME, bench_task="train", num_classes=len(train.classes), pretrained=False, pretrained_backbone=False,
        bench_labeler=True, image_size=size,
    )  # fmt: skip
    weights = create_backbone(BACKBONE, pretrained=True, strides=(8, 16, 32)).state_dict()
    model.model.backbone.load_state_dict(weights, strict=True)
    model.to(memory_format=torch.channels_last).train()

    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 1e-4}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr)
    loader = train_loader(train, options.batch_size, options.seed)
    steps = options.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, len(loader), steps))

    started = time.monotonic()
    for epoch in range(options.epochs):
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            boxes = [b[k >= 0][:, [1, 0, 3, 2]] for b, k in zip(batch.boxes, batch.labels, strict=True)]
            labels = [k[k >= 0].float() + 1 for k in batch.labels]  # 0 is effdet's background
            loss = model(normalise(batch.images, HALF, HALF), {"bbox": boxes, "cls": labels})["loss"]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{options.epochs}  loss {loss:.3f}  {time.monotonic() - started:.0f} s", flush=True)

    predictor = DetBenchPredict(model.model).eval()
    evaluator = CocoEvaluator(val.columns)
    with torch.inference_mode():
        for batch in eval_loader(val, options.batch_size):
            boxes, scores, labels = predictor(normalise(batch.images, HALF, HALF)).split([4, 1, 1], dim=2)
            found = Detections(boxes, scores[..., 0], labels[..., 0].long() - 1)
            evaluator.update(to_original(found, batch.scales, batch.sizes), batch)
    metrics = evaluator.compute()
    seconds = time.monotonic() - started
    print(f"effdet {NAME}: AP {100 * metrics['AP']:.1f}, AP50 {100 * metrics['AP50']:.1f}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
