"""The checks of `backbones.doctor`: each takes a network in evaluation mode and yields its findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.adapter import build_backbone
from backbones.base import Backbone, blank_images
from backbones.compat import multiply_adds
from backbones.errors import UserError
from backbones.inference import BATCH_NORMS
from backbones.weight_facts import weight_facts

TEST_SIZE = 256, 256  # height and width of the test images in all checks but `map_sizes`, px
# Errors of alignment in cells: up to the first number "ok", up to the second a warning. Networks without padding, such
# as Inception, are between the two.
ALIGNED, NEARLY_ALIGNED = 1.5, 2.5
ROUNDING = 1e-3  # largest difference between equal maps, as a fraction of the largest value


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: what was checked.
        state: "ok", "warning" or "failed".
        message: what was measured, or what is wrong.
    """

    check: str
    state: Literal["ok", "warning", "failed"]
    message: str


def random_images(backbone: Backbone, height: int, width: int, count: int = 2) -> Tensor:
    """Smooth noise of unit variance, similar to normalised photographs: (count, input channels, height, width)."""
    channels = backbone.input_channels
    coarse = torch.randn(count, channels, height // 8 + 2, width // 8 + 2)
    noise = F.interpolate(coarse, (height, width), mode="bilinear") + 0.3 * torch.randn(count, channels, height, width)
    return noise / noise.std()


def map_sizes(backbone: Backbone, image_sizes: Sequence[tuple[int, int]]) -> Iterator[Finding]:
    """Channels and sizes of the maps must agree with `levels`, for images of every size."""
    for height, width in image_sizes:
        with torch.no_grad():
            maps = backbone(random_images(backbone, height, width, 1))
        expected = [(v.channels, -(-height // v.stride), -(-width // v.stride)) for v in backbone.levels]
        shapes = [tuple(x.shape[1:]) for x in maps]
        if shapes != expected:
            message = f"the shapes are {shapes}, but `levels` require {expected}"
            yield Finding(f"maps of {height}x{width}", "failed", message)
            return
    channels = ", ".join(f"{level.channels} at stride {level.stride}" for level in backbone.levels)
    sizes = ", ".join(f"{height}x{width}" for height, width in image_sizes)
    yield Finding("maps", "ok", f"channels: {channels}; correct sizes for images of {sizes}")


def normalisation(backbone: Backbone) -> Iterator[Finding]:
    """Reports the normalisation of images that the weights expect."""
    weights = backbone.provenance
    mean, std = (", ".join(f"{v:.3f}" for v in values) for values in (weights.mean, weights.std))
    message = f"mean {mean}; std {std}; weights {weights.source}"
    file = weights.source.removeprefix("file:")
    if file != weights.source and "mean" not in weight_facts(file).known:
        message += ": assumed, because the weight file does not state the normalisation it was trained with"
        yield Finding("normalisation", "warning", message)
    else:
        yield Finding("normalisation", "ok", message)


def cost(backbone: Backbone) -> Iterator[Finding]:
    """Counts parameters and multiply-adds up to each map, on the meta device."""
    costs = []
    try:
        for level in backbone.levels:
            with torch.device("meta"):
                part = build_backbone(backbone.name, (level.stride,), backbone.input_channels).eval()
                macs = multiply_adds(part, blank_images(part, *TEST_SIZE))
            params = sum(p.numel() for p in part.parameters())
            costs.append(f"{params / 1e6:.3g}M and {macs / 1e9:.3g}B to stride {level.stride}")
    except (RuntimeError, NotImplementedError, UserError) as error:
        message = "not counted: the network does not run on the meta device, which experiments.compare needs"
        yield Finding("cost", "warning", f"{message} ({str(error)[:100]})")
        return
    height, width = TEST_SIZE
    yield Finding("cost", "ok", f"parameters and multiply-adds at {height}x{width}: {', '.join(costs)}")


def values(backbone: Backbone) -> Iterator[Finding]:
    """Maps must be finite, and their channels must differ between images or pixels."""
    with torch.no_grad():
        maps = backbone(random_images(backbone, *TEST_SIZE))
    for x, level in zip(maps, backbone.levels, strict=True):
        check = f"values at stride {level.stride}"
        if not torch.isfinite(x).all():
            yield Finding(check, "failed", "some values are infinite or not a number")
            return
        constant = x.transpose(0, 1).flatten(1).std(1) <= 1e-6 * x.abs().max()
        share = constant.float().mean().item()
        if share == 1:
            yield Finding(check, "failed", "the map is the same for every image and every pixel")
        elif share > 0.5:
            yield Finding(check, "warning", f"{100 * share:.0f}% of the channels are constant")
    deviations = ", ".join(f"{x.std().item():.2g}" for x in maps)
    yield Finding("values", "ok", f"finite; standard deviations {deviations}")


def batch_independence(backbone: Backbone) -> Iterator[Finding]:
    """In evaluation mode, the maps of an image must not depend on the other images of its batch."""
    batch = random_images(backbone, *TEST_SIZE)
    with torch.no_grad():
        together, alone = backbone(batch), backbone(batch[:1])
    yield _equal("images of a batch", together, alone, "the maps of an image depend on the other images of the batch")


def batch_norms(backbone: Backbone) -> Iterator[Finding]:
    """Running statistics must change in training mode and must not change in evaluation mode."""
    norms = {name: module for name, module in backbone.named_modules() if isinstance(module, BATCH_NORMS)}
    means = {name: norm.running_mean for name, norm in norms.items() if norm.running_mean is not None}
    if len(means) < len(norms):
        name = min(norms.keys() - means.keys())
        message = f"{name} has no running statistics: results depend on the batch in evaluation mode"
        yield Finding("batch norm", "failed", message)
        return
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    changed: dict[bool, set[str]] = {}
    with torch.no_grad():
        for training in (False, True):
            maps = backbone.train(training)(random_images(backbone, *TEST_SIZE))
            changed[training] = {name for name, mean in means.items() if not mean.equal(before[f"{name}.running_mean"])}
        finite = all(x.isfinite().all() for x in maps)
        backbone.eval()
        for name, buffer in backbone.named_buffers():
            buffer.copy_(before[name])
    unchanged = sorted(means.keys() - changed[True])
    if changed[False]:
        yield Finding("batch norm", "failed", f"{min(changed[False])} changes its statistics in evaluation mode")
    elif not finite:
        yield Finding("batch norm", "failed", "maps are finite in evaluation mode but not in training mode")
    elif unchanged:
        message = f"{len(unchanged)} of {len(norms)} do not update their statistics in training mode: {unchanged[0]}"
        yield Finding("batch norm", "warning", message)
    elif norms:
        yield Finding("batch norm", "ok", f"all {len(norms)} update their statistics in training mode only")
    else:
        yield Finding("batch norm", "ok", "none; networks without batch norm often need a lower learning rate")


def memory_format(backbone: Backbone) -> Iterator[Finding]:
    """The maps must be the same in channels-last memory format, which trainings use."""
    batch = random_images(backbone, *TEST_SIZE, 1)
    with torch.no_grad():
        contiguous = backbone(batch)
        maps = backbone.to(memory_format=torch.channels_last)(batch.to(memory_format=torch.channels_last))
    yield _equal("channels-last", maps, contiguous, "the maps differ: a view or reshape assumes a memory layout")


def gradients(backbone: Backbone) -> Iterator[Finding]:
    """Every map must have a gradient with respect to the first layer, and every parameter must get a gradient."""
    parameters = dict(backbone.named_parameters())
    reached: set[str] = set()
    maps = backbone(random_images(backbone, *TEST_SIZE))
    first = next(iter(parameters))
    for x, level in zip(maps, backbone.levels, strict=True):
        if not x.requires_grad:
            message = f"the map at stride {level.stride} is detached, so that no parameter learns from it"
            yield Finding("gradients", "failed", message)
            return
        found = torch.autograd.grad(x.square().mean(), list(parameters.values()), retain_graph=True, allow_unused=True)
        by_name = {name: g for name, g in zip(parameters, found, strict=True) if g is not None}
        # Zero gradients count: ResNets start with a scale of zero at the end of each branch.
        reached |= by_name.keys()
        not_finite = [name for name, gradient in by_name.items() if not gradient.isfinite().all()]
        if not_finite:
            message = f"the gradient of {not_finite[0]} from stride {level.stride} is not finite"
            yield Finding("gradients", "failed", message)
            return
        if first not in reached:
            message = f"the map at stride {level.stride} has no gradient with respect to the first layer, {first}"
            yield Finding("gradients", "failed", message)
            return
    unreached = sorted(parameters.keys() - reached)
    if unreached:
        names = ", ".join(unreached[:3]) + (", ..." if len(unreached) > 3 else "")
        yield Finding("gradients", "warning", f"{len(unreached)} parameters never learn: {names}")
    else:
        message = f"every map has one for the first layer, and all {len(parameters)} parameters get one"
        yield Finding("gradients", "ok", message)


def alignment(backbone: Backbone) -> Iterator[Finding]:
    """A change in the image must change the maps at the cells over it: anchors rely on their positions."""
    height, width = TEST_SIZE
    stride = max(level.stride for level in backbone.levels)
    distances: dict[int, list[float]] = {level.stride: [] for level in backbone.levels}
    image = random_images(backbone, height, width, 1)
    with torch.no_grad():
        maps = backbone(image)
        for row in (height * 3 // 8, height * 5 // 8):
            for column in (width * 3 // 8, width * 5 // 8):
                changed = image.clone()
                half = stride // 4
                changed[..., row - half : row + half, column - half : column + half] += 2.0
                for x, before, level in zip(backbone(changed), maps, backbone.levels, strict=True):
                    distance = _distance((x - before).abs().sum(1)[0], level.stride, row, column)
                    distances[level.stride].append(distance)
    for found, errors in distances.items():
        worst = max(errors)
        if worst != worst:
            yield Finding("alignment", "failed", f"the map at stride {found} does not react to a change in the image")
        elif worst > ALIGNED:
            state: Literal["warning", "failed"] = "warning" if worst <= NEARLY_ALIGNED else "failed"
            message = f"at stride {found}, the map reacts {worst:.1f} cells from the place of a change in the image"
            yield Finding("alignment", state, message)
    if all(max(errors) <= ALIGNED for errors in distances.values()):
        cells = ", ".join(f"{max(errors):.1f} at stride {found}" for found, errors in distances.items())
        yield Finding("alignment", "ok", f"maps react at the place of a change in the image; error in cells: {cells}")


def _distance(change: Tensor, stride: int, row: int, column: int) -> float:
    """Cells between the pixel (row, column) and the centre of the largest change in a map (h, w); NaN for no change.

    In networks with squeeze-excitation, all cells change a little. Only cells with at least half of the largest change
    count.
    """
    if change.max() <= 0:
        return float("nan")
    weights = torch.where(change >= change.max() / 2, change, torch.zeros_like(change))
    rows, columns = (torch.arange(n, dtype=weights.dtype) + 0.5 for n in weights.shape)
    y = ((weights.sum(1) * rows).sum() / weights.sum()).item() - row / stride
    x = ((weights.sum(0) * columns).sum() / weights.sum()).item() - column / stride
    return max(abs(y), abs(x))


def _equal(check: str, maps: list[Tensor], expected: list[Tensor], problem: str) -> Finding:
    """Whether the first image's maps are equal up to rounding; `problem` is the message if they are not."""
    worst = max(
        ((a[:1] - b[:1]).abs().max() / b.abs().max().clamp_min(1e-12)).item()
        for a, b in zip(maps, expected, strict=True)
    )
    if worst > ROUNDING:
        return Finding(check, "failed", f"{problem} (by {worst:.1g} of the largest value)")
    return Finding(check, "ok", f"equal up to {worst:.0e} of the largest value")


# All checks but `map_sizes`, which has an argument of its own.
CHECKS: tuple[Callable[[Backbone], Iterator[Finding]], ...] = (
    normalisation, cost, values, batch_independence, batch_norms, memory_format, gradients, alignment,
)  # fmt: skip
