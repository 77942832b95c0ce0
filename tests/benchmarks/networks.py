"""Networks alone: inference, training steps, and what a step keeps in memory."""

from __future__ import annotations

import copy

import effdet
import segmentation_models_pytorch as smp
import timm
import torch
from effdet import DetBenchTrain
from torch import nn

from backbones import prepare_for_inference
from classification.model import create_classifier
from data.demo import demo_root
from data.loader import train_loader
from detection.config import TrainConfig
from detection.model import create_detector
from detection.task import DetectionTask
from segmentation.model import create_segmenter
from tests.benchmarks.common import Row, compare

CLASSES = 90


def inference() -> list[Row]:
    """D0 at 512 px and B0 at 224 px, one image at a time and several."""
    rows = []
    theirs = effdet.create_model("efficientdet_d0", pretrained=False, pretrained_backbone=False).eval()
    ours = create_detector("efficientnet_b0", CLASSES).eval()
    image = torch.randn(1, 3, 512, 512)
    channels_last = image.to(memory_format=torch.channels_last)
    for precision, goal in (("fp32", 3.0), ("bf16", 5.0)):
        prepared = prepare_for_inference(ours, precision)
        rows.append(
            compare(
                f"D0 512 px inference, network only, {precision}", "effdet fp32 as people run it", goal,
                lambda prepared=prepared: still(prepared, channels_last), lambda: still(theirs, image),
            )
        )  # fmt: skip
        if precision == "fp32" and (compiled := openvino(theirs, image)):
            rows.append(
                compare("D0 512 px inference, network only, fp32", "effdet in OpenVINO, fp32", None,
                        lambda prepared=prepared: still(prepared, channels_last), compiled)
            )  # fmt: skip
    for batch in (1, 16):
        images = torch.randn(batch, 3, 224, 224)
        x = images.to(memory_format=torch.channels_last)
        network = timm.create_model("efficientnet_b0").eval()
        prepared = prepare_for_inference(create_classifier("efficientnet_b0", 1000))
        rows.append(
            compare(
                f"B0 224 px inference, batch {batch}, fp32", "timm efficientnet_b0", 1.1,
                lambda prepared=prepared, x=x: still(prepared, x),
                lambda network=network, x=images: still(network, x),
            )
        )  # fmt: skip
    return rows


def openvino(model, image):
    """A call of the model compiled by OpenVINO, or None where it is not installed."""
    try:
        import openvino as ov
    except ImportError:
        return None
    compiled = ov.compile_model(
        ov.convert_model(model, example_input=image), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda: compiled(image.numpy())


def still(model, images):
    with torch.inference_mode():
        return model(images)


def training() -> list[Row]:
    """One step of each task, against the peer that people train."""
    return [detection_step(), segmentation_step(), classification_step()]


def stepped(model, losses, optimizer):
    """A call that takes one step: forward, backward, clipping, update."""
    parameters = [p for p in model.parameters() if p.requires_grad]

    def step():
        optimizer.zero_grad()
        losses().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()

    return step


def detection_step() -> Row:
    """Batch 8 at 320 px, drawn scenes, loader included; ours by the task's own code, theirs by its training bench."""
    config = TrainConfig(backbone="tf_efficientnet_lite0", image_size=320, batch_size=8, pretrained=False, phi="lite0")
    task, train, _ = DetectionTask.prepare(config, demo_root("detection"))
    task.train()
    task.model.to(memory_format=torch.channels_last)
    batches = endless(train_loader(train, 8, 0))

    def ours():
        batch = next(batches)
        return torch.stack(list(task.losses(task.normalised(batch), batch).values())).sum()

    peer = effdet.create_model(
        "tf_efficientdet_lite0", bench_task="train", num_classes=len(train.classes), pretrained=False,
        pretrained_backbone=False, bench_labeler=True, image_size=(320, 320),
    ).train()  # fmt: skip
    assert isinstance(peer, DetBenchTrain)

    def theirs():
        batch = next(batches)
        boxes = [b[k >= 0][:, [1, 0, 3, 2]] for b, k in zip(batch.boxes, batch.labels, strict=True)]
        labels = [k[k >= 0].float() + 1 for k in batch.labels]
        return peer(task.normalised(batch).contiguous(), {"bbox": boxes, "cls": labels})["loss"]

    return compare(
        "detector training step, batch 8 at 320 px, loader included", "effdet train bench", 2.0,
        stepped(task.model, ours, torch.optim.AdamW(task.model.parameters(), 1e-4, fused=True)),
        stepped(peer, theirs, torch.optim.AdamW(peer.parameters(), 1e-4)),
        remark="Lite0; both read through our loader",
    )  # fmt: skip


def segmentation_step() -> Row:
    """Batch 8 at 352 x 480, 11 classes; our neck and head as the preset `camvid` has them."""
    images, masks = torch.randn(8, 3, 352, 480), torch.randint(0, 11, (8, 352, 480))
    ours = create_segmenter("tf_efficientnet_lite0", 11, phi=4).train().to(memory_format=torch.channels_last)
    theirs = smp.FPN("tu-tf_efficientnet_lite0", encoder_weights=None, classes=11).train()
    cross_entropy = nn.CrossEntropyLoss()
    x = images.to(memory_format=torch.channels_last)
    return compare(
        "segmentation training step, same encoder", "segmentation-models-pytorch FPN", 1.3,
        stepped(ours, lambda: cross_entropy(ours(x), masks), torch.optim.AdamW(ours.parameters(), 1e-4, fused=True)),
        stepped(theirs, lambda: cross_entropy(theirs(images), masks), torch.optim.AdamW(theirs.parameters(), 1e-4)),
        rounds=5, remark="phi 4, 8 images of 352x480, cross entropy",
    )  # fmt: skip


def classification_step() -> Row:
    """Batch 32 at 224 px."""
    images, labels = torch.randn(32, 3, 224, 224), torch.randint(0, 1000, (32,))
    ours = create_classifier("efficientnet_b0", 1000).train().to(memory_format=torch.channels_last)
    theirs = timm.create_model("efficientnet_b0").train()
    cross_entropy = nn.CrossEntropyLoss()
    x = images.to(memory_format=torch.channels_last)
    return compare(
        "classification training step, B0 at 224 px, batch 32", "timm efficientnet_b0", 1.1,
        stepped(ours, lambda: cross_entropy(ours(x), labels), torch.optim.AdamW(ours.parameters(), 1e-4, fused=True)),
        stepped(theirs, lambda: cross_entropy(theirs(images), labels), torch.optim.AdamW(theirs.parameters(), 1e-4)),
        rounds=5,
    )  # fmt: skip


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
    row = Row("memory saved for backward, D0, batch 8 at 512 px (GB in place of seconds)", "effdet", 0.7,
              saved[0] / saved[1], saved[0] / 1e9, saved[1] / 1e9, "share of effdet's: lower is better")  # fmt: skip
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
