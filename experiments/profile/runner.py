"""Measures the costs of a model: counted once, timed many times, for backbone, neck, head and the whole."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from engine.config import parse_size
from engine.console import err, out
from engine.execution import device_of, execution_for
from engine.published import classifier_of
from engine.record import device_name, synchronize
from experiments.costs.counts import classifier_counts
from experiments.profile.config import ProfileConfig
from experiments.profile.files import write_costs
from experiments.report.formatting import billions, millions
from experiments.tasks import task_spec

PARTS = {"backbone": "backbone", "neck": "neck", "decoder": "neck"}  # all other modules are the head
WHOLE = "whole"
WARM_UP = 5


@dataclass(frozen=True)
class PartCost:
    """Costs of one part of a model, or of the whole model.

    Attributes:
        task, backbone: names.
        part: "backbone", "neck", "head" or "whole". Operations between the parts count for the whole only.
        params: number of parameters.
        macs: multiply-adds of convolutions and matrix products, for one image.
        activations_mb: tensors that a training step stores for the backward pass, in MiB for the whole batch.
        p50_ms, p95_ms: median and 95th percentile of the time of an inference pass over the batch.
        images_per_second: batch size divided by the median.
    """

    task: str
    backbone: str
    part: str
    params: int
    macs: int
    activations_mb: float
    p50_ms: float
    p95_ms: float
    images_per_second: float


def profile(config: ProfileConfig) -> list[PartCost]:
    """Measure the models of `config`, print the costs, and write `profile.csv` and `profile.png`."""
    config.check()
    device = device_of(config.device)
    execution_for(device.type, config.precision, "eval").begin()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    pairs = [(task, backbone) for task in config.tasks for backbone in config.backbones]
    measured = [
        measure_parts(build(task, backbone), task, backbone, config, device)
        for task, backbone in track(pairs, "profiling", console=err, transient=True)
    ]
    costs = [cost for model_costs in measured for cost in model_costs]
    place = f"{torch.get_num_threads()} threads" if device.type == "cpu" else device_name(device)
    title = f"{config.image_size} px, batch {config.batch_size}, {config.precision}, {device.type}, {place}"
    out.print(title)
    for model_costs in measured:
        out.print(_table(model_costs))
    out.print("MACs: multiply-adds of convolutions and matrix products per image; stored: for the backward pass")
    for backbone in config.backbones:
        out.print(_against_published(backbone))
    write_costs(costs, Path(config.output), "profile", partial(_draw, costs, title))
    return costs


def build(task: str, backbone: str) -> nn.Module:
    """Build a task's default model on a backbone, with the number of classes of the benchmark, and random weights."""
    spec = task_spec(task)
    return spec.build_model(spec.train_config(backbone=backbone), spec.benchmark.num_classes)


def measure_parts(
    model: nn.Module, task: str, backbone: str, config: ProfileConfig, device: torch.device
) -> list[PartCost]:
    """Measure a model. Returns the costs of its parts, then those of the whole."""
    model = model.to(device).to(memory_format=torch.channels_last)
    size = parse_size(config.image_size)
    images = torch.zeros(config.batch_size, 3, *size, device=device).to(memory_format=torch.channels_last)
    part_of = {name: PARTS.get(name, "head") for name, child in model.named_children() if list(child.parameters())}
    parts = [part for part in ("backbone", "neck", "head") if part in part_of.values()]
    macs = _multiply_adds(model.eval(), images[:1], part_of)
    stored = _activations(model, images, part_of)  # in eval mode, since batch norm in training mode refuses batch 1
    seconds = _times(model.eval(), images, part_of, config)
    params = dict.fromkeys(parts, 0) | {WHOLE: sum(p.numel() for p in model.parameters())}
    for name, part in part_of.items():
        params[part] += sum(p.numel() for p in model.get_submodule(name).parameters())
    costs = []
    for part in (*parts, WHOLE):
        p50, p95 = (1000 * float(value) for value in np.percentile(seconds[part], (50, 95)))
        rate = 1000 * config.batch_size / p50
        costs.append(PartCost(task, backbone, part, params[part], macs[part], stored[part] / 2**20, p50, p95, rate))
    return costs


