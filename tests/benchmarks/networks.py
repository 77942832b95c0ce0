"""Benchmarks of networks alone: inference, training steps, and memory saved for backward."""

from __future__ import annotations

import copy
from functools import partial
from importlib.util import find_spec

import effdet
import segmentation_models_pytorch as smp
import timm
import torch
from effdet import DetBenchTrain
from torch import nn

from classification.build import create_classifier
from data.demo.writer import demo_root
from data.loader import train_loader
from detection.config import TrainConfig
from detection.model import create_detector
from detection.task import DetectionTask
from engine.execution import execution_for
from segmentation.model import Segmenter, create_segmenter
from tests.benchmarks.common import Row, compare_apart

CLASSES = 90


def inference() -> list[Row]:
    """D0 at 512 px and B0 at 224 px, one image at a time and several, as `predict` runs them."""
    d0, effdets = "D0 512 px inference, network only", "effdet, fp32, default settings"
    rows = [
        compare_apart(f"{d0}, {precision}", effdets, goal, partial(our_d0, precision), effdets_d0, calls=5)
        for precision, goal in (("fp32", 3.0), ("bf16", 5.0))
    ]
    if find_spec("openvino"):
        rows.append(
            compare_apart(
                f"{d0}, fp32", "effdet in OpenVINO, fp32", None, partial(our_d0, "fp32"), openvinos_d0, calls=5
            )
        )
    return rows + [
        compare_apart(
            f"B0 224 px inference, batch {batch}, fp32", "timm efficientnet_b0", 1.1,
            partial(our_b0, batch), partial(timms_b0, batch), calls=5,
        )
        for batch in (1, 16)
    ]  # fmt: skip


def our_d0(precision):
    return placed(create_detector("efficientnet_b0", CLASSES), (1, 512), precision)


def effdets_d0():
    return seen(effdet.create_model("efficientdet_d0", pretrained=False, pretrained_backbone=False), (1, 512))


def openvinos_d0():
    import openvino

    model = effdet.create_model("efficientdet_d0", pretrained=False, pretrained_backbone=False).eval()
    image = torch.randn(1, 3, 512, 512)
    converted = openvino.convert_model(model, example_input=image)
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda: compiled(image.numpy())


def our_b0(batch):
    return placed(create_classifier("efficientnet_b0", 1000), (batch, 224), "fp32")


def timms_b0(batch):
    return seen(timm.create_model("efficientnet_b0"), (batch, 224))


def placed(model, size, precision):
    """A pass in the setting of `predict`."""
    setting = execution_for("cpu", precision, "predict")
    setting.begin()
    return seen(setting.place(model), size, torch.channels_last)


def seen(model, size, layout=torch.contiguous_format):
    """A pass over random images. `size` is their number and their side in pixels."""
    batch, side = size
    images = torch.randn(batch, 3, side, side).to(memory_format=layout)
    model.eval()

    def see():
        with torch.inference_mode():
            return model(images)

    return see


def training() -> list[Row]:
    """One training step of each task as in `train`, and of its peer, each in a process of its own."""
    return [
        compare_apart(
            "detector training step, batch 8 at 320 px, loader included", "effdet train bench", 2.0,
            our_detector, effdets_detector, remark="Lite0; both read through our loader",
        ),
        compare_apart(
            "segmentation training step, same encoder", "segmentation-models-pytorch FPN", 1.3,
            our_segmenter, smps_segmenter, rounds=5, remark="phi 4, 8 images of 352x480, cross entropy",
        ),
        compare_apart(
            "classification training step, B0 at 224 px, batch 32", "timm efficientnet_b0", 1.1,
            our_classifier, timms_classifier, rounds=5,
        ),
    ]  # fmt: skip


def stepped(model, losses, ours):
    """A call that takes one step: forward, backward, clipping, update; in our settings, or in torch's."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-4, fused=ours)

    def step():
        optimizer.zero_grad()
        losses().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()

    return step


def detection_batches():
    """The task on drawn scenes, batches of 8 at 320 px without end, and the number of classes."""
    config = TrainConfig(backbone="tf_efficientnet_lite0", image_size=320, batch_size=8, pretrained=False, phi="lite0")
    task, train, _ = DetectionTask.prepare(config, demo_root("detection"))
    return task, endless(train_loader(train, 8, 0, workers=0)), len(train.classes)


def our_detector():
    task, batches, _ = detection_batches()
    task.train()
    in_training(task.model)

    def losses():
        batch = next(batches)
        return torch.stack(list(task.losses(*task.mixed(task.normalised(batch), batch)).values())).sum()

    return stepped(task.model, losses, True)


def effdets_detector():
    task, batches, classes = detection_batches()
    peer = effdet.create_model(
        "tf_efficientdet_lite0", bench_task="train", num_classes=classes, pretrained=False,
        pretrained_backbone=False, bench_labeler=True, image_size=(320, 320),
    ).train()  # fmt: skip
    assert isinstance(peer, DetBenchTrain)

    def losses():
        batch = next(batches)
        boxes = [b[k >= 0][:, [1, 0, 3, 2]] for b, k in zip(batch.boxes, batch.labels, strict=True)]
        labels = [k[k >= 0].float() + 1 for k in batch.labels]
        return peer(task.normalised(batch).contiguous(), {"bbox": boxes, "cls": labels})["loss"]

    return stepped(peer, losses, False)


def in_training(model):
    """Model and process in the setting of `train`."""
    setting = execution_for("cpu", "fp32", "train")
    setting.begin()
    setting.place(model)


def our_segmenter():
    """Neck and head as the preset `camvid` has them."""
    return of_pixels(create_segmenter("tf_efficientnet_lite0", 11, phi=4), (8, 352, 480), 11, True)


def smps_segmenter():
    return of_pixels(smp.FPN("tu-tf_efficientnet_lite0", encoder_weights=None, classes=11), (8, 352, 480), 11, False)


def our_classifier():
    return of_pixels(create_classifier("efficientnet_b0", 1000), (32, 224, 224), 1000, True)


def timms_classifier():
    return of_pixels(timm.create_model("efficientnet_b0"), (32, 224, 224), 1000, False)


def of_pixels(model, size, classes, ours):
    """Steps of cross entropy on random images of `size` (B, H, W), with a label a pixel or a label an image."""
    images = torch.randn(size[0], 3, *size[1:])
    if ours:
        in_training(model)
        images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(0, classes, size if isinstance(model, Segmenter | smp.FPN) else size[:1])
    model.train()
    cross_entropy = nn.CrossEntropyLoss()
    return stepped(model, lambda: cross_entropy(model(images), labels), ours)


def endless(loader):
    epoch = 0
    while True:
        loader.batch_sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def memory() -> Row:
    """Bytes that a D0 training step of batch 8 at 512 px saves for backward, parameters not counted."""
    images = torch.randn(8, 3, 512, 512)
    ours = create_detector("efficientnet_b0", CLASSES).train().to(memory_format=torch.channels_last)
    theirs = effdet.create_model("efficientdet_d0", pretrained=False, pretrained_backbone=False).train()
    saved = [kept(copy.deepcopy(model), x) for model, x in (
        (ours, images.to(memory_format=torch.channels_last)), (theirs, images),
    )]  # fmt: skip
    row = Row("memory saved for backward, D0, batch 8 at 512 px (GB, not seconds)", "effdet", 0.7,
              saved[0] / saved[1], saved[0] / 1e9, saved[1] / 1e9, "share of effdet's; lower is better")  # fmt: skip
    print(f"{row.work}: {row.ours:.2f} against {row.theirs:.2f}, {row.ratio:.2f}", flush=True)
    return row


def kept(model, images) -> int:
    """Bytes of the distinct storages that autograd keeps."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes: dict[int, int] = {}

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        outputs = model(images)
    del outputs
    return sum(sizes.values())