def _multiply_adds(model: nn.Module, image: Tensor, part_of: dict[str, str]) -> dict[str, int]:
    with FlopCounterMode(display=False, depth=2) as counter, torch.inference_mode():
        model(image)
    by_module = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    found = {WHOLE: counter.get_total_flops() // 2}
    for name, part in part_of.items():
        found[part] = found.get(part, 0) + by_module.get(f"{type(model).__name__}.{name}", 0)
    return found


def _activations(model: nn.Module, images: Tensor, part_of: dict[str, str]) -> dict[str, float]:
    """Return the bytes that autograd stores. Each storage counts once; parameters and the images do not count."""
    excluded = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers(), images)}
    counted: dict[int, Tensor] = {}  # references keep the tensors alive, so that no address is used twice
    found = dict.fromkeys((*part_of.values(), WHOLE), 0.0)
    current: list[str] = []

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded and storage.data_ptr() not in counted:
            counted[storage.data_ptr()] = tensor
            for part in {WHOLE, *current}:
                found[part] += storage.nbytes()
        return tensor

    with ExitStack() as hooks:
        for name, part in part_of.items():
            child = model.get_submodule(name)
            for hook in (
                child.register_forward_pre_hook(lambda *_, part=part: current.append(part)),
                child.register_forward_hook(lambda *_: current.pop() and None),
            ):
                hooks.callback(hook.remove)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(images)
    return found


def _times(model: nn.Module, images: Tensor, part_of: dict[str, str], config: ProfileConfig) -> dict[str, Any]:
    """Return the seconds of each timed pass, for each part and the whole."""
    device = images.device
    found = {part: np.zeros(config.repeats) for part in (*part_of.values(), WHOLE)}
    started: list[float] = []

    def now() -> float:
        synchronize(device)
        return time.perf_counter()

    setting = execution_for(device.type, config.precision, "eval")
    with ExitStack() as hooks, torch.inference_mode(), setting.arithmetic(device.type):
        step = -WARM_UP

        def end(part: str) -> None:
            if step >= 0:
                found[part][step] += now() - started[-1]
            started.pop()

        for name, part in part_of.items():
            child = model.get_submodule(name)
            for hook in (
                child.register_forward_pre_hook(lambda *_: started.append(now())),
                child.register_forward_hook(lambda *_, part=part: end(part)),
            ):
                hooks.callback(hook.remove)
        for step in range(-WARM_UP, config.repeats):
            start = now()
            model(images)
            if step >= 0:
                found[WHOLE][step] = now() - start
    return found


def _table(costs: Sequence[PartCost]) -> Table:
    title = f"{costs[0].backbone}, {costs[0].task}".replace("[", r"\[")
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for heading in ("part", "params, M", "MACs, G", "stored, MiB", "p50, ms", "p95, ms", "images/s"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for cost in costs:
        sizes = f"{cost.params / 1e6:.2f}", f"{cost.macs / 1e9:.2f}", f"{cost.activations_mb:.0f}"
        speeds = f"{cost.p50_ms:.1f}", f"{cost.p95_ms:.1f}", f"{cost.images_per_second:.1f}"
        table.add_row(cost.part, *sizes, *speeds)
    return table


def _against_published(backbone: str) -> str:
    """Compare the counts of the network's ImageNet classifier with the published ones, in one line."""
    known = classifier_of(backbone)
    if known is None or known.params is None:
        return f"{backbone}: the table of published results has no counts"
    counted, texts = classifier_counts(backbone, known.image_size), []
    for name, label, text in (("params", "parameters", millions), ("macs", "multiply-adds", billions)):
        if (figure := getattr(known, name)) is not None:
            verdict = "DISAGREES" if figure.disagrees(counted[name]) else "agrees"
            texts.append(f"{label} {text(counted[name])}, published {text(figure.value)}: {verdict}")
    return f"{backbone} as ImageNet classifier at {known.image_size} px: {'; '.join(texts)} ({known.source})"


def _draw(costs: Sequence[PartCost], title: str, file: Path) -> None:
    """Draw parameters, multiply-adds and median time in three panels, stacked by part."""
    names = list(dict.fromkeys((cost.backbone, cost.task) for cost in costs))
    figure = Figure(figsize=(11, 1.2 + 0.4 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, sharey=True)
    for panel, field, unit, label in (
        (panels[0], "params", 1e6, "parameters, millions"),
        (panels[1], "macs", 1e9, "multiply-adds, billions"),
        (panels[2], "p50_ms", 1.0, "median, ms"),
    ):
        left = np.zeros(len(names))
        for part, color in (("backbone", "#2468b0"), ("neck", "#c4501b"), ("head", "#8c8c8c")):
            widths = [
                sum(getattr(c, field) for c in costs if (c.backbone, c.task, c.part) == (*name, part)) / unit
                for name in names
            ]
            panel.barh(range(len(names)), widths, left=left, color=color, label=part)
            left += widths
        panel.set_xlabel(label)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), [f"{backbone}\n{task}" for backbone, task in names], fontsize=8)
    panels[0].invert_yaxis()
    panels[2].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    figure.savefig(file, dpi=120)
